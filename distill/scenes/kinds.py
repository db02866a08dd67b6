"""The things that stand in the worlds, each one mesh, its size and how far away it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from distill.scenes import landmarks
from distill.scenes.landmarks import window
from distill.scenes.meshes import (
    WHITE,
    Colour,
    Mesh,
    Vector,
    blob,
    both_sides,
    box,
    column,
    disc,
    gable_roof,
    moved,
    panel,
    ring,
    skin,
    tier,
    triangles,
)

BARK = (0.46, 0.36, 0.29)
BIRCH_BARK = (0.88, 0.86, 0.82)
PLASTER = (0.91, 0.87, 0.79)
TIMBER = (0.55, 0.41, 0.30)
FAR_M = 1000.0
TURNS, DRIFTS, FLIES = 1, 2, 3  # motions: about z; round a circle on the water; in the air
HUB_TO_ORIGIN = (0.0, -6.75, 2.4)  # sails turn about their own origin


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    name: str
    mesh: Mesh
    scale: tuple[float, float]
    footprint_m: float  # radius at scale 1 that nothing else may stand in
    draw_distance_m: float  # beyond it the thing is left out (it has shrunk to nothing by then)
    tint: str  # which palette colours it: leaves, needles, blossoms, stone, ground, straw or none
    radius_m: float  # of a ball around the origin that holds the mesh at scale 1
    motion: int = 0  # what the vertex shader does with it as time passes: one of those above
    light_m: float = 0.0  # how far it lights the ground when it is dark


def _kind(
    name: str,
    mesh: Mesh,
    scale: tuple[float, float],
    footprint_m: float,
    tint: str,
    draw_m: float = FAR_M,
    motion: int = 0,
    light_m: float = 0.0,
) -> Kind:
    radius = float(np.linalg.norm(mesh[:, :3], axis=-1).max())
    return Kind(name, mesh, scale, footprint_m, draw_m, tint, radius, motion, light_m)


def _conifer(rng: np.random.Generator, tiers: int, height: float, width: float) -> Mesh:
    parts = [column((0.24, 0.18, 0.10), (-0.6, 1.0, 0.6 * height), BARK)]
    for level in range(tiers):
        share = level / tiers
        bottom = 0.85 + share * (height - 1.3)
        top = min(bottom + 1.55 * (height - 1.0) / tiers, height)
        shade = 0.80 + 0.20 * share
        parts.append(tier(bottom, top, width * (1.0 - 0.80 * share), (shade,) * 3, rng))
    return np.concatenate(parts)


def _broadleaf(rng: np.random.Generator, bark: Colour, slim: float = 1.0) -> Mesh:
    trunk = column((0.30 * slim, 0.20 * slim, 0.13 * slim), (-0.6, 1.2, 3.6), bark)
    crown: tuple[tuple[Vector, Vector], ...] = (
        ((0.0, 4.1, 0.0), (1.65, 1.45, 1.65)),
        ((1.05, 3.3, 0.45), (1.15, 0.95, 1.15)),
        ((-0.95, 3.45, -0.5), (1.2, 1.0, 1.2)),
        ((-0.1, 3.1, 1.05), (1.0, 0.85, 1.0)),
        ((0.25, 3.2, -1.1), (0.95, 0.8, 0.95)),
    )
    parts = [trunk]
    for index, (centre, radii) in enumerate(crown):
        place = (centre[0] * slim, centre[1], centre[2] * slim)
        size = (radii[0] * slim, radii[1] * (1.0 + 0.3 * (1.0 - slim)), radii[2] * slim)
        shade = 1.0 if index == 0 else 0.88 + 0.05 * (index % 2)
        parts.append(blob(place, size, (shade,) * 3, 1.0, rng, fine=index == 0))
    return np.concatenate(parts)


def _poplar(rng: np.random.Generator) -> Mesh:
    trunk = column((0.24, 0.18), (-0.6, 1.6), BARK)
    crown = [
        ring(r, h, 8) for r, h in ((0.25, 0.9), (0.95, 1.9), (1.15, 3.4), (0.85, 5.4), (1e-4, 7.6))
    ]
    crown = [level * (rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.92, 1.08)) for level in crown]
    return np.concatenate([trunk, skin(crown, WHITE, 1.0, roundness=0.35)])


def _bare_tree(rng: np.random.Generator) -> Mesh:
    parts = [column((0.22, 0.15, 0.03), (-0.6, 1.6, 4.6), (0.42, 0.36, 0.33))]
    for index in range(7):
        yaw, start = 2.4 * index + rng.uniform(-0.4, 0.4), 1.4 + 0.36 * index
        length = 1.7 - 0.14 * index
        base = ring(0.085, 0.0, 4)
        reach = (length * math.cos(yaw), 0.75 * length, length * math.sin(yaw))
        parts.append(
            moved(skin([base, ring(1e-3, 0.0, 4, centre=reach)], (0.45, 0.39, 0.36)), (0, start, 0))
        )
    return np.concatenate(parts)


def _palm(rng: np.random.Generator) -> Mesh:
    bend = [(0.22, -0.6, 0.0), (0.17, 1.6, 0.12), (0.14, 3.2, 0.45), (0.12, 4.7, 1.0)]
    trunk = skin(
        [ring(r, h, 6, centre=(x, 0, 0)) for r, h, x in bend], (0.62, 0.51, 0.38), 0.0, 0.5
    )
    top = np.array([1.0, 4.7, 0.0])
    parts = [trunk]
    for index in range(9):
        yaw = index * math.tau / 9 + rng.uniform(-0.15, 0.15)
        parts.append(_frond(top, yaw, rng.uniform(0.25, 0.5), 0.86 + 0.14 * (index % 2)))
    parts.append(blob((1.0, 4.55, 0.0), (0.30, 0.26, 0.30), (0.42, 0.30, 0.20), 0.0, rng))
    return np.concatenate(parts)


def _frond(root: Vector | np.ndarray, yaw: float, rise: float, shade: float) -> Mesh:
    """A long leaf folded along its rib, arching up and then down."""
    out = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
    side = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
    up = np.array([0.0, 1.0, 0.0])
    rib = [
        root + out * (2.3 * s) + up * (rise * 2.6 * s - 1.9 * s * s) for s in (0.0, 0.36, 0.72, 1.0)
    ]
    half = (0.10, 0.42, 0.34, 0.02)
    parts = []
    for sign in (-1.0, 1.0):
        edge = [p + sign * w * side - 0.22 * w * up for p, w in zip(rib, half, strict=True)]
        corners = []
        for k in range(3):
            corners += [(rib[k], rib[k + 1], edge[k]), (edge[k], rib[k + 1], edge[k + 1])]
        normal = up + 0.45 * sign * side + 0.2 * out
        parts.append(both_sides(np.array(corners), (shade,) * 3, 1.0, tuple(normal)))
    return np.concatenate(parts)


def _cactus(tall: bool) -> Mesh:
    def arm(radius: float, low: float, high: float) -> Mesh:
        return column(
            (radius, radius, 0.75 * radius, 1e-4),
            (low, high - 0.3, high - 0.08, high),
            WHITE,
            7,
            1.0,
        )

    if not tall:
        return column((0.30, 0.42, 0.34, 1e-4), (-0.1, 0.22, 0.52, 0.64), WHITE, 7, 1.0)
    parts = [arm(0.34, -0.5, 3.6)]
    for side, low, high in ((1.0, 1.5, 3.0), (-1.0, 1.05, 2.35)):
        elbow = box((0.0, low - 0.17, -0.17), (0.85, low + 0.17, 0.17), WHITE, 1.0)
        parts.append(moved(elbow, (0, 0, 0), yaw_rad=0.0 if side > 0 else math.pi))
        parts.append(moved(arm(0.22, low - 0.17, high), (side * 0.85, 0.0, 0.0)))
    return np.concatenate(parts)


def _spire(rng: np.random.Generator) -> Mesh:
    """A weathered rock tower, in layers."""
    profile = (
        (1.7, -1.0),
        (1.5, 0.8),
        (1.05, 1.6),
        (1.15, 2.6),
        (0.8, 3.2),
        (0.95, 4.6),
        (0.75, 5.4),
        (1e-4, 5.7),
    )
    rings = []
    for radius, height in profile:
        level = ring(radius, height, 7, 0.3 * height)
        level[:, [0, 2]] *= rng.uniform(0.85, 1.15, (7, 1))
        rings.append(level)
    mesh = skin(rings, WHITE, 1.0)
    mesh[:, 6:9] *= 0.90 + 0.12 * np.sin(2.4 * mesh[:, 1:2])
    return mesh


def _tuft(rng: np.random.Generator, blades: int, height: float) -> Mesh:
    parts = []
    for index in range(blades):
        yaw = index * math.tau / blades + rng.uniform(-0.3, 0.3)
        out = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        side = np.array([-out[2], 0.0, out[0]]) * 0.065
        tip = out * rng.uniform(0.16, 0.34) + np.array([0.0, height * rng.uniform(0.75, 1.1), 0.0])
        root = out * 0.05 - np.array([0.0, 0.25, 0.0])
        blade = both_sides(np.array([[root - side, root + side, tip]]), WHITE, 1.0, (0.0, 1.0, 0.0))
        blade[:, 6:9] *= np.where(blade[:, 1:2] > 0.05, 1.2, 0.78)
        parts.append(blade)
    return np.concatenate(parts)


def _meadow(
    rng: np.random.Generator, tufts: int, blades: int, height: float, reach_m: float
) -> Mesh:
    """Several tufts at once: one instance covers a few square metres."""
    parts = []
    for index in range(tufts):
        away, yaw = reach_m * math.sqrt((index + 0.5) / tufts), 2.4 * index + rng.uniform(-0.5, 0.5)
        tuft = moved(_tuft(rng, blades, height), (0, 0, 0), rng.uniform(0.6, 1.3))
        tuft[:, 6:9] *= rng.uniform(0.8, 1.15)
        parts.append(moved(tuft, (away * math.cos(yaw), 0, away * math.sin(yaw))))
    return np.concatenate(parts)


def _drift(rng: np.random.Generator) -> Mesh:
    """A low swelling of snow, lit like the snow around it."""
    mesh = blob((0, -0.04, 0), (1.0, 0.22, 0.7), WHITE, 1.0, rng, 0.06, 1.0, True)
    mesh[:, 4] += 1.2
    mesh[:, 3:6] /= np.linalg.norm(mesh[:, 3:6], axis=-1, keepdims=True)
    mesh[:, 6:9] = 1.03
    return mesh


def _flower(rng: np.random.Generator) -> Mesh:
    parts = [_tuft(rng, 4, 0.24) * np.array([1, 1, 1, 1, 1, 1, 0.22, 0.30, 0.10, 0.0])]
    for x, z, height in ((0.0, 0.0, 0.42), (0.22, 0.10, 0.32), (-0.14, 0.20, 0.36)):
        stem = column((0.018, 0.014), (-0.05, height), (0.40, 0.52, 0.28), 3)
        head = blob((0.0, height, 0.0), (0.11, 0.075, 0.11), WHITE, 1.0, rng, 0.05)
        parts += [moved(stem, (x, 0, z)), moved(head, (x, 0, z))]
    return np.concatenate(parts)


def _fern(rng: np.random.Generator) -> Mesh:
    parts = []
    for index in range(6):
        frond = _frond(
            np.zeros(3), index * math.tau / 6 + rng.uniform(-0.3, 0.3), rng.uniform(0.6, 0.9), 0.9
        )
        parts.append(moved(frond, (0, -0.03, 0), 0.34))
    return np.concatenate(parts)


def _bush(rng: np.random.Generator, tint: Colour) -> Mesh:
    return np.concatenate(
        [
            blob((0.0, 0.42, 0.0), (0.80, 0.62, 0.80), tint, 1.0, rng),
            blob((0.62, 0.30, 0.22), (0.52, 0.42, 0.52), tint, 1.0, rng),
            blob((-0.50, 0.30, -0.34), (0.56, 0.45, 0.56), tint, 1.0, rng),
        ]
    )


def _rock(rng: np.random.Generator) -> Mesh:
    big = blob((0.0, 0.22, 0.0), (1.05, 0.78, 0.92), WHITE, 1.0, rng, 0.20, roundness=0.0)
    small = blob((0.95, 0.05, 0.45), (0.45, 0.36, 0.42), WHITE, 1.0, rng, 0.2, roundness=0.0)
    return np.concatenate([big, small])


def _house(wall: Colour, roof: Colour) -> Mesh:
    x, z, eaves = 2.6, 3.6, 2.7
    back, right, left = math.pi, 0.5 * math.pi, -0.5 * math.pi
    parts = [
        box((-x - 0.08, -1.5, -z - 0.08), (x + 0.08, 0.35, z + 0.08), (0.56, 0.53, 0.50)),
        box((-x, 0.3, -z), (x, eaves, z), wall, lid=False),
        gable_roof(x, z, eaves, 5.0, roof, wall),
        box((0.7, 3.2, 1.3), (1.35, 5.5, 1.95), (0.60, 0.48, 0.43)),
        panel((-0.55, 0.2), (0.55, 2.2), z + 0.09, TIMBER),
        window(0.0, 3.5, z, 0.7, 0.7, 0.0),
        window(0.0, 1.6, z, 1.0, 0.9, back),
    ]
    for side in (left, right):
        parts += [window(along, 1.6, x, 0.95, 0.9, side) for along in (-1.8, 1.8)]
    return np.concatenate(parts)


def _hut() -> Mesh:
    """A beach hut on stilts with a pyramid of thatch."""
    stilts = [
        moved(column((0.12, 0.12), (-1.8, 1.0), TIMBER, 5), (sx * 1.5, 0, sz * 1.5))
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    roof_rim, tip = ring(3.1, 2.6, 4, math.pi / 4), ring(1e-4, 4.6, 4)
    body = [
        box((-1.8, 0.75, -1.8), (1.8, 0.95, 1.8), (0.66, 0.53, 0.38)),
        box((-1.5, 0.95, -1.5), (1.5, 2.8, 1.5), (0.83, 0.72, 0.54), lid=False),
        skin([roof_rim, tip], (0.74, 0.62, 0.40)),
        disc(roof_rim, (0.42, 0.34, 0.24), 0.0, up=False),
        panel((-0.45, 0.95), (0.45, 2.4), 1.55, (0.40, 0.31, 0.24)),
        window(0.0, 1.9, 1.5, 0.8, 0.7, 0.5 * math.pi),
        window(0.0, 1.9, 1.5, 0.8, 0.7, -0.5 * math.pi),
    ]
    return np.concatenate(stilts + body)


def _tower() -> Mesh:
    stone = (0.70, 0.67, 0.62)
    shaft = [ring(r, h, 10) for r, h in ((2.2, -1.5), (1.95, 0.5), (1.7, 7.6))]
    crown = [ring(r, h, 10) for r, h in ((1.75, 7.5), (2.15, 8.0), (2.15, 9.0))]
    roof = [ring(2.5, 8.95, 10), ring(1e-4, 12.4, 10)]
    parts = [
        skin(shaft, stone, 0.0, 0.25),
        skin(crown, (0.76, 0.73, 0.68), 0.0, 0.25),
        skin(roof, (0.55, 0.32, 0.28), 0.0, 0.2),
        disc(roof[0], (0.3, 0.2, 0.18), 0.0, up=False),
        panel((-0.6, 0.0), (0.6, 2.2), 2.02, TIMBER),
    ]
    parts += [
        window(0.0, h, 1.83, 0.45, 0.9, yaw) for h, yaw in ((4.4, 0.0), (5.6, 2.0), (3.4, 4.2))
    ]
    return np.concatenate(parts)


def _mill() -> Mesh:
    """A windmill without its sails."""
    body = [ring(r, h, 8, math.pi / 8) for r, h in ((2.5, -1.5), (2.35, 0.4), (1.55, 6.4))]
    cap = [ring(1.75, 6.3, 8, math.pi / 8), ring(1.3, 7.3, 8, math.pi / 8), ring(1e-4, 7.9, 8)]
    parts = [
        skin(body, PLASTER, 0.0, 0.2),
        skin(cap, (0.60, 0.36, 0.29), 0.0, 0.2),
        disc(cap[0], (0.32, 0.22, 0.18), 0.0, up=False),
        box((-0.16, 6.6, -2.4), (0.16, 6.9, -1.2), TIMBER),
        panel((-0.55, 0.0), (0.55, 2.1), 2.38, TIMBER),
        window(0.0, 4.2, 1.88, 0.7, 0.8, math.pi),
    ]
    return np.concatenate(parts)


def _sails() -> Mesh:
    return np.concatenate(
        [_sail(math.radians(24.0) + quarter * math.pi / 2) for quarter in range(4)]
    )


def _sail(angle: float) -> Mesh:
    hub = -np.array(HUB_TO_ORIGIN)
    along = np.array([math.cos(angle), math.sin(angle), 0.0])
    across = np.array([-math.sin(angle), math.cos(angle), 0.0])

    def plank(start: float, end: float, low: float, high: float, colour: Colour) -> Mesh:
        a, b = hub + along * start + across * low, hub + along * end + across * low
        c, d = hub + along * end + across * high, hub + along * start + across * high
        return both_sides(np.array([[a, b, c], [a, c, d]]), colour, 0.0, (0.0, 0.35, -1.0))

    return np.concatenate(
        [
            plank(0.0, 4.3, -0.09, 0.09, (0.42, 0.33, 0.26)),
            plank(1.0, 4.3, 0.14, 0.86, (0.93, 0.90, 0.83)),
        ]
    )


def _leaf_pile(rng: np.random.Generator) -> Mesh:
    parts = []
    for _ in range(12):
        x, z = rng.normal(0, 0.5, 2)
        size, yaw = rng.uniform(0.09, 0.16), rng.uniform(0, math.tau)
        flat = ring(size, rng.uniform(0.02, 0.07), 4, yaw, (x, 0, z))
        leaf = triangles(np.stack([flat[[0, 1, 2]], flat[[0, 2, 3]]]), WHITE, 1.0, (x, -1.0, z))
        parts.append(leaf)
    return np.concatenate(parts)


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds; the meshes are the same in every run."""
    rng = np.random.default_rng(5)
    green, straw = (0.92, 0.92, 0.92), (0.80, 0.74, 0.58)
    return (
        _kind("conifer", _conifer(rng, 4, 5.6, 1.75), (0.7, 1.5), 1.0, "needles"),
        _kind("tall_conifer", _conifer(rng, 6, 9.0, 1.85), (0.75, 1.35), 1.1, "needles"),
        _kind("broadleaf", _broadleaf(rng, BARK), (0.8, 1.6), 1.1, "leaves"),
        _kind("birch", _broadleaf(rng, BIRCH_BARK, 0.62), (0.9, 1.6), 0.8, "leaves"),
        _kind("poplar", _poplar(rng), (0.8, 1.4), 0.9, "leaves"),
        _kind("bare_tree", _bare_tree(rng), (0.8, 1.4), 0.7, "none"),
        _kind("palm", _palm(rng), (0.8, 1.5), 0.8, "leaves"),
        _kind("cactus", _cactus(True), (0.6, 1.3), 0.9, "leaves"),
        _kind("spire", _spire(rng), (0.9, 2.0), 2.0, "stone"),
        _kind("rock", _rock(rng), (0.4, 1.9), 1.2, "stone"),
        _kind("bush", _bush(rng, green), (0.6, 1.3), 0.9, "leaves", 140.0),
        _kind("dry_bush", _bush(rng, straw), (0.4, 0.9), 0.7, "leaves", 120.0),
        _kind("tuft", _meadow(rng, 6, 5, 0.36, 1.3), (0.8, 1.4), 0.0, "ground", 34.0),
        _kind("dry_tuft", _meadow(rng, 3, 5, 0.42, 0.9), (0.7, 1.4), 0.0, "straw", 42.0),
        _kind("fern", _fern(rng), (0.8, 1.5), 0.0, "leaves", 42.0),
        _kind("flower", _flower(rng), (0.8, 1.5), 0.0, "blossoms", 42.0),
        _kind(
            "pebble",
            blob((0, 0.03, 0), (0.22, 0.14, 0.19), WHITE, 1.0, rng, 0.18, 0.0),
            (0.6, 1.9),
            0.0,
            "stone",
            46.0,
        ),
        _kind("drift", _drift(rng), (0.6, 1.6), 0.0, "ground", 55.0),
        _kind("small_cactus", _cactus(False), (0.6, 1.4), 0.3, "leaves", 50.0),
        _kind("leaf_pile", _leaf_pile(rng), (0.8, 1.7), 0.0, "leaves", 32.0),
        _kind("house", _house(PLASTER, (0.66, 0.38, 0.30)), (0.95, 1.15), 5.0, "none", light_m=7.0),
        _kind(
            "cabin",
            _house((0.60, 0.44, 0.32), (0.45, 0.38, 0.36)),
            (0.75, 0.95),
            5.0,
            "none",
            light_m=7.0,
        ),
        _kind("hut", _hut(), (0.9, 1.1), 3.5, "none", light_m=5.0),
        _kind("tower", _tower(), (0.95, 1.2), 3.2, "none"),
        _kind("windmill", np.concatenate([_mill(), _sails()]), (0.95, 1.15), 4.0, "none"),
        *_later_kinds(),
    )


