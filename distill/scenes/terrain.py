"""The land: a height field, its colours, and the ground that a walker's feet feel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.scenes.biomes import Biome, Colour
from distill.scenes.noise import Field, blur, fractal_noise, lattice_noise, smoothstep, spline_taps

SIZE_M = 360.0
CHUNKS = 8  # the mesh is drawn in CHUNKS x CHUNKS pieces, so that unseen ones are skipped
CHUNK_CELLS = 18
POINTS = CHUNKS * CHUNK_CELLS + 1
CELL_M = SIZE_M / (POINTS - 1)
DRY_M = 0.4  # above the sea
WADING_M = 0.3  # how deep feet may sink into the land where it is rough


@dataclass(frozen=True, slots=True, eq=False)
class Terrain:
    """Arrays are indexed [z, x]; heights are metres above the water, up is positive."""

    height: Field
    smooth_height: Field
    slope: Field  # 0 is flat, 1 is a wall
    moisture: Field
    normal: NDArray[np.float64]  # (POINTS, POINTS, 3)
    colour: NDArray[np.float64]  # linear RGB
    trail_m: Field  # distance from the middle of the nearest trodden path, signed

    def height_at(self, x_m: Field, z_m: Field) -> Field:
        """The drawn surface: the same triangles as the mesh."""
        i, j, u, v = _cell(x_m, z_m)
        h = self.height
        a, b, c, d = h[j, i], h[j, i + 1], h[j + 1, i], h[j + 1, i + 1]
        lower = a + (b - a) * u + (c - a) * v
        upper = d + (c - d) * (1 - u) + (b - d) * (1 - v)
        return np.where(u + v <= 1, lower, upper)

    def ground_at(self, x_m: Field, z_m: Field) -> Field:
        """What carries the walker, a function of the position only.

        Smooth over a few metres, never more than WADING_M below the drawn land, and the surface of
        the water where there is any.
        """
        x_m, z_m = np.asarray(x_m, float), np.asarray(z_m, float)
        smooth = _spline(self.smooth_height, x_m, z_m)
        return np.maximum(np.maximum(smooth, self.height_at(x_m, z_m) - WADING_M), 0.0)

    def sample(self, field: NDArray[np.float64], x_m: Field, z_m: Field) -> NDArray[np.float64]:
        """The nearest point's value of a per-point field."""
        i, j, u, v = _cell(x_m, z_m)
        return field[j + (v > 0.5), i + (u > 0.5)]


