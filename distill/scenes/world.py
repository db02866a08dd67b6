"""A world: everything that the renderer draws, a pure function of its seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distill.scenes.biomes import BIOMES, TIMES, Biome, TimeOfDay
from distill.scenes.objects import Objects, scatter
from distill.scenes.terrain import Terrain, linear, make_terrain

Vector = NDArray[np.float64]
T = TypeVar("T", Biome, TimeOfDay)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where in a world viewpoint zero stands, and which way it looks."""

    x_m: float
    z_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Sun, sky and air; linear light."""

    sun: Vector  # unit vector towards the sun: x, up, z
    sun_colour: Vector
    zenith: Vector
    horizon: Vector
    ambient: float
    glow: Vector
    bounce: Vector
    haze_per_m: float
    cloud_threshold: float
    cloud_softness: float
    cloud_offset: Vector


@dataclass(frozen=True, slots=True, eq=False)
class World:
    seed: int
    biome: Biome
    time: TimeOfDay
    terrain: Terrain
    objects: Objects
    light: Light

    @property
    def attributes(self) -> tuple[str, ...]:
        return (self.biome.name, self.time.name)

    @property
    def prompt(self) -> str:
        return ", ".join(self.attributes)


def make_world(seed: int, biome: str | None = None, time: str | None = None) -> World:
    """The world of a seed; biome and time of day are drawn from it unless they are named.

    Raises:
        ValueError: if the seed is negative or a name is not in the vocabulary.
    """
    if seed < 0:
        raise ValueError(f"a world's seed must not be negative, got {seed}")
    rng = np.random.default_rng(seed)
    drawn_biome = BIOMES[int(rng.integers(len(BIOMES)))]
    drawn_time = TIMES[int(rng.choice(len(TIMES), p=(0.46, 0.24, 0.30)))]
    chosen_biome = drawn_biome if biome is None else _named(BIOMES, biome)
    chosen_time = drawn_time if time is None else _named(TIMES, time)
    terrain = make_terrain(chosen_biome, rng)
    objects = scatter(chosen_biome, terrain, rng)
    light = _light(chosen_biome, chosen_time, rng)
    return World(seed, chosen_biome, chosen_time, terrain, objects, light)


def _named(choices: tuple[T, ...], name: str) -> T:
    for choice in choices:
        if choice.name == name:
            return choice
    raise ValueError(f"unknown attribute {name!r}; known: {', '.join(c.name for c in choices)}")


def _light(biome: Biome, time: TimeOfDay, rng: np.random.Generator) -> Light:
    elevation = math.radians(rng.uniform(*time.elevation_deg))
    azimuth = rng.uniform(0.0, math.tau)
    level = math.cos(elevation)
    sun = np.array([level * math.cos(azimuth), math.sin(elevation), level * math.sin(azimuth)])
    tint = rng.uniform(0.96, 1.04, 3)
    share = time.sky_share
    zenith = (1.0 - share) * linear(biome.zenith) + share * linear(time.zenith)
    horizon = ((1.0 - share) * linear(biome.horizon) + share * linear(time.horizon)) * tint
    ground = linear(biome.grass)
    return Light(
        sun=sun,
        sun_colour=np.array(time.sun) * rng.uniform(0.92, 1.06),
        zenith=zenith * tint,
        horizon=horizon,
        ambient=time.ambient,
        glow=np.array(time.glow) * rng.uniform(0.8, 1.1),
        bounce=ground * (0.36 + 0.36 * math.sin(elevation)) + 0.06,
        haze_per_m=rng.uniform(*time.haze_per_m),
        cloud_threshold=rng.uniform(0.42, 0.64),
        cloud_softness=rng.uniform(0.16, 0.30),
        cloud_offset=rng.random(2),
    )
