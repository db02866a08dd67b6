"""Clips in which the hour or the weather changes while the camera moves, and the prompt with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.scenes.mix import WorldMix, named
from distill.scenes.places import ALL_TIMES, ALL_WEATHER
from distill.scenes.world import Light, World, between, relit

# The prompt asks at once, the light follows within this many frames: what play should feel like.
FRAMES = (4, 9)


@dataclass(frozen=True, slots=True)
class Change:
    """From frame `frame` on the prompt is that of `after`; `frames` later so is the picture."""

    before: World
    after: World
    frame: int
    frames: int

    def prompts(self, count: int) -> list[str]:
        return [(self.before if i < self.frame else self.after).prompt for i in range(count)]

    def lights(self, count: int) -> list[Light]:
        """Of every frame; the same object where it is the same light."""
        return [self._light(i) for i in range(count)]

    def _light(self, index: int) -> Light:
        share = (index + 1 - self.frame) / self.frames
        if share <= 0.0:
            return self.before.light
        if share >= 1.0:
            return self.after.light
        return between(self.before.light, self.after.light, share)


def draw_change(world: World, mix: WorldMix, count: int, rng: np.random.Generator) -> Change:
    """A change of `world` to another hour or weather of the mix, or back from it."""
    times = {name: p for name, p in mix.times.items() if name != world.time.name and p > 0.0}
    weather = {name: p for name, p in mix.weather.items() if name != world.weather.name and p > 0.0}
    if times and (not weather or rng.random() < 0.5):
        other = relit(world, named(ALL_TIMES, _one_of(times, rng)), world.weather)
    else:
        other = relit(world, world.time, named(ALL_WEATHER, _one_of(weather, rng)))
    before, after = (world, other) if rng.random() < 0.5 else (other, world)
    low, high = FRAMES
    return Change(
        before, after, int(rng.integers(1, max(count, 2))), int(rng.integers(low, high + 1))
    )


def _one_of(shares: dict[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(shares), p=weights / weights.sum()))]
