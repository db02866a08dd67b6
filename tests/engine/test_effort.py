"""A machine that is too slow gets frames with fewer steps; time is an argument."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample
from engine.effort import Effort, EffortSettings, Level, levels_of
from engine.loop import GenerationLoop
from engine.scene import Scene
from engine.warmup import warm_at_held_rate
from worldmodel.types import Camera, Start

from .fakes import FakeWorld

PERIOD_S = 0.1
SETTINGS = EffortSettings(patience_s=2.0, recovery_s=10.0)
TWO_STEPS = (Level(2, 12), Level(1, 12))
LEVELS = (*TWO_STEPS, Level(1, 8), Level(1, 6))
PASS_S, FIXED_S = 0.05, 0.03  # of a frame: a denoising step, and what every frame costs


def _run(effort: Effort, took_s: float, seconds: float, since_s: float = 0.0) -> list[float]:
    """When the level changed, frame after frame that took so long."""
    changed, now_s = [], since_s
    while now_s < since_s + seconds:
        now_s += max(took_s, PERIOD_S)
        if effort.add(now_s, took_s, PERIOD_S):
            changed.append(now_s)
    return changed


def _play(effort: Effort, load: float, seconds: float, since_s: float) -> list[tuple[float, Level]]:
    """As `_run`, of a frame whose cost is that of its level, times the load of the machine."""
    changed, now_s = [], since_s
    while now_s < since_s + seconds:
        level = effort.level
        took_s = load * (FIXED_S + PASS_S * level.steps * (0.5 + 0.5 * level.window / 12))
        now_s += max(took_s, PERIOD_S)
        if effort.add(now_s, took_s, PERIOD_S):
            changed.append((now_s, effort.level))
    return changed


def test_a_rate_that_is_held_changes_nothing() -> None:
    effort = Effort(SETTINGS, TWO_STEPS)
    assert _run(effort, 0.1, 60.0) == [] and effort.level.steps == 2


def test_steps_are_halved_and_then_memory_is_shortened_while_it_is_too_slow() -> None:
    effort = Effort(SETTINGS, (Level(4, 12), Level(2, 12), *LEVELS[1:]))
    when = _run(effort, 0.15, 30.0)
    assert np.diff([0.0, *when]) == pytest.approx([2.15] * 4, abs=0.16)
    assert effort.level == Level(1, 6)
    assert effort.describe() == "1 step of 4, 6 of 12 frames remembered"


def test_a_short_hiccup_changes_nothing() -> None:
    effort = Effort(SETTINGS, TWO_STEPS)
    assert _run(effort, 0.05, 5.0) == []
    assert not effort.add(5.6, 0.5, PERIOD_S)
    assert _run(effort, 0.05, 5.0, since_s=5.6) == [] and effort.level.steps == 2


def test_a_rest_is_not_counted_as_slowness() -> None:
    effort = Effort(SETTINGS, TWO_STEPS)
    assert _run(effort, 0.3, 1.5) == []
    effort.pause()
    assert not effort.add(60.0, 0.3, PERIOD_S)
    assert effort.level.steps == 2


def test_what_was_given_up_comes_back_level_by_level_once_there_is_room_for_it() -> None:
    effort = Effort(SETTINGS, LEVELS)
    down = _play(effort, 1.9, 20.0, 0.0)  # 0.25 s of 0.1, with one step 0.15, at last 0.13
    assert [level for _, level in down] == list(LEVELS[1:])
    assert _play(effort, 1.2, 60.0, 20.0) == []  # 0.81 of the time, and 8 frames would need 0.86
    up = _play(effort, 0.6, 60.0, 80.0)
    assert [level for _, level in up] == list(LEVELS[-2::-1])
    waits = np.diff([80.0, *(when for when, _ in up)])
    assert waits.min() >= 10.0 and waits.max() < 13.0


def test_a_level_that_came_back_too_early_waits_twice_as_long_the_next_time() -> None:
    effort = Effort(SETTINGS, TWO_STEPS)
    _play(effort, 1.0, 5.0, 0.0)  # two steps need 1.3 of the time
    assert effort.level == TWO_STEPS[1]
    waits, since_s = [], 5.0
    for _ in range(3):
        ((raised, _),) = _play(effort, 0.5, 60.0, since_s)
        waits.append(raised - since_s)
        ((since_s, level),) = _play(effort, 1.0, 5.0, raised + 60.0)
        assert level == TWO_STEPS[1]
    assert waits == pytest.approx([12.0, 22.0, 42.0], abs=2.0)


def test_what_the_player_has_chosen_is_kept_however_slow_it_is() -> None:
    effort = Effort(SETTINGS, LEVELS)
    said = []
    for _ in range(5):
        effort.choose_next()
        said.append(effort.describe())
        if not effort.automatic:
            assert _run(effort, 0.5, 20.0) == [] and _run(effort, 0.01, 60.0, since_s=20.0) == []
    assert said == [
        "2 steps, kept",
        "1 step of 2, kept",
        "1 step of 2, 8 of 12 frames remembered, kept",
        "1 step of 2, 6 of 12 frames remembered, kept",
        "2 steps",
    ]
    assert effort.automatic


def test_levels_are_those_of_the_generator() -> None:
    spec = FakeWorld(steps=1, most_steps=2, window_frames=12, windows=(12, 8, 6)).spec
    assert levels_of(spec) == LEVELS
    assert Effort(SETTINGS, LEVELS, steps=1).level == LEVELS[1]  # as a slow machine begins
    fixed = FakeWorld(steps=2, most_steps=2, window_frames=12, windows=(12,)).spec
    assert levels_of(fixed) == TWO_STEPS
    assert len(levels_of(FakeWorld().spec)) == 1


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _SlowWorld(FakeWorld):
    """A frame takes a fixed time and so much for every step."""

    def __init__(
        self, clock: _Clock, fixed_s: float, step_s: float, steps: int, **changes: Any
    ) -> None:
        super().__init__(steps=steps, most_steps=steps, **changes)
        self._clock, self._fixed_s, self._step_s = clock, fixed_s, step_s

    def reset(self, start: Start, camera: Camera) -> NDArray[np.uint8]:
        self._clock.now_s += 1.0
        return super().reset(start, camera)

    def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
        self._clock.now_s += self._fixed_s + self._step_s * self.spec.steps
        return super().step(cameras)


@pytest.mark.parametrize(
    ("auto", "step_s", "steps", "rate"),
    [
        (True, 0.03, 2, 12.0),  # 14.3 frames a second: held as it is
        (True, 0.06, 1, 12.0),  # 7.7 with two steps, 14.3 with one
        (True, 0.50, 1, 6.0),  # too slow in any case: the slowest clock
        (False, 0.06, 2, 6.0),
    ],
)
def test_a_world_too_slow_from_the_start_begins_with_fewer_steps(
    auto: bool, step_s: float, steps: int, rate: float
) -> None:
    clock = _Clock()
    world = _SlowWorld(clock, 0.01, step_s, 2)
    scene = Scene("", 1)
    assert warm_at_held_rate(world, scene.start, None, clock, EffortSettings(auto=auto)) == rate
    assert world.spec.steps == steps


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def test_the_loop_lowers_the_steps_of_a_world_that_is_too_slow_and_says_so() -> None:
    clock = _Clock()
    world = _SlowWorld(clock, 0.0, 0.1, 2)  # 0.2 s for what should take a twelfth
    loop = GenerationLoop(
        lambda: world, Scene("a", 1), InputSample, ControlSettings(), effort=SETTINGS, clock=clock
    )
    loop.start()
    try:
        _until(lambda: world.spec.steps == 1)
        assert "too slow for 12 frames/s: 1 step of 2 now" in loop.take_effort_news()
        assert loop.take_effort_news() == ""
        assert loop.stats().effort == "1 step of 2"
        assert loop.choose_effort() == "2 steps, kept"
        _until(lambda: world.spec.steps == 2)
    finally:
        loop.stop()


def test_a_world_too_slow_with_one_step_remembers_fewer_frames_and_says_so() -> None:
    clock = _Clock()
    world = _SlowWorld(clock, 0.0, 0.1, 1, window_frames=12, windows=(12, 8, 6))
    loop = GenerationLoop(
        lambda: world, Scene("a", 1), InputSample, ControlSettings(), effort=SETTINGS, clock=clock
    )
    loop.start()
    try:
        _until(lambda: "6 of 12 frames remembered now" in loop.take_effort_news())
        assert world.spec.window_frames == 6
        assert loop.stats().effort == "6 of 12 frames remembered"
        assert loop.choose_effort() == "12 frames remembered, kept"
        _until(lambda: world.spec.window_frames == 12)
    finally:
        loop.stop()


def test_a_model_without_steps_leaves_no_choice() -> None:
    loop = GenerationLoop(FakeWorld, Scene("a", 1), InputSample, ControlSettings())
    loop.start()
    try:
        _until(lambda: loop.newest() is not None)
        assert loop.choose_effort() == "" and loop.stats().effort == ""
    finally:
        loop.stop()
