"""How much work a frame is: less where the machine does not hold the world's rate, in stages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from worldmodel.types import GeneratorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortSettings:
    auto: bool = True  # less work a frame where the machine is too slow
    patience_s: float = 3.0  # how long it must have been too slow
    recovery_s: float = 20.0  # how long there must be room before what was given up comes back
    slowest_frames_per_second: float = 8.0  # below it, a world begins with fewer steps instead

    def __post_init__(self) -> None:
        for name in ("patience_s", "recovery_s"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Level:
    """0 where a generator has no such thing."""

    steps: int  # denoising steps of a frame
    window: int  # newest frames remembered


def levels_of(spec: GeneratorSpec) -> tuple[Level, ...]:
    """From most to least work: first the steps are halved, down to one, then memory is shortened."""
    steps = [spec.most_steps]
    while steps[-1] > 1:
        steps.append(fewer(steps[-1]))
    windows = spec.windows or (spec.window_frames,)
    whole = [Level(count, windows[0]) for count in steps]
    return (*whole, *(Level(steps[-1], window) for window in windows[1:]))


class Effort:
    """Goes down a level when it was too slow for a while, and up again when there is plenty of room.

    Room is what the level above would need, by how much dearer it was when it was left. A level that
    came back too early has to wait twice as long the next time: a picture that changes back and forth
    is worse than a soft one. The player can ask for any level (`choose_next`); then it is kept.
    """

    TOO_SLOW = 1.05  # shares of the time there is
    ROOM = 0.85

    def __init__(
        self, settings: EffortSettings, levels: tuple[Level, ...], steps: int | None = None
    ) -> None:
        """`steps`: those of the level to begin with, where it is not the first."""
        self._settings = settings
        self._levels = levels
        self._at = next((i for i, level in enumerate(levels) if level.steps == steps), 0)
        self.automatic = settings.auto
        self._busy: deque[tuple[float, float]] = deque()  # when a step ended, share of its time
        self._dearer = [_bound(above, below) for above, below in pairwise(levels)]
        self._left_at: float | None = None  # the share when the level above was left, till compared
        self._room_since_s: float | None = None
        self._recovery_s = settings.recovery_s
        self._came_back = False

    @property
    def level(self) -> Level:
        return self._levels[self._at]

    @property
    def choices(self) -> int:
        return len(self._levels)

    def add(self, now_s: float, took_s: float, period_s: float) -> Literal["", "lowered", "raised"]:
        """A step ended that took `took_s` of `period_s`: what becomes of the level from now on."""
        self._busy.append((now_s, took_s / period_s))
        if now_s - self._busy[0][0] < self._settings.patience_s:
            return ""
        mean = sum(share for _, share in self._busy) / len(self._busy)
        while self._busy and self._busy[0][0] <= now_s - self._settings.patience_s:
            self._busy.popleft()
        if not self.automatic:
            return ""
        self._compare(mean)
        if mean > self.TOO_SLOW and self._at + 1 < len(self._levels):
            self._lower(mean)
            return "lowered"
        return "raised" if self._has_room(now_s, mean) else ""

    def pause(self) -> None:
        """What was measured before a rest says nothing about the time after it."""
        self._busy.clear()
        self._left_at = self._room_since_s = None

    def choose_next(self) -> None:
        """Automatic, then the most work kept, then less and less, then automatic again."""
        self.pause()
        if self.automatic:
            self.automatic, self._at = False, 0
        elif self._at + 1 < len(self._levels):
            self._at += 1
        else:
            self.automatic, self._at = True, 0

    def describe(self) -> str:
        """For the player."""
        now, most = self.level, self._levels[0]
        parts = []
        if most.steps > 1:
            steps = f"{now.steps} step{'s' if now.steps > 1 else ''}"
            parts.append(steps if now.steps == most.steps else f"{steps} of {most.steps}")
        if now.window < most.window:
            parts.append(f"{now.window} of {most.window} frames remembered")
        elif not parts:
            parts.append(f"{now.window} frames remembered")
        words = ", ".join(parts)
        return words if self.automatic else f"{words}, kept"

    def _compare(self, mean: float) -> None:
        """How much dearer the level above was; never more than it can be."""
        if self._left_at is not None and self._at > 0:
            above = self._at - 1
            bound = _bound(self._levels[above], self._levels[self._at])
            self._dearer[above] = min(max(self._left_at / mean, 1.0), bound)
        self._left_at = None

    def _lower(self, mean: float) -> None:
        if self._came_back:
            self._recovery_s *= 2.0
        self._came_back = False
        self.pause()
        self._at += 1
        self._left_at = mean

    def _has_room(self, now_s: float, mean: float) -> bool:
        """Goes up a level if there has been room for it long enough."""
        if self._at == 0 or mean * self._dearer[self._at - 1] > self.ROOM:
            self._room_since_s = None
            return False
        self._room_since_s = now_s if self._room_since_s is None else self._room_since_s
        if now_s - self._room_since_s < self._recovery_s:
            return False
        self.pause()
        self._at -= 1
        self._came_back = True
        return True


def fewer(steps: int) -> int:
    return max(1, steps // 2)


def _bound(above: Level, below: Level) -> float:
    """How many times the work of `below` the level above can be: as if nothing had a fixed cost."""
    return max(above.steps / max(below.steps, 1), above.window / max(below.window, 1), 1.0)
