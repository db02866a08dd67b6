"""The world runs backwards, and another future begins wherever it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample, Player
from engine.history import History, HistorySettings, Moment, size_of
from engine.loop import GenerationLoop
from engine.pacing import rewind_stride
from engine.scene import Scene
from tests.worldmodel import tiny
from worldmodel.session import WorldSession
from worldmodel.types import Camera, Start

from .fakes import FakeWorld

FORWARD = InputSample(held=frozenset({"forward"}))


def remembered(frames: int, settings: HistorySettings) -> tuple[WorldSession, History, list[Any]]:
    """A walk of the tiny model, and all its frames."""
    session, cameras, history = tiny.session(), tiny.walk(frames), History(settings)
    shown: list[NDArray[np.uint8]] = []
    for number, camera in enumerate(cameras):
        if number == 0:
            made = session.reset(Start(seed=5), camera)[np.newaxis]
        else:
            made = session.step([camera])
        shown.append(made)
        history.add(Moment(number, made, (camera,), Player(), Scene("a", 5)), session.snapshot)
    return session, history, shown


@pytest.mark.parametrize("index", [0, 1, 2, 3, 10, 13])
def test_going_back_restores_the_exact_state_of_any_moment(index: int) -> None:
    session, history, shown = remembered(14, HistorySettings(snapshot_every=3))
    cameras = tiny.walk(14)
    history.bring_back(session, index)
    for number in range(index + 1, 14):
        assert np.array_equal(session.step([cameras[number]]), shown[number])


def test_a_state_too_large_to_be_remembered_is_taken_once() -> None:
    taken = []

    def snapshot() -> dict[str, Any]:
        taken.append(1)
        return {"cache": np.zeros(3 * 2**20, np.uint8)}

    history, camera = History(HistorySettings(memory_mb=1.0)), tiny.walk(1)[0]
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    for number in range(5):
        history.add(Moment(number, frames, (camera,), Player(), Scene("a", 5)), snapshot)
    assert len(taken) == 1 and len(history) == 0


def test_memory_is_bounded_and_what_is_left_can_still_be_returned_to() -> None:
    one = remembered(1, HistorySettings())[1]._size
    settings = HistorySettings(memory_mb=4.5 * one / 2**20, snapshot_every=2)
    session, history, shown = remembered(40, settings)
    assert history._size <= settings.memory_mb * 2**20
    assert 4 <= len(history) < 12
    oldest = history[0].number
    history.bring_back(session, 0)
    camera = tiny.walk(40)[oldest + 1]
    assert np.array_equal(session.step([camera]), shown[oldest + 1])


def test_a_memory_too_small_for_one_moment_remembers_nothing() -> None:
    assert len(remembered(5, HistorySettings(memory_mb=0.0))[1]) == 0


def test_cutting_forgets_the_future_and_its_memory() -> None:
    _, history, _ = remembered(9, HistorySettings())
    _, shorter, _ = remembered(4, HistorySettings())
    history.cut(3)
    assert len(history) == 4 and history._size == shorter._size


def test_the_size_of_a_state_counts_all_its_arrays() -> None:
    assert size_of({"a": np.zeros(10), "b": {"c": np.zeros(3, np.uint8)}, "d": "text"}) == 83


def test_the_longer_the_key_is_held_the_faster_time_runs_back() -> None:
    assert [rewind_stride(held_s) for held_s in (0.0, 1.9, 2.0, 5.0, 60.0)] == [1, 1, 2, 3, 4]


def depth(camera: Camera) -> float:
    return float(np.linalg.inv(camera.camera_from_world)[2, 3])


class Walk:
    """A loop over a fake world, walking ahead."""

    def __init__(self, **settings: Any) -> None:
        self.world = FakeWorld(frames_per_second=100.0)
        self.sample = FORWARD
        self.loop = GenerationLoop(
            lambda: self.world,
            Scene("a", 1),
            lambda: self.sample,
            ControlSettings(),
            history=HistorySettings(**settings),
        )
        self.loop.start()

    def depth(self) -> float:
        newest = self.loop.newest()
        return 0.0 if newest is None else depth(newest.cameras[-1])

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.002)


@pytest.fixture
def walk() -> Iterator[Walk]:
    walk = Walk()
    yield walk
    walk.loop.stop()


def test_while_rewinding_the_world_runs_backwards_and_then_another_future_begins(
    walk: Walk,
) -> None:
    walk.until(lambda: walk.depth() > 1.0)
    walk.loop.set_rewinding(True)
    walk.until(lambda: walk.loop.timeline().at is not None)
    seen = [walk.depth()]
    while len(set(seen)) < 10:
        seen.append(walk.depth())
        time.sleep(0.001)
    assert all(np.diff(seen) <= 0)
    walk.sample = InputSample(held=frozenset({"right"}))
    walk.loop.set_rewinding(False)
    walk.until(lambda: walk.loop.timeline().at is None)
    walk.until(lambda: float(np.linalg.inv(walk.world.cameras[-1].camera_from_world)[0, 3]) > 0.1)
    assert walk.depth() <= seen[-1]  # what lay ahead is gone
    depths = [depth(camera) for camera in walk.world.cameras]
    assert np.all(np.diff(depths) >= 0)  # the world itself never saw a jump


def test_rewinding_stops_at_the_beginning(walk: Walk) -> None:
    walk.until(lambda: walk.depth() > 0.3)
    walk.loop.set_rewinding(True)
    walk.until(lambda: walk.loop.timeline().at == 0)
    time.sleep(0.05)
    assert walk.loop.timeline().at == 0 and walk.depth() == 0.0


def test_steps_through_the_past_and_one_step_into_the_future_while_paused(walk: Walk) -> None:
    walk.until(lambda: walk.depth() > 0.5)
    walk.loop.set_paused(True)
    time.sleep(0.05)
    here, made = walk.depth(), len(walk.world.cameras)
    walk.loop.nudge(-2)
    walk.until(lambda: walk.depth() < here)
    one_step = 2.4 / 100
    assert walk.depth() == pytest.approx(here - 2 * one_step)
    for expected in (here - one_step, here):
        walk.loop.nudge(1)
        walk.until(lambda where=expected: walk.depth() == pytest.approx(where))  # type: ignore[misc]
    assert len(walk.world.cameras) == made  # all of that was remembered
    walk.loop.nudge(1)
    walk.until(lambda: len(walk.world.cameras) == made + 1)
    time.sleep(0.05)
    assert len(walk.world.cameras) == made + 1
    assert walk.depth() == pytest.approx(here + one_step)


def test_a_reset_can_be_taken_back(walk: Walk) -> None:
    walk.until(lambda: walk.depth() > 1.0)
    walk.sample = InputSample()
    walk.loop.reset(Scene("b", 2))
    walk.until(lambda: walk.depth() == 0.0)
    walk.loop.set_rewinding(True)

    def back_in_the_first_world() -> bool:
        newest = walk.loop.newest()
        return newest is not None and newest.scene.name == "a"

    walk.until(back_in_the_first_world)


def test_without_memory_rewinding_does_no_harm() -> None:
    walk = Walk(memory_mb=0.0)
    walk.until(lambda: walk.depth() > 0.3)
    walk.loop.set_rewinding(True)
    time.sleep(0.1)
    walk.loop.set_rewinding(False)
    before = walk.depth()
    walk.until(lambda: walk.depth() > before)
    walk.loop.stop()


def test_the_view_does_not_leave_the_picture_while_time_runs_back(walk: Walk) -> None:
    walk.sample = InputSample(held=frozenset({"forward"}), look_rad=(0.01, 0.0))
    walk.until(lambda: walk.depth() > 0.5)
    walk.loop.set_rewinding(True)
    walk.until(lambda: walk.loop.timeline().at is not None)
    for _ in range(20):
        newest = walk.loop.newest()
        assert newest is not None
        view = walk.loop.view(newest).camera_from_world
        if newest is walk.loop.newest():
            assert np.array_equal(view[:3, :3], newest.cameras[-1].camera_from_world[:3, :3])
        time.sleep(0.005)
