"""A machine that is too slow gets frames with fewer steps; time is an argument."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample
from engine.effort import Effort, EffortSettings
from engine.loop import GenerationLoop
from engine.scene import Scene
from engine.warmup import warm_at_held_rate
from worldmodel.types import Camera, Start

from .fakes import FakeWorld

PERIOD_S = 0.1
SETTINGS = EffortSettings(patience_s=2.0)


def _run(effort: Effort, took_s: float, seconds: float, since_s: float = 0.0) -> list[float]:
    """When the steps were lowered, frame after frame that took so long."""
    lowered, now_s = [], since_s
    while now_s < since_s + seconds:
        now_s += max(took_s, PERIOD_S)
        if effort.add(now_s, took_s, PERIOD_S):
            lowered.append(now_s)
    return lowered


def test_a_rate_that_is_held_changes_nothing() -> None:
    effort = Effort(SETTINGS, 2, 2)
    assert _run(effort, 0.1, 60.0) == [] and effort.steps == 2


def test_steps_are_halved_once_it_was_too_slow_for_the_whole_patience_and_never_below_one() -> None:
    effort = Effort(SETTINGS, 4, 4)
    first, second = _run(effort, 0.15, 30.0)
    assert first == pytest.approx(2.15, abs=0.16)
    assert second - first == pytest.approx(2.15, abs=0.16)
    assert effort.steps == 1 and effort.describe() == "1 step of 4"


def test_a_short_hiccup_changes_nothing() -> None:
    effort = Effort(SETTINGS, 2, 2)
    assert _run(effort, 0.05, 5.0) == []
    assert not effort.add(5.6, 0.5, PERIOD_S)
    assert _run(effort, 0.05, 5.0, since_s=5.6) == [] and effort.steps == 2


def test_a_rest_is_not_counted_as_slowness() -> None:
    effort = Effort(SETTINGS, 2, 2)
    assert _run(effort, 0.3, 1.5) == []
    effort.pause()
    assert not effort.add(60.0, 0.3, PERIOD_S)
    assert effort.steps == 2


def test_steps_never_rise_by_themselves() -> None:
    effort = Effort(SETTINGS, 2, 2)
    _run(effort, 0.2, 5.0)
    _run(effort, 0.01, 60.0, since_s=5.0)
    assert effort.steps == 1


def test_what_the_player_has_chosen_is_kept_however_slow_it_is() -> None:
    effort = Effort(SETTINGS, 2, 2)
    said = []
    for _ in range(3):
        effort.choose_next()
        said.append(effort.describe())
        if not effort.automatic:
            assert _run(effort, 0.5, 20.0) == []
    assert said == ["2 steps, kept", "1 step of 2, kept", "2 steps"]
    assert effort.automatic


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _SlowWorld(FakeWorld):
    """A frame takes a fixed time and so much for every step."""

    def __init__(self, clock: _Clock, fixed_s: float, step_s: float, steps: int) -> None:
        super().__init__(steps=steps, most_steps=steps)
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
        assert "too slow for 12 frames/s: 1 step of 2 now" in loop.take_lowered()
        assert loop.take_lowered() == ""
        assert loop.stats().effort == "1 step of 2"
        assert loop.choose_effort() == "2 steps, kept"
        _until(lambda: world.spec.steps == 2)
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
