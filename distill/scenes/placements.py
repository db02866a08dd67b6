"""Where clips begin: dry, open places with something to look at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.scenes.kinds import kind_index, kinds
from distill.scenes.terrain import DRY_M, SIZE_M
from distill.scenes.views import EYE_HEIGHT_M
from distill.scenes.world import Placement, World

CANDIDATES = 96
DIRECTIONS = 8
CLEAR_M = 1.2  # from the skin of any object
NOTICED_M = 65.0  # beyond it an object adds nothing to a view
SECTORS = 32
SLOPES = (0.07, 0.2, 0.5)  # a world of cliffs may have no gentler place
LANDMARKS = (
    *("house", "cabin", "hut", "tower", "windmill", "mill", "lighthouse", "campfire", "temple"),
    *("arch", "town_house", "slate_house", "boat", "sailing_boat", "well", "bridge"),
)
WALKED_TO = ("lighthouse", "windmill", "mill", "bridge", "campfire", "boat", "sailing_boat")


def choose_placement(world: World, rng: np.random.Generator) -> Placement:
    """One of the better of many random places and directions; always dry and free.

    Raises:
        ValueError: if the world has no such place.
    """
    for slope in SLOPES:
        x, z = _free_places(world, rng, slope)
        if len(x):
            break
    else:
        raise ValueError(f"world {world.seed}: no dry and free place found")
    yaw = rng.uniform(-math.pi, math.pi, (len(x), DIRECTIONS))
    score = (
        _openness(world, x, z, yaw) + _interest(world, x, z, yaw) + _trail_ahead(world, x, z, yaw)
    )
    score += _brightness(world, x, z)[:, None]
    score += rng.gumbel(0.0, 0.35, score.shape)  # variety: good views often, not only the best one
    best = np.unravel_index(int(score.argmax()), score.shape)
    return Placement(float(x[best[0]]), float(z[best[0]]), float(yaw[best]))


def _free_places(
    world: World, rng: np.random.Generator, slope: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    terrain, objects = world.terrain, world.objects
    x, z = rng.uniform(-0.34, 0.34, (2, CANDIDATES * 4)) * SIZE_M
    if world.biome.village_m:
        x, z = _about_village(world, x, z, rng)
    if world.landmarks:
        x, z = _about_landmarks(world, x, z, rng)
    good = (terrain.height_at(x, z) > DRY_M) & (terrain.sample(terrain.slope, x, z) < slope)
    x, z = x[good][:CANDIDATES], z[good][:CANDIDATES]
    solid = objects.footprint_m > 0.0
    distance = np.hypot(x[:, None] - objects.x_m[solid], z[:, None] - objects.z_m[solid])
    free = (distance > objects.footprint_m[solid] + CLEAR_M).all(-1)
    return x[free], z[free]


def _about_village(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Three of four places in and around the crowded houses, the others as they were."""
    assert world.biome.village_m is not None
    built = [kind_index(name) for name, _ in world.biome.houses]
    houses = np.nonzero(np.isin(world.objects.kind, built))[0]
    if not len(houses):
        return x, z
    middle_x, middle_z = (
        float(np.median(places[houses])) for places in (world.objects.x_m, world.objects.z_m)
    )
    spread = rng.normal(0.0, world.biome.village_m, (2, len(x)))
    near = np.arange(len(x)) % 4 > 0
    limit = 0.34 * SIZE_M
    return (
        np.where(near, np.clip(middle_x + spread[0], -limit, limit), x),
        np.where(near, np.clip(middle_z + spread[1], -limit, limit), z),
    )