def _later_kinds() -> tuple[Kind, ...]:
    """Those that the first shipped world does not know; they have a generator of their own."""
    rng = np.random.default_rng(6)
    ochre, slate = (0.86, 0.74, 0.55), (0.66, 0.72, 0.74)
    return (
        _kind("mill", _mill(), (0.95, 1.15), 4.0, "none"),
        _kind("sails", moved(_sails(), HUB_TO_ORIGIN), (1.0, 1.0), 0.0, "none", motion=TURNS),
        _kind("lighthouse", landmarks.lighthouse(), (0.95, 1.2), 3.6, "none"),
        _kind("boat", landmarks.boat(False), (0.9, 1.2), 2.2, "none", motion=DRIFTS),
        _kind("sailing_boat", landmarks.boat(True), (1.0, 1.4), 2.4, "none", motion=DRIFTS),
        _kind("bridge", landmarks.planks(14.0, True), (1.0, 1.0), 1.5, "none"),
        _kind("jetty", landmarks.planks(9.0, False), (1.0, 1.0), 0.0, "none"),
        _kind("campfire", landmarks.campfire(rng), (0.9, 1.2), 2.3, "none", light_m=9.0),
        _kind("lamp", landmarks.street_lamp(), (0.95, 1.1), 0.5, "none", light_m=8.0),
        _kind("well", landmarks.well(), (0.9, 1.1), 1.4, "none"),
        _kind(
            "town_house",
            landmarks.town_house(ochre, (0.60, 0.33, 0.27)),
            (0.95, 1.15),
            3.8,
            "none",
            light_m=6.5,
        ),
        _kind(
            "slate_house",
            landmarks.town_house(slate, (0.38, 0.40, 0.46)),
            (0.95, 1.15),
            3.8,
            "none",
            light_m=6.5,
        ),
        _kind("pillar", landmarks.pillar(rng, 4.8, True), (0.9, 1.2), 1.2, "stone"),
        _kind("broken_pillar", landmarks.pillar(rng, 2.6, False), (0.8, 1.3), 1.8, "stone"),
        _kind("ruined_wall", landmarks.ruined_wall(rng), (0.8, 1.2), 3.4, "stone"),
        _kind("arch", landmarks.arch(rng), (0.9, 1.3), 2.8, "stone"),
        _kind("temple", landmarks.temple(rng), (0.9, 1.1), 7.6, "stone"),
        _kind("reeds", landmarks.reeds(rng), (0.7, 1.3), 0.0, "none", 70.0),
        _kind("lilies", landmarks.lilies(rng), (0.8, 1.5), 0.0, "none", 60.0),
        _kind("willow", landmarks.willow(rng), (0.8, 1.5), 1.4, "leaves"),
        _kind("mushrooms", landmarks.mushrooms(), (0.5, 1.3), 0.0, "none", 50.0),
        _kind("bird", landmarks.bird(), (0.9, 1.4), 0.0, "none", motion=FLIES),
    )


@cache
def kind_index(name: str) -> int:
    return [kind.name for kind in kinds()].index(name)
