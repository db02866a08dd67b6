"""What later worlds have beside what `objects.scatter` gives all: shores, boats, landmarks, birds.

They are drawn from a generator of their own, so they change nothing in the worlds without them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from distill.scenes.biomes import Biome
from distill.scenes.kinds import HUB_TO_ORIGIN, Kind, kind_index, kinds
from distill.scenes.landmarks import CHOICES
from distill.scenes.noise import Field
from distill.scenes.objects import COLUMNS, HECTARES, Objects, assemble, tints
from distill.scenes.terrain import SIZE_M, Terrain

DECK_M = 0.45  # above the water
REEDS_DEPTH_M = 0.55
YAWS = 10  # tried for each place of a bridge or jetty
Rows = NDArray[np.float64]


def enrich(
    biome: Biome,
    terrain: Terrain,
    objects: Objects,
    landmarks: float,
    moving: bool,
    rng: np.random.Generator,
) -> tuple[Objects, tuple[str, ...]]:
    """The objects with all additions, and the words for those that were asked for or are there."""
    parts = [
        (kind_index(name), _shore(biome, terrain, name, share, rng)) for name, share in biome.shore
    ]
    parts += [
        (kind_index(name), _afloat(terrain, name, count, rng)) for name, count in biome.afloat
    ]
    parts += [
        (kind_index(name), _over_water(terrain, name, count, rng))
        for name, count in biome.over_water
    ]
    for word in _drawn(landmarks, rng):
        parts += _landmark(word, terrain, objects, rng)
    parts = [(kind, rows) for kind, rows in parts if len(rows)]
    objects = assemble([*parts, *_rows_of(objects)]) if parts else objects
    if moving:
        objects = _with_turning_sails(objects)
    return objects, _words(objects) if landmarks else ()


def _drawn(landmarks: float, rng: np.random.Generator) -> list[str]:
    if not landmarks:
        return []
    count = min(int(rng.poisson(landmarks)), len(CHOICES))
    return [str(word) for word in rng.permutation(CHOICES)[:count]]


def _landmark(
    word: str, terrain: Terrain, objects: Objects, rng: np.random.Generator
) -> list[tuple[int, Rows]]:
    if word == "birds":
        return [(kind_index("bird"), _flock(terrain, rng)) for _ in range(2)]
    if word == "boats":
        return [
            (kind_index(name), _afloat(terrain, name, 2, rng)) for name in ("boat", "sailing_boat")
        ]
    if word == "bridge":
        return [(kind_index(word), _over_water(terrain, word, 1, rng))]
    return [(kind_index(word), _on_free_land(terrain, objects, word, rng))]


def _words(objects: Objects) -> tuple[str, ...]:
    """In the order of CHOICES, what is there: whether drawn or at home in the biome."""
    there = {kinds()[k].name for k in np.unique(objects.kind)}
    names = {
        "windmill": {"windmill", "mill"},
        "boats": {"boat", "sailing_boat"},
        "birds": {"bird"},
    }
    return tuple(word for word in CHOICES if names.get(word, {word}) & there)


def _rows(kind: Kind, x: Field, y: Field, z: Field, yaw: Field, rng: np.random.Generator) -> Rows:
    rows = np.zeros((len(x), COLUMNS))
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 4] = x, y, z, yaw
    low, high = kind.scale
    rows[:, 3] = rng.uniform(low, high, len(x))
    rows[:, 5:9] = 1.0
    rows[:, 9] = kind.draw_distance_m
    if kind.motion:  # the fraction is where in its motion it stands at time zero
        rows[:, 11] = kind.motion + rng.uniform(0.0, 0.999, len(x))
    return rows


def _shore(
    biome: Biome, terrain: Terrain, name: str, per_hectare: float, rng: np.random.Generator
) -> Rows:
    """Where the water is shallow or the bank low, in beds."""
    kind = kinds()[kind_index(name)]
    count = rng.poisson(per_hectare * HECTARES)
    x, z = rng.uniform(-0.5, 0.5, (2, count)) * (SIZE_M - 8.0)
    height = terrain.height_at(x, z)
    bed = terrain.sample(terrain.moisture, x, z) > rng.uniform(0.3, 0.6, count)
    here = (height > -REEDS_DEPTH_M) & (height < 0.30) & bed
    here &= np.abs(terrain.sample(terrain.trail_m, x, z)) > 2.0
    x, z, height = x[here], z[here], height[here]
    rows = _rows(kind, x, height, z, rng.uniform(0.0, math.tau, len(x)), rng)
    rows[:, 5:8] = tints(biome, terrain, kind, x, z, rng)
    return rows


def _afloat(terrain: Terrain, name: str, count: int, rng: np.random.Generator) -> Rows:
    """On open water; what drifts keeps to a circle of open water."""
    kind = kinds()[kind_index(name)]
    tries = 60 * count
    x, z = rng.uniform(-0.4, 0.4, (2, tries)) * SIZE_M
    orbit = rng.uniform(3.0, 11.0, tries) if kind.motion else np.zeros(tries)
    depth = -0.6 if kind.motion else -0.25
    open_water = terrain.height_at(x, z) < depth
    for turn in np.arange(6) * (math.tau / 6) if kind.motion else ():
        reach = orbit + 2.5
        open_water &= (
            terrain.height_at(x + reach * math.cos(turn), z + reach * math.sin(turn)) < depth
        )
    x, z, orbit = (values[open_water][:count] for values in (x, z, orbit))
    rows = _rows(kind, x, np.zeros(len(x)), z, rng.uniform(0.0, math.tau, len(x)), rng)
    if kind.motion:
        rows[:, 8] = orbit
    return rows


def _over_water(terrain: Terrain, name: str, count: int, rng: np.random.Generator) -> Rows:
    """A bridge has land at both ends, a jetty at one."""
    kind = kinds()[kind_index(name)]
    half = 0.5 * float(np.ptp(kind.mesh[:, 2]))
    x, z = rng.uniform(-0.38, 0.38, (2, 3000)) * SIZE_M
    height = terrain.height_at(x, z)
    wet = np.nonzero((height < 0.05) & (height > -2.5))[0][:300]
    x, z = np.repeat(x[wet], YAWS), np.repeat(z[wet], YAWS)
    yaw = rng.uniform(0.0, math.tau, len(x))
    first, middle, last = (
        terrain.height_at(x + along * np.sin(yaw), z + along * np.cos(yaw))
        for along in (-half, 0.0, half)
    )
    lands = (first > -0.05) & (first < 1.3)
    good = lands & (last > -0.05) & (last < 1.3) & (middle < -0.1)
    if name == "jetty":
        good = lands & (middle < 0.1) & (last < -0.5)
    chosen = np.nonzero(good)[0]
    kept: list[int] = []
    for index in chosen:
        apart = [math.hypot(x[index] - x[k], z[index] - z[k]) > 22.0 for k in kept]
        if len(kept) < count and all(apart):
            kept.append(int(index))
    at = np.array(kept, np.int64)
    return _rows(kind, x[at], np.full(len(at), DECK_M), z[at], yaw[at], rng)


def _on_free_land(terrain: Terrain, objects: Objects, name: str, rng: np.random.Generator) -> Rows:
    """One, where it is level, dry and nothing stands."""
    kind = kinds()[kind_index(name)]
    x, z = rng.uniform(-0.3, 0.3, (2, 160)) * SIZE_M
    height = terrain.height_at(x, z)
    level = (height > 0.8) & (terrain.sample(terrain.slope, x, z) < 0.035)
    x, z, height = x[level][:48], z[level][:48], height[level][:48]
    solid = objects.footprint_m > 0.0
    away = np.hypot(x[:, None] - objects.x_m[solid], z[:, None] - objects.z_m[solid])
    free = (away > objects.footprint_m[solid] + kind.footprint_m).all(-1)
    if name == "lighthouse":
        free &= _by_water(terrain, x, z)
    at = np.nonzero(free)[0][:1]
    return _rows(kind, x[at], height[at], z[at], rng.uniform(0.0, math.tau, len(at)), rng)


def _by_water(terrain: Terrain, x: Field, z: Field) -> NDArray[np.bool_]:
    near = np.zeros(len(x), bool)
    for turn in np.arange(8) * (math.tau / 8):
        for away in (20.0, 40.0):
            height = terrain.height_at(x + away * math.cos(turn), z + away * math.sin(turn))
            near |= height < -0.5
    return near


def _flock(terrain: Terrain, rng: np.random.Generator) -> Rows:
    kind = kinds()[kind_index("bird")]
    x, z = rng.uniform(-0.25, 0.25, 2) * SIZE_M
    ground = max(float(terrain.height_at(np.array(x), np.array(z))), 0.0)
    count = int(rng.integers(4, 9))
    rows = _rows(
        kind,
        x + rng.normal(0.0, 3.0, count),
        ground + rng.uniform(7.0, 16.0) + rng.normal(0.0, 0.8, count),
        z + rng.normal(0.0, 3.0, count),
        np.zeros(count),
        rng,
    )
    rows[:, 8] = rng.uniform(9.0, 20.0) + rng.normal(0.0, 0.8, count)
    rows[:, 11] = kind.motion + np.clip(
        rng.uniform(0.1, 0.8) + rng.normal(0.0, 0.04, count), 0, 0.999
    )
    return rows


def _with_turning_sails(objects: Objects) -> Objects:
    """Windmills of one piece become mills and sails."""
    mills = objects.data[objects.kind == kind_index("windmill")].astype(np.float64)
    if not len(mills):
        return objects
    rest = [part for part in _rows_of(objects) if part[0] != kind_index("windmill")]
    x, y, z = (-value for value in HUB_TO_ORIGIN)
    sails = mills.copy()
    c, s, scale = np.cos(mills[:, 4]), np.sin(mills[:, 4]), mills[:, 3]
    sails[:, 0] += scale * (c * x + s * z)
    sails[:, 1] += scale * y
    sails[:, 2] += scale * (c * z - s * x)
    sails[:, 11] = kinds()[kind_index("sails")].motion + np.mod(mills[:, 0], 0.99)
    return assemble([*rest, (kind_index("mill"), mills), (kind_index("sails"), sails)])


def _rows_of(objects: Objects) -> list[tuple[int, Rows]]:
    return [
        (int(k), objects.data[objects.kind == k].astype(np.float64))
        for k in np.unique(objects.kind)
    ]
