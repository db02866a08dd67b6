"""Before the first frame is shown: open the model and find the world rate this machine holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from engine.controls import ControlSettings, InputSample, Player, walk
from engine.pacing import choose_world_rate
from worldmodel.types import GeneratorSpec, Start, WorldGenerator

OpenWorld = Callable[[float | None], WorldGenerator]  # takes the world's frames per second
UNTIMED_STEPS = 3  # compile, allocate, fill caches
TIMED_S = 1.0
MOST_TIMED_STEPS = 30


def open_at_held_rate(
    open_world: OpenWorld,
    start: Callable[[GeneratorSpec], Start],
    wanted_fps: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[WorldGenerator, GeneratorSpec]:
    """Open the model at `wanted_fps`, or at the rate it turns out to hold; returned warm."""
    world = open_world(wanted_fps)
    if wanted_fps is not None:
        measure_fps(world, start(world.spec), clock, timed_s=0.0)
        return world, replace(world.spec, frames_per_second=wanted_fps)
    rate = choose_world_rate(measure_fps(world, start(world.spec), clock))
    if rate != world.spec.frames_per_second:
        del world  # two models at once may not fit in memory
        world = open_world(rate)
        measure_fps(world, start(world.spec), clock, timed_s=0.0)
    return world, replace(world.spec, frames_per_second=rate)


def measure_fps(
    world: WorldGenerator,
    start: Start,
    clock: Callable[[], float] = time.monotonic,
    timed_s: float = TIMED_S,
) -> float:
    """Generated frames per second of a straight walk, after the untimed first steps."""
    spec = world.spec
    player = Player()
    forward = InputSample(held=frozenset({"forward"}))
    world.reset(start, player.camera(spec))
    began_s, steps = clock(), 0
    for index in range(UNTIMED_STEPS + MOST_TIMED_STEPS):
        if index == UNTIMED_STEPS:
            began_s = clock()
        player, cameras = walk(player, forward, ControlSettings(), spec)
        world.step(cameras)
        steps = index + 1 - UNTIMED_STEPS
        if steps >= 1 and clock() - began_s >= timed_s:
            break
    elapsed_s = max(clock() - began_s, 1e-6)
    return steps * spec.frames_per_step / elapsed_s
