"""Before the first frame is shown: open the model and find the world rate this machine holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.controls import ControlSettings, InputSample, Player, walk
from engine.effort import EffortSettings, fewer
from engine.pacing import MARGIN, choose_world_rate
from worldmodel.types import GeneratorSpec, Start, WorldGenerator

UNTIMED_STEPS = 3  # compile, allocate, fill caches
TIMED_S = 1.0
MOST_TIMED_STEPS = 30


class Waiting:
    """What the player reads until the world is there; one thread writes it, another shows it."""

    def __init__(self) -> None:
        self.words = "waking up the world"

    def tell(self, words: str) -> None:
        self.words = words


def warm_at_held_rate(
    world: WorldGenerator,
    start: Callable[[GeneratorSpec], Start],
    wanted_fps: float | None,
    clock: Callable[[], float] = time.monotonic,
    effort: EffortSettings | None = None,
) -> float:
    """Warm `world` up and set its rate to `wanted_fps`, or to the one it turns out to hold.

    Where that would be slower than `effort` allows, frames get fewer denoising steps first.
    """
    timed_s = TIMED_S if wanted_fps is None else 0.0
    measured_fps = measure_fps(world, start(world.spec), clock, timed_s)
    while wanted_fps is None and _too_slow(measured_fps, world.spec.steps, effort):
        world.set_steps(fewer(world.spec.steps))
        measured_fps = measure_fps(world, start(world.spec), clock, timed_s)
    rate = choose_world_rate(measured_fps) if wanted_fps is None else wanted_fps
    world.set_rate(rate)
    return rate


def _too_slow(measured_fps: float, steps: int, effort: EffortSettings | None) -> bool:
    if effort is None or not effort.auto or steps <= 1:
        return False
    return measured_fps < MARGIN * effort.slowest_frames_per_second


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
