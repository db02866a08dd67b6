"""Where things stand: instances of the mesh kinds, scattered by density over a terrain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.scenes.biomes import Biome, Colour
from distill.scenes.kinds import DRIFTS, Kind, kind_index, kinds
from distill.scenes.noise import Field, smoothstep
from distill.scenes.terrain import SIZE_M, Terrain, linear

HECTARES = (SIZE_M / 100.0) ** 2
BESIDE_HOUSES_M = 2.0
TRAIL_HALF_M = 1.1
COLUMNS = 12
_SOFTNESS = {"leaves": 1.0, "needles": 0.6, "straw": -1.0}  # below zero: holds no snow


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Instances, sorted by kind.

    A row of `data` is: place 3, scale, yaw, tint 3, vertical stretch (of things that go round in
    circles: their radius), draw distance, softness, motion (with its phase as the fraction).
    """

    data: NDArray[np.float32]  # (n, COLUMNS)
    kind: NDArray[np.int64]  # (n,) ascending
    footprint_m: NDArray[np.float64]
    radius_m: NDArray[np.float64]

    @property
    def x_m(self) -> NDArray[np.float32]:
        return self.data[:, 0]

    @property
    def z_m(self) -> NDArray[np.float32]:
        return self.data[:, 2]


def scatter(biome: Biome, terrain: Terrain, rng: np.random.Generator) -> Objects:
    """Houses first, then what stays clear of them."""
    parts: list[tuple[int, NDArray[np.float64]]] = []
    houses = _houses(biome, terrain, rng)
    parts += houses
    taken = np.concatenate([_discs(kinds()[k], rows) for k, rows in houses] or [np.zeros((0, 3))])
    for plan, small in ((biome.trees, False), (biome.litter, True)):
        for name, per_hectare in plan:
            kind = kinds()[kind_index(name)]
            count = rng.poisson(per_hectare * HECTARES * rng.uniform(0.75, 1.25))
            rows = _stand(biome, terrain, kind, count, rng)
            if not small or name in ("pebble", "drift"):
                rows = rows[~_inside(rows, taken)]
            parts.append((kind_index(name), rows))
    return assemble(parts)


def assemble(parts: list[tuple[int, NDArray[np.float64]]]) -> Objects:
    """Rows of each kind, in any order, as one table."""
    parts.sort(key=lambda part: part[0])
    data = np.concatenate([rows for _, rows in parts])
    index = np.concatenate([np.full(len(rows), k) for k, rows in parts])
    footprint = np.array([kind.footprint_m for kind in kinds()])
    radius = np.array([kind.radius_m for kind in kinds()])
    scale = data[:, 3]
    orbit = np.where(data[:, 11] >= DRIFTS, data[:, 8], 0.0)
    return Objects(
        data.astype(np.float32),
        index,
        footprint[index] * scale,
        radius[index] * scale * 1.2 + orbit,
    )