def _about_landmarks(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every third place is a short walk from something that the prompt names."""
    seen = np.array([kind.name in WALKED_TO for kind in kinds()])
    goals = np.nonzero(seen[world.objects.kind])[0]
    if not len(goals):
        return x, z
    goal = goals[rng.integers(len(goals), size=len(x))]
    away, bearing = rng.uniform(13.0, 42.0, len(x)), rng.uniform(0.0, math.tau, len(x))
    near = np.arange(len(x)) % 3 == 1
    limit = 0.34 * SIZE_M
    return (
        np.where(near, np.clip(world.objects.x_m[goal] + away * np.sin(bearing), -limit, limit), x),
        np.where(near, np.clip(world.objects.z_m[goal] + away * np.cos(bearing), -limit, limit), z),
    )


def _openness(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64], yaw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Strongly negative for a hillside in the face, mildly for nothing but water ahead."""
    eye = world.terrain.ground_at(x, z) + EYE_HEIGHT_M
    score = np.zeros_like(yaw)
    wet = np.zeros_like(yaw)
    for spread in (-0.45, 0.0, 0.45):
        for distance in (4.0, 9.0, 20.0, 45.0):
            ahead_x = x[:, None] + distance * np.sin(yaw + spread)
            ahead_z = z[:, None] + distance * np.cos(yaw + spread)
            height = world.terrain.height_at(ahead_x, ahead_z)
            tangent = (height - eye[:, None]) / distance
            score -= np.clip(tangent - 0.12, 0.0, 0.6) * 5.0
            score -= np.clip(-0.75 - tangent, 0.0, 0.5) * 4.0
            wet += height < 0.0
    wet /= 12.0
    if world.biome.ground.island or world.biome.shore:  # by the sea, one wants to see it
        score += 1.5 * np.exp(-(((wet - 0.35) / 0.2) ** 2))
    return score - 1.6 * np.clip(wet - 0.55, 0.0, 1.0)


def _brightness(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places in the shadow of a mountain are dull."""
    east, up, north = world.light.sun
    ground = world.terrain.ground_at(x, z)
    hidden = np.zeros(len(x), bool)
    for distance in (8.0, 20.0, 45.0, 90.0):
        ahead = world.terrain.height_at(x + distance * east, z + distance * north)
        hidden |= ahead > ground + distance * up
    return np.where(hidden, -1.2, 0.0)


def _trail_ahead(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64], yaw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A path that leads into the picture."""
    score = np.zeros_like(yaw)
    for distance in (3.0, 7.0, 14.0):
        ahead_x = x[:, None] + distance * np.sin(yaw)
        ahead_z = z[:, None] + distance * np.cos(yaw)
        away = np.abs(world.terrain.sample(world.terrain.trail_m, ahead_x, ahead_z))
        score += 0.35 * np.exp(-((away / 2.5) ** 2))
    return score


def _interest(
    world: World, x: NDArray[np.float64], z: NDArray[np.float64], yaw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Objects in the middle distance, houses above all; a trunk before the nose is none."""
    objects = world.objects
    large = np.nonzero(objects.footprint_m > 0.5)[0]
    dx = objects.x_m[large] - x[:, None].astype(np.float32)
    dz = objects.z_m[large] - z[:, None].astype(np.float32)
    distance = np.hypot(dx, dz)
    place, thing = np.nonzero(distance < NOTICED_M)
    distance = distance[place, thing]
    landmark = np.array([kind.name in LANDMARKS for kind in kinds()])
    worth = np.where(landmark[objects.kind[large[thing]]], 5.0, 1.0)
    if world.landmarks:
        goal = np.array([kind.name in WALKED_TO for kind in kinds()])
        worth = np.where(goal[objects.kind[large[thing]]], 16.0, worth)
    worth = worth * np.exp(-(((distance - 20.0) / 18.0) ** 2))
    skin = np.maximum(distance - objects.footprint_m[large[thing]], 0.0)
    crowding = 3.0 * np.exp(-((skin / 4.0) ** 2))
    sector = _sector(np.arctan2(dx[place, thing], dz[place, thing]))
    ahead = _sector(yaw)
    rows = np.arange(len(x))[:, None]
    worth_ahead, crowding_ahead = (
        _around(np.bincount(place * SECTORS + sector, values, len(x) * SECTORS).astype(float))[
            rows, ahead
        ]
        for values in (worth, crowding)
    )
    return 0.7 * np.log1p(worth_ahead) - crowding_ahead


def _sector(bearing_rad: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    sector: NDArray[np.int64] = np.floor(bearing_rad * (SECTORS / math.tau)).astype(np.int64)
    return np.remainder(sector, SECTORS)


def _around(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """What lies within the field of view around each sector: (places, SECTORS)."""
    sectors = histogram.reshape(-1, SECTORS)
    total = np.zeros_like(sectors)
    for shift in range(-3, 4):
        total += np.roll(sectors, shift, axis=1)
    return total
