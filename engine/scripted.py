"""A player who needs no hands: walks, looks around, records, goes back in time, and says how it went.

What is asked of a player comes out as numbers: how often the display is drawn, how late a turn of the
head and a generated frame are seen, what recording costs, how long going back takes, what grows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pygame
from pygame.event import Event

from engine.game import Game

LEGS = 8  # of the walk; every second one is recorded, so that both meet the same machine
MOUSE_PERIOD_MS = 8  # as often as an ordinary mouse reports
LOOK_PX = 2  # each time: 0.6 rad a second
BACK_S = 10.0
OPENING_S = 300.0  # the first start compiles
FRAME_S = 60.0  # a frame that takes longer will never come
SAMPLE_PERIOD_S = 1.0
MIB = 2**20

# What is asked: see the words in `measures_of`.
LEAST_DISPLAY_HZ = 30.0
MOST_FRAME_RATIO = 1.5
MOST_RESTORE_S = 0.2
MOST_RECORDING_COST = 0.05
MOST_GROWTH = 0.05


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds of the system."""

    leg: int
    moments: int  # of the past that are remembered
    memory_mib: float
    threads: int
    files: int


@dataclass(frozen=True, slots=True)
class Leg:
    frames: int
    elapsed_s: float
    drawn: int  # pictures on the display
    worked_s: float  # of the generation thread
    recorded: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """A number and the most, or the least, that is asked of it."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        asked = f"{'at least' if self.at_least else 'at most'} {self.limit:.4g}"
        return f"{self.what}: {self.value:.4g}, asked {asked}{'' if self.met else ': NOT MET'}"


@dataclass(frozen=True, slots=True)
class Played:
    legs: tuple[Leg, ...]
    held: tuple[Held, ...]  # empty where the system does not tell
    back_s: float  # how far back in time it went
    restored_s: float  # how long the world took to be there again
    measures: tuple[Measure, ...]

    def remarks(self) -> tuple[str, ...]:
        """For people: frames a second, played and as many as the work would have allowed."""
        seconds = sum(leg.elapsed_s for leg in self.legs)
        played = sum(leg.frames for leg in self.legs) / seconds
        possible = possible_rate(self.legs, recorded=False)
        said = (f"frames a second: {played:.4g} played, {possible:.4g} possible",)
        if growth(self.held):
            return said
        return *said, "memory, threads and files: too short a walk to tell"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "measures": [asdict(m) | {"met": m.met} for m in self.measures]}


class ScriptedPlayer:
    def __init__(self, game: Game, forward: str) -> None:
        """`forward` is the key that walks ahead, as pygame calls it."""
        self._game = game
        self._forward = pygame.key.key_code(forward)
        self._held: list[Held] = []
        self._leg: int | None = None  # opening and going back are not held against it
        self._sampled_s = 0.0

    def play(self, frames: int) -> Played:
        """Play about that many frames, and close the game.

        Raises:
            ValueError: if no frames come, or the window is closed before the end.
        """
        self._game.loop.start()
        try:
            self._until(lambda: self._game.loop.newest() is not None, OPENING_S)
            with tempfile.TemporaryDirectory() as folder:
                steps = frames // LEGS // self._frames_per_step
                legs = tuple(self._walk(steps, number, Path(folder)) for number in range(LEGS))
            self._leg = None
            back_s, restored_s = self._go_back()
            held = tuple(self._held)
            return Played(legs, held, back_s, restored_s, self._measures(legs, held, restored_s))
        finally:
            pygame.time.set_timer(pygame.MOUSEMOTION, 0)
            self._game.close()

    @property
    def _frames_per_step(self) -> int:
        spec = self._game.loop.spec
        assert spec is not None, "the model is open"
        return spec.frames_per_step

    def _walk(self, steps: int, number: int, folder: Path) -> Leg:
        """Ahead, with a mouse that never rests; the legs turn right and left by turns."""
        game, recorded = self._game, number % 2 == 1
        self._leg = number
        if recorded:
            game.keepsakes.record(folder / str(number))
        self._press(pygame.KEYDOWN, LOOK_PX if number // 2 % 2 else -LOOK_PX)
        before, drawn, began_s = game.loop.stats(), game.screen.meter.total, time.monotonic()
        for step in range(1, steps + 1):
            self._until(lambda: game.loop.stats().steps >= before.steps + step, FRAME_S)  # noqa: B023
        after, drawn, ended_s = game.loop.stats(), game.screen.meter.total - drawn, time.monotonic()
        self._press(pygame.KEYUP, 0)
        if recorded:
            game.keepsakes.stop_recording()
        made = (after.steps - before.steps) * self._frames_per_step
        return Leg(made, ended_s - began_s, drawn, after.worked_s - before.worked_s, recorded)

    def _press(self, kind: int, look_px: int) -> None:
        pygame.event.post(Event(kind, key=self._forward))
        motion = Event(pygame.MOUSEMOTION, rel=(look_px, 0), pos=(0, 0), buttons=(0, 0, 0))
        pygame.time.set_timer(motion, MOUSE_PERIOD_MS if look_px else 0)

    def _go_back(self) -> tuple[float, float]:
        """Through the past, and on from there: how far in seconds, and how long that took."""
        loop = self._game.loop
        timeline = loop.timeline()
        moments = min(round(BACK_S / timeline.seconds_per_moment), timeline.moments - 1)
        loop.nudge(-moments)
        self._until(lambda: loop.stats().restored_s > 0.0, FRAME_S)
        return moments * timeline.seconds_per_moment, loop.stats().restored_s

    def _until(self, condition: Callable[[], bool], patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        while not condition():
            self._game.tick()
            if self._game.leaving:  # the window was closed, or the process asked to end
                raise ValueError("closed before the walk was over; nothing is reported")
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise ValueError(f"no frame for {patience_s:.0f} s")
            self._sample(now_s)

    def _sample(self, now_s: float) -> None:
        due = now_s - self._sampled_s >= SAMPLE_PERIOD_S
        if due and self._leg is not None and sys.platform == "linux":
            self._sampled_s = now_s
            self._held.append(held_now(self._leg, self._game.loop.timeline().moments))

    def _measures(
        self, legs: tuple[Leg, ...], held: tuple[Held, ...], restored_s: float
    ) -> tuple[Measure, ...]:
        latency = self._game.screen.latency
        stages = latency.percentiles()
        display_hz = sum(leg.drawn for leg in legs) / sum(leg.elapsed_s for leg in legs)
        recorded, plain = (possible_rate(legs, recorded=which) for which in (True, False))
        turn_ms = 1000.0 / display_hz + stages["draw"].p95_ms
        return (
            Measure("pictures a second on the display", display_hz, LEAST_DISPLAY_HZ, True),
            Measure(
                "a turn on the display, p95 ms; a picture and its drawing",
                stages["look"].p95_ms,
                turn_ms,
            ),
            Measure(
                "a frame on the display, p95, shares of its generation",
                latency.frame_ratio_p95(),
                MOST_FRAME_RATIO,
            ),
            Measure("going back in time, s", restored_s, MOST_RESTORE_S),
            Measure(
                "recording, share of the frames a second", 1 - recorded / plain, MOST_RECORDING_COST
            ),
            *growth(held),
        )


def possible_rate(legs: tuple[Leg, ...], *, recorded: bool) -> float:
    """Frames a second of work, however long the world's clock rested between them."""
    chosen = [leg for leg in legs if leg.recorded == recorded]
    return sum(leg.frames for leg in chosen) / sum(leg.worked_s for leg in chosen)


def growth(held: tuple[Held, ...]) -> tuple[Measure, ...]:
    """The last two legs against the second two, when everything has been opened that will be.

    Empty if a walk was too short: not seen in all of them, or with a past that had not filled up.
    """
    by_leg = {leg: [one for one in held if one.leg == leg] for leg in (2, 3, LEGS - 2, LEGS - 1)}
    if not all(by_leg.values()):
        return ()
    early, late = by_leg[2] + by_leg[3], by_leg[LEGS - 2] + by_leg[LEGS - 1]
    if max(one.moments for one in late) > 1.1 * max(one.moments for one in early):
        return ()
    memory = max(one.memory_mib for one in late) / max(one.memory_mib for one in early)
    threads = max(one.threads for one in late) - max(one.threads for one in early)
    files = max(one.files for one in late) - max(one.files for one in early)
    return (
        Measure("memory grown, share", memory - 1.0, MOST_GROWTH),
        Measure("threads grown", threads, 0.0),
        Measure("files grown", files, 0.0),
    )


def held_now(leg: int, moments: int) -> Held:
    """Of this process; on Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    kib = float(facts["VmRSS"].split()[0])
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Held(leg, moments, kib * 1024 / MIB, int(facts["Threads"]), files)