def _stand(
    biome: Biome, terrain: Terrain, kind: Kind, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Grow `count` candidates of one kind where the land suits them."""
    x, z = rng.uniform(-0.5, 0.5, (2, count)) * (SIZE_M - 8.0)
    height = terrain.height_at(x, z)
    slope = terrain.sample(terrain.slope, x, z)
    stone = kind.tint == "stone"
    steepest = 0.34 if stone else (0.09 if kind.tint in ("ground", "straw") else 0.20)
    suits = (height > (0.35 if stone else 0.9)) & (slope < steepest)
    clear = TRAIL_HALF_M * (0.9 if kind.footprint_m == 0.0 else 1.0) + kind.footprint_m
    suits &= np.abs(terrain.sample(terrain.trail_m, x, z)) > clear
    if not stone:
        # Plants gather in groves with clearings between them.
        moisture = terrain.sample(terrain.moisture, x, z)
        grove = smoothstep(0.30, 0.62, moisture if kind.footprint_m else 1.0 - moisture)
        least = 0.22 if kind.footprint_m else 0.55
        suits &= rng.random(count) < least + (1.0 - least) * grove
        suits &= height < biome.snow_line_m + (1e3 if biome.snow else 4.0)
    rows = np.zeros((count, COLUMNS))
    rows[:, 0], rows[:, 1], rows[:, 2] = x, height, z
    low, high = kind.scale
    rows[:, 3] = np.exp(rng.uniform(math.log(low), math.log(high), count))
    rows[:, 4] = rng.uniform(0.0, math.tau, count)
    rows[:, 5:8] = tints(biome, terrain, kind, x, z, rng)
    rows[:, 8] = rng.uniform(0.88, 1.18, count)
    rows[:, 9] = kind.draw_distance_m
    rows[:, 10] = _SOFTNESS.get(kind.tint, 0.0)
    return rows[suits]


def tints(
    biome: Biome, terrain: Terrain, kind: Kind, x: Field, z: Field, rng: np.random.Generator
) -> NDArray[np.float64]:
    count = len(x)
    value = rng.uniform(0.88, 1.12, (count, 1))
    if kind.tint == "ground":  # blades both darker and lighter than the land they stand on
        if not biome.snow:
            value = rng.choice((0.72, 1.0, 1.35), (count, 1), p=(0.4, 0.2, 0.4))
        return terrain.sample(terrain.colour, x, z) * value
    if kind.tint == "straw":
        return np.broadcast_to(linear((0.76, 0.66, 0.45)), (count, 3)) * value
    palettes: dict[str, tuple[Colour, ...]] = {
        "leaves": biome.leaves,
        "needles": biome.needles,
        "blossoms": biome.blossoms,
        "stone": (biome.stone,),
        "none": ((1, 1, 1),),
    }
    palette = np.stack([linear(colour) for colour in palettes[kind.tint]])
    first, second = rng.integers(len(palette), size=(2, count))
    share = rng.uniform(0.0, 0.4, (count, 1))
    tints: NDArray[np.float64] = palette[first] * (1.0 - share) + palette[second] * share
    return tints * value


def _houses(
    biome: Biome, terrain: Terrain, rng: np.random.Generator
) -> list[tuple[int, NDArray[np.float64]]]:
    """A loose village: level dry places near one another, each house turned its own way."""
    placed: list[tuple[int, NDArray[np.float64]]] = []
    taken = np.zeros((0, 3))
    if not biome.houses:
        return placed
    centre = rng.uniform(-0.22, 0.22, 2) * SIZE_M
    for name, most in biome.houses:
        kind = kinds()[kind_index(name)]
        rows = _stand(biome, terrain, kind, 60 * most, rng)
        spread = biome.village_m or 30.0 + 9.0 * most
        near = np.exp(-np.hypot(rows[:, 0] - centre[0], rows[:, 2] - centre[1]) / spread)
        flat = terrain.sample(terrain.slope, rows[:, 0], rows[:, 2]) < 0.03
        rows = rows[flat & (rng.random(len(rows)) < near)]
        rows[:, 8] = 1.0
        if biome.village_m:
            _turn_to_streets(rows, centre)
        gap = 1.2 if biome.village_m else 4.0
        kept: list[NDArray[np.float64]] = []
        for row in rows:
            apart = (
                np.hypot(taken[:, 0] - row[0], taken[:, 1] - row[2])
                > taken[:, 2] + kind.footprint_m + gap
            )
            if len(kept) < most and apart.all():
                kept.append(row)
                taken = np.concatenate([taken, [[row[0], row[2], kind.footprint_m]]])
        if kept:
            placed.append((kind_index(name), np.array(kept)))
    return placed


def _turn_to_streets(rows: NDArray[np.float64], centre: NDArray[np.float64]) -> None:
    """Quarter turns from a direction that is the whole village's own."""
    direction = float(centre[0]) % (0.5 * math.pi)
    rows[:, 4] = direction + np.rint(rows[:, 4] / (0.5 * math.pi)) * 0.5 * math.pi


def _discs(kind: Kind, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = np.full(len(rows), kind.footprint_m + BESIDE_HOUSES_M)
    return np.stack([rows[:, 0], rows[:, 2], reach], -1)


def _inside(rows: NDArray[np.float64], discs: NDArray[np.float64]) -> NDArray[np.bool_]:
    away = np.hypot(rows[:, None, 0] - discs[None, :, 0], rows[:, None, 2] - discs[None, :, 1])
    inside: NDArray[np.bool_] = np.any(away < discs[None, :, 2], axis=-1)
    return inside
