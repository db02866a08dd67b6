"""The generation thread: just in time, from the newest input, never a queue of stale controls."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample, Player, look_ahead, walk
from engine.effort import Effort, EffortSettings, Level, levels_of
from engine.history import HistorySettings, Moment
from engine.pacing import RateMeter, next_step_s, rewind_stride, step_period_s
from engine.prompt import check_words
from engine.recording import Recorder
from engine.saves import SavedGame, check_fits
from engine.scene import Scene
from engine.time_travel import Timeline, TimeTravel
from worldmodel.types import Camera, GeneratorSpec, StepTimes, WorldGenerator

PATIENCE = 5  # niceness of the generation thread
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
    steps: int  # that were not only shown again ...
    worked_s: float  # ... and the work they were, up to being committed
    restored_s: float = 0.0  # how long the newest return from the past took
    effort: str = ""  # how much work a frame is


class GenerationLoop:
    """Owns the world and its thread. Other threads ask for the newest frames and leave requests.

    An error on the thread ends the loop and is raised again by `newest`.
    """

    def __init__(
        self,
        prepare: Prepare,
        begin: Scene | SavedGame,
        read_input: Callable[[], InputSample],
        settings: ControlSettings,
        *,
        peek_input: Callable[[], InputSample] = InputSample,
        history: HistorySettings | None = None,
        effort: EffortSettings | None = None,
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
        self._requested: Scene | SavedGame | None = begin
        self._newest: Generated | None = None
        self._spec: GeneratorSpec | None = None
        self._error: Exception | None = None
        self._player = Player()
        self._walk = 0
        self._scene = scene_of(begin)
        self._past = TimeTravel(history or HistorySettings())  # of the thread alone
        self._effort_settings = effort or EffortSettings()
        self._effort = Effort(self._effort_settings, (Level(0, 0),))  # until the model is open
        self._effort_news = ""  # what has become of the level, until somebody asks
        self._timeline = Timeline(0, None, 0.0)
        self._rewinding_since_s: float | None = None
        self._nudges = 0
        self._prompt_wanted: str | None = None
        self._recorder: Recorder | None = None  # of the thread alone
        self._recorder_wanted: Recorder | None = None
        self._save_wanted = False
        self._saved: SavedGame | None = None
        self._paused = False
        self._stopping = False
        self._meter = RateMeter()
        self._step_s = 0.0
        self._steps, self._worked_s, self._restored_s = 0, 0.0, 0.0
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the running step finish, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def reset(self, begin: Scene | SavedGame) -> None:
        """Begin anew, or go on from a save, before the next step; the newest request counts.

        Raises:
            ValueError: if the save was made by another model.
        """
        with self._changed:
            if isinstance(begin, SavedGame) and self._spec is not None:
                check_fits(begin, self._spec)
            self._requested, self._prompt_wanted = begin, None
            self._changed.notify_all()

    def set_rewinding(self, rewinding: bool) -> None:
        """While it is on the world runs backwards; then it goes on from where it has come to."""
        with self._changed:
            if rewinding == (self._rewinding_since_s is not None):
                return
            self._rewinding_since_s = self._clock() if rewinding else None
            self._changed.notify_all()

    def nudge(self, moments: int) -> None:
        """Go that far through the remembered past, forward or back; at its end, make one step."""
        with self._changed:
            self._nudges += moments
            self._changed.notify_all()

    def save(self) -> None:
        """Ask for the state after the moment on show; `take_saved` has it soon."""
        with self._changed:
            self._save_wanted = True
            self._changed.notify_all()

    def set_prompt(self, prompt: str) -> None:
        """Change the world's words from the next step on; the walk goes on.

        Raises:
            ValueError: naming the words that the model does not know.
        """
        with self._changed:
            check_words(prompt, () if self._spec is None else self._spec.vocabulary)
            self._prompt_wanted = prompt
            self._changed.notify_all()

    def record(self, recorder: Recorder | None) -> None:
        """Tell `recorder` everything from the next step on; None: no more."""
        with self._changed:
            self._recorder_wanted = recorder
            self._changed.notify_all()

    def choose_effort(self) -> str:
        """The next choice of how much work a frame is, as words; empty if the model leaves none."""
        with self._changed:
            if self._effort.choices <= 1:
                return ""
            self._effort.choose_next()
            return self._effort.describe()

    def take_effort_news(self) -> str:
        """Words for the player if frames have become less work, or more again, since the last call."""
        with self._changed:
            news, self._effort_news = self._effort_news, ""
            return news

    def take_saved(self) -> SavedGame | None:
        with self._changed:
            saved, self._saved = self._saved, None
            return saved

    def timeline(self) -> Timeline:
        with self._changed:
            return self._timeline

    def set_paused(self, paused: bool) -> None:
        with self._changed:
            self._paused = paused
            self._nudges = 0
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
    def scene(self) -> Scene:
        """What is played, or will be as soon as the newest requests are met."""
        with self._changed:
            scene = self._scene if self._requested is None else scene_of(self._requested)
            prompt = scene.prompt if self._prompt_wanted is None else self._prompt_wanted
            return scene if prompt == scene.prompt else replace(scene, prompt=prompt)

    @property
    def spec(self) -> GeneratorSpec | None:
        """None until the model is open."""
        with self._changed:
            return self._spec

    def stats(self) -> LoopStats:
        with self._changed:
            effort = self._effort.describe() if self._effort.choices > 1 else ""
            rate = self._meter.rate(self._clock())
            return LoopStats(
                rate, self._step_s, self._steps, self._worked_s, self._restored_s, effort
            )

    def _run(self) -> None:
        try:
            _let_others_go_first()
            world = self._prepare()
            spec = world.spec
            with self._changed:
                self._spec = spec
                self._effort = Effort(self._effort_settings, levels_of(spec), spec.steps)
            self._generate(world, spec)
        except Exception as error:  # noqa: BLE001 - any error is raised again by `newest`
            with self._changed:
                self._error = error
            self._on_change()

    def _generate(self, world: WorldGenerator, spec: GeneratorSpec) -> None:
        due_s = self._clock()
        while self._wait_until(due_s):
            began_s = self._clock()
            due_s = next_step_s(due_s, began_s, step_period_s(spec))
            requested, save, moments = self._take_requests(began_s)
            self._change_recorder(world, spec, beginning=requested is not None)
            if requested is not None:
                self._begin(world, spec, requested, began_s)
            elif save:
                self._save(world, spec)
            elif self._past.leads(moments):
                self._show_past(moments)
            else:
                if self._past.in_the_past:
                    self._branch(world, spec)
                self._step(world, spec, began_s)
            if not spec.packs:
                world.settle()
            self._watch(spec, began_s)

    def _begin(
        self,
        world: WorldGenerator,
        spec: GeneratorSpec,
        begin: Scene | SavedGame,
        began_s: float,
    ) -> None:
        if isinstance(begin, SavedGame):
            check_fits(begin, spec)
            world.restore(begin.state)
            player = replace(begin.player, owed_yaw_rad=0.0, owed_pitch_rad=0.0)
            frames, cameras = begin.frames, list(begin.cameras)
        else:
            player = Player()
            cameras = [player.camera(spec)]
            with self._changed:
                self._walk += 1  # from here on the view is not that of the frame on show
            frames = world.reset(begin.start(spec), cameras[0])[np.newaxis]
        with self._changed:
            self._read_input()  # what was pressed for the old world must not move the new one
            self._walk += 1
            self._player = player
            self._publish(frames, cameras, (None, began_s), None)
        newest = self._remember(world, jump=True)
        if self._recorder is not None:
            self._recorder.begin(newest.number, begin, cameras, frames, world.spec)

    def _step(self, world: WorldGenerator, spec: GeneratorSpec, began_s: float) -> None:
        changed = self._change_effort(world) | self._change_prompt(world)
        sample, cameras = self._move(spec)
        frames = world.step(cameras)
        times = world.times()
        self._publish(frames, cameras, (sample.oldest_s, began_s), times)
        if self._recorder is not None and self._newest is not None:
            self._recorder.step(self._newest.number, sample, cameras, frames)
        if times is not None:  # a resting camera in a resting world makes no new moment
            self._remember(world, jump=changed)

    def _change_effort(self, world: WorldGenerator) -> bool:
        """Also after a restore: a snapshot brings back the level it was made with."""
        with self._changed:
            level = self._effort.level
        new_steps = level.steps != world.spec.steps
        new_window = level.window != world.spec.window_frames
        if new_steps:
            world.set_steps(level.steps)
            if self._recorder is not None:
                self._recorder.steps(level.steps)
        if new_window:
            world.set_window(level.window)
            if self._recorder is not None:
                self._recorder.window(level.window)
        return new_steps or new_window

    def _watch(self, spec: GeneratorSpec, began_s: float) -> None:
        """Are frames made as fast as the world's clock wants them?"""
        now_s = self._clock()
        with self._changed:
            newest = self._newest
            if newest is None or newest.times is None or newest.began_s != began_s:
                self._effort.pause()
                return
            self._steps += 1
            self._worked_s += now_s - began_s
            change = self._effort.add(now_s, now_s - began_s, step_period_s(spec))
            if change:
                why = f"too slow for {spec.frames_per_second:g} frames/s"
                why = why if change == "lowered" else "fast enough again"
                self._effort_news = f"{why}: {self._effort.describe()} now"

    def _change_prompt(self, world: WorldGenerator) -> bool:
        with self._changed:
            prompt, self._prompt_wanted = self._prompt_wanted, None
            if prompt is None:
                return False
            self._scene = replace(self._scene, prompt=prompt)
        world.set_prompt(prompt)
        if self._recorder is not None:
            self._recorder.prompt(prompt)
        return True

    def _remember(self, world: WorldGenerator, jump: bool = False) -> Generated:
        newest = self._newest
        assert newest is not None, "a frame was published"
        moment = Moment(newest.number, newest.frames, newest.cameras, self._player, newest.scene)
        self._past.remember(moment, world.snapshot, jump=jump)
        self._tell_timeline()
        return newest

    def _show_past(self, moments: int) -> None:
        """Go `moments` through the past and show what is there."""
        moment = self._past.go(moments)
        if moment is None:
            return  # nothing fits into the memory
        with self._changed:
            self._player = Player(moment.player.viewpoint)
            self._scene = moment.scene
            self._publish(moment.frames, list(moment.cameras), (None, self._clock()), None)
        self._tell_timeline()
        if self._recorder is not None and self._recorder.knows(moment.number):
            self._recorder.past(moment.number, moment.frames)

    def _branch(self, world: WorldGenerator, spec: GeneratorSpec) -> None:
        """Go on from there: what came after it is forgotten."""
        began_s = self._clock()
        number = self._past.branch(world)
        with self._changed:
            self._restored_s = self._clock() - began_s
        self._tell_timeline()
        if self._recorder is None:
            return
        if self._recorder.knows(number):
            self._recorder.branch(number)
        else:
            self._record_from_here(world, spec)

    def _change_recorder(
        self, world: WorldGenerator, spec: GeneratorSpec, *, beginning: bool
    ) -> None:
        with self._changed:
            wanted = self._recorder_wanted
        if wanted is self._recorder:
            return
        self._recorder = wanted
        if wanted is not None and not self._past.in_the_past and not beginning:
            self._record_from_here(world, spec)

    def _record_from_here(self, world: WorldGenerator, spec: GeneratorSpec) -> None:
        assert self._recorder is not None
        saved = self._saved_game(world, spec)
        newest = self._newest
        assert newest is not None, "the loop starts with a request"
        self._recorder.begin(newest.number, saved, saved.cameras, saved.frames, world.spec)

    def _save(self, world: WorldGenerator, spec: GeneratorSpec) -> None:
        self._past.bring_back(world)  # and again when play goes on from there
        saved = self._saved_game(world, spec)
        with self._changed:
            self._saved = saved
        self._on_change()

    def _saved_game(self, world: WorldGenerator, spec: GeneratorSpec) -> SavedGame:
        """The world as it stands, with the frame on show."""
        newest = self._newest
        assert newest is not None, "the loop starts with a request"
        return SavedGame(
            spec.name,
            spec.weights,
            newest.scene,
            self._player,
            newest.frames,
            newest.cameras,
            world.snapshot(),
        )

    def _tell_timeline(self) -> None:
        assert self._spec is not None, "the model is open"
        with self._changed:
            self._timeline = self._past.timeline(step_period_s(self._spec))

    def _move(self, spec: GeneratorSpec) -> tuple[InputSample, list[Camera]]:
        with self._changed:
            sample = self._read_input()
            self._player, cameras = walk(self._player, sample, self._settings, spec)
            return sample, cameras

    def _wait_until(self, due_s: float) -> bool:
        """Sleep until the next step is due and wanted; False when the loop is to end."""
        with self._changed:
            while not self._stopping:
                early_s = due_s - self._clock()
                if self._requested is not None or self._save_wanted or self._nudges:
                    return True
                moving = not self._paused or self._rewinding_since_s is not None
                if moving and early_s <= 0.0:
                    return True
                self._changed.wait(early_s if moving else None)
            return False

    def _take_requests(self, now_s: float) -> tuple[Scene | SavedGame | None, bool, int]:
        """What to begin with, whether to save, and how many moments to go forward (back: < 0)."""
        with self._changed:
            if self._requested is not None:
                requested, self._requested = self._requested, None
                self._scene = scene_of(requested)
                self._nudges = 0
                return requested, False, 0
            if self._save_wanted:
                self._save_wanted = False
                return None, True, 0
            moments, self._nudges = self._nudges, 0
            if self._rewinding_since_s is not None:
                moments = -rewind_stride(now_s - self._rewinding_since_s)
            return None, False, moments

    def _publish(
        self,
        frames: NDArray[np.uint8],
        cameras: list[Camera],
        since_s: tuple[float | None, float],
        times: StepTimes | None,
    ) -> None:
        """`since_s`: when the input arrived, and when it was read."""
        now_s = self._clock()
        with self._changed:
            number = 0 if self._newest is None else self._newest.number + 1
            self._newest = Generated(
                frames, tuple(cameras), self._scene, number, self._walk, *since_s, now_s, times
            )
            self._step_s = now_s - since_s[1]
            if not self._paused and self._rewinding_since_s is None:
                self._meter.add(now_s, len(frames))
        self._on_change()


def scene_of(begin: Scene | SavedGame) -> Scene:
    return begin.scene if isinstance(begin, SavedGame) else begin


def _let_others_go_first() -> None:
    """The picture of this instant goes before the next one of the model.

    So do the threads that a runtime starts from here. Elsewhere niceness is the whole process's.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = max(PATIENCE, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
