"""Smooth random fields on a square grid, from random lattices and quadratic B-splines.

Lattice interpolation is separable, so a field costs a few small array products: a hundred times
less than hashing every grid point, and it depends on nothing but the generator's state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def smoothstep(low: float, high: float, x: Field) -> Field:
    """Go from 0 at `low` to 1 at `high` without a kink; `low` may be the greater."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def spline_taps(
    position: Field, cells: int
) -> tuple[NDArray[np.int64], tuple[Field, Field, Field]]:
    """First index and the three quadratic B-spline weights of positions in [0, cells - 1]."""
    nearest = np.clip(np.rint(position).astype(np.int64), 1, cells - 2)
    t = np.clip(position - nearest, -0.5, 0.5)
    return nearest - 1, (0.5 * (0.5 - t) ** 2, 0.75 - t * t, 0.5 * (0.5 + t) ** 2)


def lattice_noise(rng: np.random.Generator, size: int, cells: float) -> Field:
    """A (size, size) field with features of size/cells points; about uniform in [0, 1]."""
    count = int(np.ceil(cells)) + 3
    lattice = rng.random((count, count))
    offset = rng.random(2)
    rows = _interpolate(lattice, 0.5 + offset[0] + np.linspace(0.0, cells, size))
    field = _interpolate(rows.T, 0.5 + offset[1] + np.linspace(0.0, cells, size))
    return np.clip(0.5 + (field - 0.5) * 1.6, 0.0, 1.0)  # the spline flattens: stretch back


def fractal_noise(
    rng: np.random.Generator, size: int, cells: float, octaves: int, gain: float = 0.48
) -> Field:
    """Octaves of `lattice_noise`, each twice as fine and `gain` times as strong; in [0, 1]."""
    total = np.zeros((size, size))
    weight = 1.0
    weights = 0.0
    for octave in range(octaves):
        total += weight * lattice_noise(rng, size, cells * 2.0**octave)
        weights += weight
        weight *= gain
    return total / weights


def tileable_noise(rng: np.random.Generator, size: int, cells: int, octaves: int) -> Field:
    """Fractal noise that repeats without a seam, for textures; stretched to fill [0, 1]."""
    total = np.zeros((size, size))
    for octave in range(octaves):
        count = cells * 2**octave
        lattice = np.pad(rng.random((count, count)), 2, mode="wrap")
        positions = 1.5 + np.arange(size) * (count / size)
        rows = _interpolate(lattice, positions)
        total += 0.5**octave * _interpolate(rows.T, positions)
    low, high = np.percentile(total, (0.5, 99.5))
    stretched: Field = np.clip((total - low) / (high - low), 0.0, 1.0)
    return stretched


def blur(field: Field, passes: int) -> Field:
    """Binomial blur with clamped edges; the standard deviation is sqrt(passes / 2) points."""
    for _ in range(passes):
        padded = np.pad(field, 1, mode="edge")
        rows = padded[:-2] + 2.0 * padded[1:-1] + padded[2:]
        field = (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 16.0
    return field


def _interpolate(lattice: Field, positions: Field) -> Field:
    first, weights = spline_taps(positions, lattice.shape[0])
    out = weights[0][:, None] * lattice[first]
    out += weights[1][:, None] * lattice[first + 1]
    out += weights[2][:, None] * lattice[first + 2]
    return out