def make_terrain(biome: Biome, rng: np.random.Generator) -> Terrain:
    height = _raised(_island(biome, rng) if biome.ground.island else _valley(biome, rng))
    gradient_z, gradient_x = np.gradient(height, CELL_M)
    normal = np.stack([-gradient_x, np.ones_like(height), -gradient_z], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    slope = 1.0 - normal[..., 1]
    moisture = fractal_noise(rng, POINTS, 7.0, 3)
    return Terrain(
        height=height,
        smooth_height=blur(height, 6),
        slope=slope,
        moisture=moisture,
        normal=normal,
        colour=_colours(biome, height, slope, moisture, rng),
        trail_m=_trails(height, slope, rng),
    )


def _raised(height: Field) -> Field:
    """Chance may leave a coast under the sea: then the sea falls until a tenth of the middle is dry."""
    edge = round(0.16 * POINTS)
    middle = height[edge:-edge, edge:-edge]
    if (middle > DRY_M).mean() > 0.005:
        return height
    return height + DRY_M - float(np.quantile(middle, 0.9))


def linear(colour: Colour) -> NDArray[np.float64]:
    """sRGB to linear light."""
    light: NDArray[np.float64] = np.asarray(colour, float) ** 2.2
    return light


def _radius() -> Field:
    line = np.linspace(-1.0, 1.0, POINTS)
    return np.hypot(line[:, None], line[None, :])


def _valley(biome: Biome, rng: np.random.Generator) -> Field:
    """Gently rolling land in the middle, mountains or table mountains around and here and there."""
    shape = biome.ground
    rolling = fractal_noise(rng, POINTS, 4.5, 3, gain=0.38) - 0.42
    wildness = _radius() + 0.9 * (lattice_noise(rng, POINTS, 3.0) - 0.5)
    mask = smoothstep(shape.mountain_from, shape.mountain_from + 0.6, wildness)
    ridges = 1.0 - np.abs(2.0 * fractal_noise(rng, POINTS, 4.0, 4) - 1.0)
    bulk = fractal_noise(rng, POINTS, 5.0, 4, gain=0.42)
    mountains = shape.mountain_m * mask * (0.25 + 0.75 * ridges**2) * (0.35 + bulk)
    height = shape.level_m + shape.rolling_m * 2.2 * rolling + mountains
    if shape.mesa_m:
        height = height + _mesas(shape.mesa_m, rng)
    return np.where(height < 0.0, 0.7 * height, height)


def _mesas(mesa_m: float, rng: np.random.Generator) -> Field:
    field = fractal_noise(rng, POINTS, 5.0, 4, gain=0.40) + 0.34 * smoothstep(0.45, 1.0, _radius())
    steps = ((0.58, 0.40), (0.68, 0.36), (0.80, 0.24))
    return sum(
        (share * mesa_m * smoothstep(start, start + 0.045, field) for start, share in steps),
        start=np.zeros_like(field),
    )


def _island(biome: Biome, rng: np.random.Generator) -> Field:
    shape = biome.ground
    land = fractal_noise(rng, POINTS, 4.2, 4, gain=0.40) - 0.46
    hills = smoothstep(0.08, 0.34, land) * fractal_noise(rng, POINTS, 7.0, 3)
    height = shape.level_m + 2.0 * shape.rolling_m * land + shape.mountain_m * hills
    height = height - 14.0 * smoothstep(0.55, 1.0, _radius())
    return np.where(
        height < 0.0, 0.9 * height, 0.45 * height + 0.55 * height * smoothstep(0, 6, height)
    )


def _trails(height: Field, slope: Field, rng: np.random.Generator) -> Field:
    """Winding paths along the contour lines of a smooth field; none on rocks and in water."""
    field = lattice_noise(rng, POINTS, 2.8) - 0.5
    gradient_z, gradient_x = np.gradient(field, CELL_M)
    distance = field / np.maximum(np.hypot(gradient_x, gradient_z), 0.004)
    rough = smoothstep(0.06, 0.14, slope) + smoothstep(-1.1, -0.7, -height)
    sign = np.where(distance < 0.0, -1.0, 1.0)
    trail: Field = np.clip(distance + sign * 9.0 * np.minimum(rough, 1.0), -12.0, 12.0)
    return trail


def _colours(
    biome: Biome, height: Field, slope: Field, moisture: Field, rng: np.random.Generator
) -> NDArray[np.float64]:
    def over(base: NDArray[np.float64], colour: Colour, share: Field) -> NDArray[np.float64]:
        mixed: NDArray[np.float64] = base + (linear(colour) - base) * share[..., None]
        return mixed

    shore = 2.2 if biome.ground.island else 1.0
    patches = smoothstep(0.36, 0.66, moisture)
    colour = over(np.broadcast_to(linear(biome.grass), (*height.shape, 3)), biome.dry, patches)
    colour = over(colour, biome.rock, smoothstep(0.13, 0.26, slope))
    snow = smoothstep(biome.snow_line_m, biome.snow_line_m + 7.0, height + 10.0 * (moisture - 0.5))
    colour = over(colour, biome.peak, snow * (1.0 - smoothstep(0.22, 0.42, slope)))
    colour = over(
        colour, biome.sand, 1.0 - smoothstep(0.25, 0.75, height / shore + 0.5 * (moisture - 0.5))
    )
    if biome.ground.mesa_m:
        colour = colour * _strata(height, slope)
    tinted: NDArray[np.float64] = colour * rng.uniform(0.94, 1.06, 3)
    return tinted


def _strata(height: Field, slope: Field) -> NDArray[np.float64]:
    """Bands of lighter and darker rock on canyon walls."""
    band = 0.5 + 0.5 * np.sin(height * 1.15 + 1.3 * np.sin(height * 0.37))
    strength = smoothstep(0.10, 0.3, slope)
    change: NDArray[np.float64] = (band - 0.5)[..., None] * np.array([0.5, 0.62, 0.66])
    return 1.0 + strength[..., None] * change


def _cell(x_m: Field, z_m: Field) -> tuple[NDArray[np.int64], NDArray[np.int64], Field, Field]:
    """Grid cell and position inside it; outside the world the border goes on for ever."""
    last = POINTS - 1
    fx = np.clip((np.asarray(x_m, float) / SIZE_M + 0.5) * last, 0.0, last)
    fz = np.clip((np.asarray(z_m, float) / SIZE_M + 0.5) * last, 0.0, last)
    i = np.minimum(fx.astype(np.int64), last - 1)
    j = np.minimum(fz.astype(np.int64), last - 1)
    return i, j, fx - i, fz - j


def _spline(field: Field, x_m: Field, z_m: Field) -> Field:
    last = POINTS - 1
    i, weights_x = spline_taps(np.clip((x_m / SIZE_M + 0.5) * last, 0.0, last), POINTS)
    j, weights_z = spline_taps(np.clip((z_m / SIZE_M + 0.5) * last, 0.0, last), POINTS)
    total = np.zeros_like(x_m)
    for dz, weight_z in enumerate(weights_z):
        for dx, weight_x in enumerate(weights_x):
            total = total + weight_z * weight_x * field[j + dz, i + dx]
    return total
