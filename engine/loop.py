"""The generation thread: just in time, from the newest input, never a queue of stale controls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample, Player, look_ahead, walk
from engine.pacing import RateMeter, next_step_s, step_period_s
from engine.scene import Scene
from worldmodel.types import Camera, GeneratorSpec, StepTimes, WorldGenerator

Prepare = Callable[[], WorldGenerator]  # returns it warm, at the rate of play


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """What the newest step made; the cameras are those its frames were generated for."""

    frames: NDArray[np.uint8]  # (frames_per_step, H, W, 3); one frame after a reset
    cameras: tuple[Camera, ...]
    scene: Scene
    number: int  # steps since the loop began, resets included
    walk: int  # steps of one walk follow each other without a jump
    input_s: float | None  # when the oldest input that is new in it arrived, on the loop's clock
    began_s: float  # when that input was read
    ready_s: float  # when the frames were there
    times: StepTimes | None  # None if nothing had to be generated

    def camera_of(self, frame: int) -> Camera:
        """What frame number `frame` of this step was generated for."""
        return self.cameras[frame * len(self.cameras) // len(self.frames)]


@dataclass(frozen=True, slots=True)
class LoopStats:
    frames_per_second: float
    step_s: float  # of the newest step


class GenerationLoop:
    """Owns the world and its thread. Other threads ask for the newest frames and leave requests.

    An error on the thread ends the loop and is raised again by `newest`.
    """

    def __init__(
        self,
        prepare: Prepare,
        scene: Scene,
        read_input: Callable[[], InputSample],
        settings: ControlSettings,
        *,
        peek_input: Callable[[], InputSample] = InputSample,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read_input` takes the input of a step, `peek_input` looks at it and leaves it there."""
        self._prepare = prepare
        self._read_input = read_input
        self._peek_input = peek_input
        self._settings = settings
        self._on_change = on_change
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below
        self._requested: Scene | None = scene
        self._newest: Generated | None = None
        self._spec: GeneratorSpec | None = None
        self._error: Exception | None = None
        self._player = Player()
        self._walk = 0
        self._paused = False
        self._stopping = False
        self._meter = RateMeter()
        self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the running step finish, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def reset(self, scene: Scene) -> None:
        """Begin `scene` before the next step; of several requests the newest counts."""
        with self._changed:
            self._requested = scene
            self._changed.notify_all()

    def set_paused(self, paused: bool) -> None:
        with self._changed:
            self._paused = paused
            self._meter.clear()
            self._changed.notify_all()

    def newest(self) -> Generated | None:
        with self._changed:
            if self._error is not None:
                raise self._error
            return self._newest

    def view(self, newest: Generated) -> Camera:
        """The camera of this instant; the last of `newest` if the walk has jumped since.

        Input is read and the player moved under one lock, so nothing is missed or counted twice.
        """
        with self._changed:
            if self._spec is None or newest.walk != self._walk:
                return newest.cameras[-1]
            look = self._peek_input().look_rad
            seen = look_ahead(self._player, look, self._settings, self._spec)
            return Camera(seen.camera_from_world(), self._spec.intrinsics)

    @property
    def spec(self) -> GeneratorSpec | None:
        """None until the model is open."""
        with self._changed:
            return self._spec

    def stats(self) -> LoopStats:
        with self._changed:
            return LoopStats(self._meter.rate(self._clock()), self._step_s)

    def _run(self) -> None:
        try:
            world = self._prepare()
            spec = world.spec
            with self._changed:
                self._spec = spec
            self._generate(world, spec)
        except Exception as error:  # noqa: BLE001 - any error is raised again by `newest`
            with self._changed:
                self._error = error
            self._on_change()

    def _generate(self, world: WorldGenerator, spec: GeneratorSpec) -> None:
        scene = None
        due_s = self._clock()
        while self._wait_until(due_s):
            began_s = self._clock()
            due_s = next_step_s(due_s, began_s, step_period_s(spec))
            requested = self._take_request()
            if requested is not None:
                scene = requested
                cameras, input_s = [self._stand_at_start(spec)], None
                frames = world.reset(scene.start(spec), cameras[0])[np.newaxis]
            else:
                assert scene is not None, "the loop starts with a request"
                cameras, input_s = self._move(spec)
                frames = world.step(cameras)
            self._publish(frames, cameras, scene, (input_s, began_s), world.times())
            world.settle()

    def _stand_at_start(self, spec: GeneratorSpec) -> Camera:
        with self._changed:
            self._read_input()  # what was pressed for the old world must not move the new one
            self._player = Player()
            self._walk += 1
            return self._player.camera(spec)

    def _move(self, spec: GeneratorSpec) -> tuple[list[Camera], float | None]:
        with self._changed:
            sample = self._read_input()
            self._player, cameras = walk(self._player, sample, self._settings, spec)
            return cameras, sample.oldest_s

    def _wait_until(self, due_s: float) -> bool:
        """Sleep until the next step is due and wanted; False when the loop is to end."""
        with self._changed:
            while not self._stopping:
                early_s = due_s - self._clock()
                if self._requested is not None or (not self._paused and early_s <= 0.0):
                    return True
                self._changed.wait(None if self._paused else early_s)
            return False

    def _take_request(self) -> Scene | None:
        with self._changed:
            requested, self._requested = self._requested, None
            return requested

    def _publish(
        self,
        frames: NDArray[np.uint8],
        cameras: list[Camera],
        scene: Scene,
        since_s: tuple[float | None, float],
        times: StepTimes | None,
    ) -> None:
        """`since_s`: when the input arrived, and when it was read."""
        now_s = self._clock()
        with self._changed:
            number = 0 if self._newest is None else self._newest.number + 1
            self._newest = Generated(
                frames, tuple(cameras), scene, number, self._walk, *since_s, now_s, times
            )
            self._step_s = now_s - since_s[1]
            if not self._paused:
                self._meter.add(now_s, len(frames))
        self._on_change()
