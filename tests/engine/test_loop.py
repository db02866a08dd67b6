from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.controls import ControlSettings, InputSample
from engine.loop import GenerationLoop
from engine.scene import Scene
from engine.warmup import measure_fps, warm_at_held_rate
from worldmodel.types import Camera, GeneratorSpec, Start

from .fakes import FakeWorld

FORWARD = InputSample(held=frozenset({"forward"}))
FAST = 10_000.0  # frames per second: the beat never holds a test up


class GatedWorld(FakeWorld):
    """Its steps begin and end when the test says so."""

    def __init__(self) -> None:
        super().__init__(frames_per_second=FAST)
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
        self.began.release()
        assert self.may_end.acquire(timeout=5)
        return super().step(cameras)


class Keys:
    """The newest input, as the window's thread would leave it."""

    def __init__(self) -> None:
        self.sample = InputSample()

    def take(self) -> InputSample:
        taken, self.sample = self.sample, replace(self.sample, look_rad=(0.0, 0.0))
        return taken

    def peek(self) -> InputSample:
        return self.sample


def loop_for(world: FakeWorld, read: Callable[[], InputSample] = InputSample) -> GenerationLoop:
    return GenerationLoop(lambda: world, Scene("a", 1), read, ControlSettings())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


@pytest.fixture
def gated() -> Iterator[tuple[GatedWorld, Keys, GenerationLoop]]:
    world, keys = GatedWorld(), Keys()
    loop = GenerationLoop(
        lambda: world, Scene("a", 1), keys.take, ControlSettings(), peek_input=keys.peek
    )
    loop.start()
    yield world, keys, loop
    world.may_end.release(1000)
    loop.stop()


def depth(camera: Camera) -> float:
    return float(np.linalg.inv(camera.camera_from_world)[2, 3])


def test_a_key_pressed_while_a_step_runs_moves_the_very_next_step(
    gated: tuple[GatedWorld, Keys, GenerationLoop],
) -> None:
    world, keys, _ = gated
    assert world.began.acquire(timeout=5)  # step 1 runs, from no input
    keys.sample = FORWARD
    keys.sample = InputSample()
    keys.sample = FORWARD  # older states are never replayed
    world.may_end.release()
    assert world.began.acquire(timeout=5)  # step 2 runs
    keys.sample = InputSample()
    world.may_end.release()
    assert world.began.acquire(timeout=5)  # step 3 runs
    world.may_end.release()
    assert world.began.acquire(timeout=5)
    start, first, second, third = (depth(camera) for camera in world.cameras[:4])
    assert start == first == 0
    assert second > 0
    assert third == second


def yaw(camera: Camera) -> float:
    pose = np.linalg.inv(camera.camera_from_world)
    return float(np.arctan2(pose[0, 2], pose[2, 2]))


def test_the_view_turns_at_once_and_stays_when_the_frame_arrives(
    gated: tuple[GatedWorld, Keys, GenerationLoop],
) -> None:
    world, keys, loop = gated
    limit = world.spec.limits.rotation_rad_per_frame
    assert world.began.acquire(timeout=5)  # step 1 runs, from no input
    before = loop.newest()
    assert before is not None
    keys.sample = InputSample(look_rad=(2.5 * limit, 0.0))
    seen = [yaw(loop.view(before))]
    for _ in range(4):
        world.may_end.release()
        assert world.began.acquire(timeout=5)  # the next step has taken its input
        newest = loop.newest()
        assert newest is not None
        seen.append(yaw(loop.view(newest)))
    assert seen == pytest.approx([2.5 * limit] * 5)
    turned = [yaw(camera) for camera in world.cameras[1:4]]
    assert turned == pytest.approx([0.0, limit, 2 * limit])


def test_the_view_of_another_world_is_never_applied_to_the_frame_on_show(
    gated: tuple[GatedWorld, Keys, GenerationLoop],
) -> None:
    world, keys, loop = gated
    assert world.began.acquire(timeout=5)
    old = loop.newest()
    assert old is not None
    loop.reset(Scene("b", 2))
    world.may_end.release()
    wait_for(lambda: len(world.starts) == 2)
    keys.sample = InputSample(look_rad=(0.1, 0.0))
    wait_for(lambda: loop.view(old) is old.cameras[-1])


