"""Low-poly building blocks: triangles with a colour, assembled into trees, rocks and houses.

A mesh is an array of vertices (position 3, normal 3, linear colour 3, tint 1), three per triangle,
seen from outside only. Positions are (x, up, z) in metres at scale 1; tint says how much of an
instance's own colour is multiplied in, or with one of three special values what it shines with.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Mesh = NDArray[np.float64]  # (vertices, 10)
Vector = tuple[float, float, float]
Colour = tuple[float, float, float]
Point = Vector | NDArray[np.float64]

WHITE = (1.0, 1.0, 1.0)
# Values of tint that say instead when a surface shines by itself (object.vert.glsl).
LAMPLIT = 2.0  # warm when it is dark outside
BURNING = 3.0  # always, in its own colour
GLEAMING = 4.0  # in its own colour when it is dark outside
GOLDEN_RATIO = 0.5 * (1.0 + math.sqrt(5.0))
_ICOSAHEDRON = np.array(
    [
        (-1, GOLDEN_RATIO, 0),
        (1, GOLDEN_RATIO, 0),
        (-1, -GOLDEN_RATIO, 0),
        (1, -GOLDEN_RATIO, 0),
        (0, -1, GOLDEN_RATIO),
        (0, 1, GOLDEN_RATIO),
        (0, -1, -GOLDEN_RATIO),
        (0, 1, -GOLDEN_RATIO),
        (GOLDEN_RATIO, 0, -1),
        (GOLDEN_RATIO, 0, 1),
        (-GOLDEN_RATIO, 0, -1),
        (-GOLDEN_RATIO, 0, 1),
    ]
) / math.hypot(1.0, GOLDEN_RATIO)
_ICOSAHEDRON_FACES = np.array(
    [
        (0, 11, 5),
        (0, 5, 1),
        (0, 1, 7),
        (0, 7, 10),
        (0, 10, 11),
        (1, 5, 9),
        (5, 11, 4),
        (11, 10, 2),
        (10, 7, 6),
        (7, 1, 8),
        (3, 9, 4),
        (3, 4, 2),
        (3, 2, 6),
        (3, 6, 8),
        (3, 8, 9),
        (4, 9, 5),
        (2, 4, 11),
        (6, 2, 10),
        (8, 6, 7),
        (9, 8, 1),
    ]
)


def triangles(
    corners: NDArray[np.float64], colour: Colour, tint: float, inside: Point, roundness: float = 0.0
) -> Mesh:
    """Flat triangles (t, 3, 3), turned to face away from `inside`.

    `roundness` bends the normals away from `inside`, so that foliage shades softly.
    """
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    outward = corners.mean(1) - np.asarray(inside)
    inverted = (normal * outward).sum(-1) < 0.0
    corners = np.where(inverted[:, None, None], corners[:, ::-1], corners)
    normal = np.where(inverted[:, None], -normal, normal)
    radial = corners - np.asarray(inside)
    radial /= np.linalg.norm(radial, axis=-1, keepdims=True) + 1e-12
    normals = (1.0 - roundness) * normal[:, None] + roundness * radial
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    paint = np.broadcast_to(np.array([*(c**2.2 for c in colour), tint]), (len(corners), 3, 4))
    return np.concatenate([corners, normals, paint], -1).reshape(-1, 10)


def both_sides(corners: NDArray[np.float64], colour: Colour, tint: float, normal: Vector) -> Mesh:
    """Leaves and blades: seen from both sides, lit as if they faced along `normal`."""
    x, y, z = corners.mean((0, 1)) - np.asarray(normal)
    front = triangles(corners, colour, tint, (x, y, z))
    back = front.reshape(-1, 3, 10)[:, ::-1].reshape(-1, 10)
    mesh = np.concatenate([front, back])
    mesh[:, 3:6] = np.asarray(normal) / np.linalg.norm(normal)
    return mesh


def ring(
    radius: float, height: float, sides: int, turn: float = 0.0, centre: Vector = (0, 0, 0)
) -> Mesh:
    angle = turn + np.arange(sides) * (2.0 * math.pi / sides)
    circle = np.stack([radius * np.cos(angle), np.full(sides, height), radius * np.sin(angle)], -1)
    circle += np.asarray(centre, float)
    return circle


def skin(
    rings: list[NDArray[np.float64]], colour: Colour, tint: float = 0.0, roundness: float = 0.0
) -> Mesh:
    """Join rings of equal size from bottom to top; a ring may shrink to a point."""
    parts = []
    for low, high in pairwise(rings):
        low_next, high_next = np.roll(low, -1, 0), np.roll(high, -1, 0)
        corners = np.concatenate(
            [np.stack([low, high, low_next], 1), np.stack([low_next, high, high_next], 1)]
        )
        area = np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1
        )
        inside = 0.5 * (low.mean(0) + high.mean(0))
        parts.append(triangles(corners[area > 1e-9], colour, tint, inside, roundness))
    return np.concatenate(parts)


def disc(rim: NDArray[np.float64], colour: Colour, tint: float, up: bool) -> Mesh:
    middle = np.broadcast_to(rim.mean(0), rim.shape)
    inside = rim.mean(0) + np.array([0.0, -1.0 if up else 1.0, 0.0])
    return triangles(np.stack([rim, np.roll(rim, -1, 0), middle], 1), colour, tint, inside)


def column(
    radii: tuple[float, ...],
    heights: tuple[float, ...],
    colour: Colour,
    sides: int = 6,
    tint: float = 0.0,
) -> Mesh:
    rings = [ring(r, h, sides) for r, h in zip(radii, heights, strict=True)]
    return skin(rings, colour, tint, roundness=0.5)


def tier(
    bottom: float,
    top: float,
    radius: float,
    colour: Colour,
    rng: np.random.Generator,
    sides: int = 8,
) -> Mesh:
    """One skirt of a conifer: a cone with a drooping, uneven rim."""
    rim = ring(radius, bottom, sides, rng.uniform(0, math.tau))
    rim[:, 1] += rng.uniform(-0.12, 0.12, sides) * radius
    rim[:, [0, 2]] *= rng.uniform(0.86, 1.12, (sides, 1))
    shoulder = rim * (0.52, 1.0, 0.52)
    shoulder[:, 1] = bottom + 0.42 * (top - bottom)
    tip = ring(1e-4, top, sides)
    under = shaded(colour, 0.6)
    return np.concatenate(
        [skin([rim, shoulder, tip], colour, 1.0, roundness=0.3), disc(rim, under, 1.0, up=False)]
    )


def blob(
    centre: Vector,
    radii: Vector,
    colour: Colour,
    tint: float,
    rng: np.random.Generator,
    roughness: float = 0.14,
    roundness: float = 0.55,
    fine: bool = False,
) -> Mesh:
    """A lumpy ball; darker below, as crowns are."""
    points, faces = _icosphere() if fine else (_ICOSAHEDRON, _ICOSAHEDRON_FACES)
    lumps = points * rng.uniform(1.0 - roughness, 1.0 + roughness, (len(points), 1))
    corners = (lumps * np.asarray(radii) + np.asarray(centre))[faces]
    mesh = triangles(corners, colour, tint, centre, roundness)
    depth = np.clip((mesh[:, 1] - centre[1]) / radii[1], -1.0, 1.0)
    mesh[:, 6:9] *= (0.80 + 0.22 * depth)[:, None]
    return mesh


def _icosphere() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """80 faces: the icosahedron with every edge halved."""
    points = list(_ICOSAHEDRON)
    middles: dict[tuple[int, int], int] = {}

    def middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middles:
            point = points[a] + points[b]
            points.append(point / np.linalg.norm(point))
            middles[key] = len(points) - 1
        return middles[key]

    faces = []
    for a, b, c in _ICOSAHEDRON_FACES.tolist():
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        faces += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.array(points), np.array(faces)


def box(low: Vector, high: Vector, colour: Colour, tint: float = 0.0, lid: bool = True) -> Mesh:
    (x0, y0, z0), (x1, y1, z1) = low, high
    base = np.array([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], float)
    top = base + np.array([0.0, y1 - y0, 0.0])
    walls = skin([base, top], colour, tint)
    if not lid:
        return walls
    quad = np.stack([top[[0, 1, 2]], top[[0, 2, 3]]])
    inside = (0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1))
    return np.concatenate([walls, triangles(quad, colour, tint, inside)])


def gable_roof(
    half_x: float, half_z: float, eaves: float, ridge: float, colour: Colour, wall: Colour
) -> Mesh:
    """A ridge along z, eaves that stand out, wall-coloured gables.

    It has no underside: whoever is inside sees the sky.
    """
    over_x, over_z = half_x * 1.16, half_z * 1.10
    low = ridge - (ridge - eaves) * over_x / half_x
    slopes = []
    for side in (-1.0, 1.0):
        a, b = (side * over_x, low, -over_z), (side * over_x, low, over_z)
        c, d = (0.0, ridge, over_z), (0.0, ridge, -over_z)
        slopes += [(a, b, c), (a, c, d)]
    roof = triangles(np.array(slopes), colour, 0.0, (0.0, low - 1.0, 0.0))
    gables = [
        ((-half_x, eaves, z), (half_x, eaves, z), (0.0, ridge - 0.1, z)) for z in (-half_z, half_z)
    ]
    return np.concatenate([roof, triangles(np.array(gables), wall, 0.0, (0.0, eaves, 0.0))])


def panel(
    low: tuple[float, float],
    high: tuple[float, float],
    out: float,
    colour: Colour,
    yaw_rad: float = 0.0,
    tint: float = 0.0,
) -> Mesh:
    """An upright rectangle, (right, up) from `low` to `high`, seen only from its front.

    It stands `out` metres from the middle; at yaw 0 it faces -z.
    """
    (x0, y0), (x1, y1) = low, high
    a, b, c, d = (x0, y0, -out), (x1, y0, -out), (x1, y1, -out), (x0, y1, -out)
    face = triangles(
        np.array([(a, b, c), (a, c, d)]), colour, tint, (0.0, 0.5 * (y0 + y1), out + 9.0)
    )
    return moved(face, (0.0, 0.0, 0.0), yaw_rad=yaw_rad)


def shaded(colour: Colour, share: float) -> Colour:
    return (share * colour[0], share * colour[1], share * colour[2])


def moved(mesh: Mesh, offset: Vector, scale: float = 1.0, yaw_rad: float = 0.0) -> Mesh:
    out = mesh.copy()
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    turn = np.array([(c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c)])
    out[:, :3] = scale * mesh[:, :3] @ turn.T + np.asarray(offset)
    out[:, 3:6] = mesh[:, 3:6] @ turn.T
    return out