def test_pause_stops_stepping_and_a_reset_still_shows_its_first_frame() -> None:
    world = FakeWorld(frames_per_second=200.0)
    loop = loop_for(world)
    loop.start()
    wait_for(lambda: len(world.cameras) > 3)
    loop.set_paused(True)
    time.sleep(0.05)  # the step that ran may still end
    steps = len(world.cameras)
    time.sleep(0.1)
    assert len(world.cameras) == steps
    loop.reset(Scene("b", 2))
    wait_for(lambda: len(world.starts) == 2)
    assert world.starts[1].seed == 2
    wait_for(lambda: (newest := loop.newest()) is not None and newest.scene.name == "b")
    assert len(world.cameras) == 1
    loop.set_paused(False)
    wait_for(lambda: len(world.cameras) > 3)
    loop.stop()


def test_a_paused_loop_uses_no_processor_time() -> None:
    loop = loop_for(FakeWorld(frames_per_second=FAST))
    loop.set_paused(True)
    loop.start()
    wait_for(lambda: loop.newest() is not None)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    loop.stop()


def test_an_error_of_the_thread_is_raised_where_frames_are_asked_for() -> None:
    class Broken(FakeWorld):
        def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
            raise RuntimeError(f"out of memory for {len(cameras)} camera")

    loop = loop_for(Broken(frames_per_second=FAST))
    loop.start()
    with pytest.raises(RuntimeError, match="out of memory"):
        wait_for(lambda: loop.newest() is None and False)
    loop.stop()


def test_an_error_while_the_model_opens_is_raised_too() -> None:
    def prepare() -> FakeWorld:
        raise ValueError("weights are truncated")

    loop = GenerationLoop(prepare, Scene("a", 1), InputSample, ControlSettings())
    loop.start()
    with pytest.raises(ValueError, match="truncated"):
        wait_for(lambda: loop.newest() is None and False)


def test_the_loop_keeps_the_beat_of_the_world() -> None:
    world = FakeWorld(frames_per_second=50.0)
    loop = loop_for(world)
    loop.start()
    wait_for(lambda: loop.newest() is not None)
    time.sleep(0.6)
    steps = len(world.cameras) - 1
    assert 24 <= steps <= 31
    assert loop.stats().frames_per_second == pytest.approx(50.0, rel=0.15)
    loop.stop()


def test_work_that_may_wait_is_done_after_the_frame_is_published() -> None:
    seen: list[int] = []

    class Settling(FakeWorld):
        def settle(self) -> None:
            newest = loop.newest()
            assert newest is not None
            seen.append(len(self.cameras) - 1 - newest.number)

    loop = loop_for(Settling(frames_per_second=100.0))
    loop.start()
    wait_for(lambda: len(seen) > 3)
    loop.stop()
    assert set(seen) == {0}


def test_the_world_runs_at_the_rate_the_machine_holds() -> None:
    now = [0.0]

    class Timed(FakeWorld):
        def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
            now[0] += 0.05  # 20 frames per second
            return super().step(cameras)

    def start(spec: GeneratorSpec) -> Start:
        return Scene("a", 3).start(spec)

    world = Timed()
    assert measure_fps(world, Start(), lambda: now[0]) == pytest.approx(20.0)
    assert warm_at_held_rate(world, start, None, clock=lambda: now[0]) == 15.0
    assert world.spec.frames_per_second == 15.0
    assert warm_at_held_rate(world, start, 24.0, clock=lambda: now[0]) == 24.0
    assert world.spec.frames_per_second == 24.0


def test_a_world_that_commits_a_frame_with_the_next_one_is_left_alone_between_them() -> None:
    world = FakeWorld(packs=True, frames_per_second=100.0)
    loop = loop_for(world)
    loop.start()
    wait_for(lambda: len(world.cameras) > 4)
    loop.stop()
    assert world.settled == 0


def test_the_world_settles_after_every_frame_it_shows() -> None:
    world = FakeWorld()
    loop = loop_for(world)
    loop.start()
    wait_for(lambda: world.settled >= 3)
    loop.stop()
