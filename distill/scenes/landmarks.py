"""Meshes of what worlds are walked for: lighthouses, mills, bridges, boats, fires, ruins, lamps."""

from __future__ import annotations

import math

import numpy as np

from distill.scenes.meshes import (
    BURNING,
    GLEAMING,
    LAMPLIT,
    WHITE,
    Colour,
    Mesh,
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
)

WOOD = (0.52, 0.41, 0.31)
DARK_WOOD = (0.40, 0.32, 0.26)
PALE = (0.93, 0.91, 0.87)
RED = (0.72, 0.27, 0.23)
IRON = (0.26, 0.27, 0.29)
CHOICES = ("lighthouse", "windmill", "bridge", "campfire", "boats", "birds")  # words of prompts


def lighthouse() -> Mesh:
    parts = []
    profile = [(2.7 - 0.30 * level, -1.5 if level == 0 else 2.6 * level) for level in range(6)]
    for level in range(5):
        rings = [ring(radius, height, 12) for radius, height in profile[level : level + 2]]
        parts.append(skin(rings, RED if level % 2 else PALE, 0.0, 0.3))
    floor, rail = ring(1.95, 13.0, 12), ring(1.95, 13.8, 12)
    cap = [ring(1.45, 15.4, 12), ring(1e-4, 17.0, 12)]
    parts += [
        disc(floor, IRON, 0.0, up=True),
        disc(floor, IRON, 0.0, up=False),
        skin([floor, ring(1.95, 13.25, 12)], PALE),
        skin([rail, ring(1.95, 13.95, 12)], IRON),
        skin([ring(1.0, 13.0, 8), ring(1.0, 15.4, 8)], (0.92, 0.90, 0.74), LAMPLIT),
        skin(cap, RED, 0.0, 0.2),
        disc(cap[0], IRON, 0.0, up=False),
        panel((-0.6, 0.0), (0.6, 2.2), 2.62, DARK_WOOD),
    ]
    return np.concatenate(parts)


def boat(sail: bool) -> Mesh:
    """Afloat at height 0, its bow towards +z."""
    hull = []
    for radius, height in ((0.42, -0.25), (0.78, 0.18), (0.86, 0.50)):
        rim = ring(radius, height, 10)
        rim[:, 2] *= 2.4
        rim[:, 1] += 0.05 * np.abs(rim[:, 2]) ** 1.5 * (height > 0.0)
        hull.append(rim)
    floor = hull[1] * (0.9, 1.0, 0.9)
    parts = [
        skin(hull, (0.62, 0.32, 0.25) if sail else (0.33, 0.46, 0.52), 0.0, 0.3),
        disc(floor, WOOD, 0.0, up=True),
        box((-0.75, 0.30, -0.5), (0.75, 0.40, -0.1), WOOD),
        box((-0.70, 0.30, 0.6), (0.70, 0.40, 1.0), WOOD),
    ]
    if sail:
        canvas = np.array([[(0.0, 0.9, 0.35), (0.0, 0.9, -1.9), (0.0, 4.3, 0.35)]])
        jib = np.array([[(0.0, 0.9, 0.6), (0.0, 0.9, 1.9), (0.0, 3.6, 0.6)]])
        parts += [
            moved(column((0.06, 0.04), (0.2, 4.6), DARK_WOOD, 5), (0.0, 0.0, 0.45)),
            both_sides(canvas, (0.94, 0.91, 0.84), 0.0, (0.6, 0.7, 0.0)),
            both_sides(jib, (0.88, 0.84, 0.76), 0.0, (0.6, 0.7, 0.0)),
        ]
    return np.concatenate(parts)


def planks(length_m: float, rails: bool) -> Mesh:
    """A wooden bridge along z with its deck at height 0, or a jetty if it has no rails."""
    half = 0.5 * length_m
    parts = []
    count = round(length_m / 1.0)
    for index in range(count):
        shade = 0.9 + 0.14 * (index % 3) / 2.0
        start = -half + index * length_m / count
        colour: Colour = (0.56 * shade, 0.45 * shade, 0.34 * shade)
        parts.append(box((-1.1, -0.10, start), (1.1, 0.02, start + 0.9), colour))
    for side in (-1.0, 1.0):
        parts.append(box((side * 0.85 - 0.08, -0.3, -half), (side * 0.85 + 0.08, -0.1, half), WOOD))
        for place in np.linspace(-half + 0.3, half - 0.3, max(2, round(length_m / 3.0) + 1)):
            top = 1.05 if rails else 0.35
            post = column((0.11, 0.11), (-3.0, top), DARK_WOOD, 5)
            parts.append(moved(post, (side * 1.12, 0.0, float(place))))
        if rails:
            for low in (0.45, 0.90):
                x = side * 1.12
                parts.append(box((x - 0.05, low, -half), (x + 0.05, low + 0.1, half), WOOD))
    return np.concatenate(parts)


def campfire(rng: np.random.Generator) -> Mesh:
    parts = []
    for index in range(8):
        angle = index * math.tau / 8
        size = rng.uniform(0.14, 0.2)
        place = (0.75 * math.cos(angle), 0.06, 0.75 * math.sin(angle))
        parts.append(blob(place, (size, size, size), (0.50, 0.48, 0.46), 0.0, rng, 0.2, 0.0))
    for index in range(4):
        log = box((-0.55, 0.06, -0.08), (0.55, 0.22, 0.08), (0.33, 0.25, 0.20))
        parts.append(moved(log, (0.0, 0.03 * index, 0.0), yaw_rad=index * math.pi / 4))
    for radius, height, colour, x, z in (
        (0.36, 1.15, (1.0, 0.50, 0.12), 0.0, 0.0),
        (0.22, 0.85, (1.0, 0.66, 0.20), 0.22, 0.10),
        (0.20, 0.75, (1.0, 0.42, 0.10), -0.18, -0.16),
    ):
        flame = [
            ring(0.7 * radius, 0.12, 5),
            ring(radius, 0.35, 5, 0.5),
            ring(1e-4, height, 5, 1.0),
        ]
        parts.append(moved(skin(flame, colour, BURNING), (x, 0.0, z)))
    for x, yaw in ((1.9, 0.3), (-1.9, -0.4)):  # logs to sit on
        seat = box((-0.2, -0.1, -0.9), (0.2, 0.36, 0.9), (0.45, 0.36, 0.29))
        parts.append(moved(seat, (x, 0.0, 0.0), yaw_rad=yaw))
    return np.concatenate(parts)


def street_lamp() -> Mesh:
    lantern = [ring(0.13, 2.95, 6), ring(0.22, 3.4, 6)]
    return np.concatenate(
        [
            column((0.16, 0.09, 0.06), (-0.6, 0.35, 2.95), IRON, 6),
            skin(lantern, (0.90, 0.86, 0.70), LAMPLIT),
            skin([ring(0.30, 3.38, 6), ring(1e-4, 3.72, 6)], IRON),
        ]
    )


def well() -> Mesh:
    rim = [ring(0.95, -0.6, 9), ring(0.95, 0.85, 9)]
    parts = [
        skin(rim, (0.62, 0.60, 0.57), 0.0, 0.2),
        disc(ring(0.85, 0.70, 9), (0.10, 0.14, 0.18), 0.0, up=True),
        gable_roof(0.95, 0.9, 2.3, 3.1, (0.55, 0.34, 0.28), WOOD),
    ]
    parts += [
        moved(column((0.08, 0.08), (0.0, 2.4), DARK_WOOD, 5), (x, 0.0, 0.0)) for x in (-0.9, 0.9)
    ]
    return np.concatenate(parts)


def town_house(wall: Colour, roof: Colour) -> Mesh:
    """Tall and narrow, timber-framed, with many windows."""
    x, z, eaves = 2.3, 2.9, 6.0
    beam: Colour = (0.36, 0.28, 0.23)
    parts = [
        box((-x - 0.1, -1.8, -z - 0.1), (x + 0.1, 0.5, z + 0.1), (0.55, 0.53, 0.51)),
        box((-x, 0.4, -z), (x, 2.9, z), (0.74, 0.71, 0.66), lid=False),
        box((-x - 0.22, 2.9, -z - 0.22), (x + 0.22, eaves, z + 0.22), wall),
        gable_roof(x + 0.22, z + 0.22, eaves, 9.0, roof, wall),
        box((0.6, 6.6, 0.8), (1.2, 9.4, 1.4), (0.58, 0.44, 0.39)),
        panel((-0.6, 0.3), (0.6, 2.4), z + 0.12, DARK_WOOD),
    ]
    for quarter in range(4):
        yaw, out = quarter * 0.5 * math.pi, (z if quarter % 2 == 0 else x) + 0.22
        half = (x if quarter % 2 == 0 else z) + 0.22
        for low in (2.9, 4.3, 5.8):
            parts += [panel((-half, low), (half, low + 0.16), out + 0.02, beam, yaw)]
        for along in (-half + 0.08, -0.08, half - 0.24):
            parts += [panel((along, 2.9), (along + 0.16, eaves), out + 0.02, beam, yaw)]
        for along in (-1.15, 1.15):
            parts += [window(along, up, out, 0.72, 0.9, yaw) for up in (3.75, 5.15)]
        if quarter:
            parts += [window(along, 1.6, out - 0.22, 0.8, 1.0, yaw) for along in (-1.1, 1.1)]
    return np.concatenate(parts)


def window(
    along: float, up: float, out: float, width: float, height: float, yaw_rad: float
) -> Mesh:
    """A dark pane in a light frame, just in front of a wall; warm when it is dark outside."""
    parts = []
    for grow, colour, gap, tint in (
        (0.09, (0.95, 0.93, 0.88), 0.03, 0.0),
        (0.0, (0.32, 0.40, 0.47), 0.06, LAMPLIT),
    ):
        w, h = width / 2 + grow, height / 2 + grow
        corner, opposite = (along - w, up - h), (along + w, up + h)
        parts.append(panel(corner, opposite, out + gap, colour, yaw_rad, tint))
    return np.concatenate(parts)


def pillar(rng: np.random.Generator, height: float, whole: bool) -> Mesh:
    """A fluted column on its base; a broken one ends in a slant, with a drum lying beside it."""
    shaft = []
    for share in (0.0, 0.06, 0.5, 1.0):
        level = ring(0.52 - 0.10 * share, 0.4 + share * height, 9, 0.2)
        if share == 1.0 and not whole:
            level[:, 1] += rng.uniform(-0.5, 0.25, 9)
        shaft.append(level)
    parts = [
        box((-0.8, -1.0, -0.8), (0.8, 0.4, 0.8), WHITE, 1.0),
        skin(shaft, WHITE, 1.0, 0.3),
        disc(shaft[-1], (0.9, 0.9, 0.9), 1.0, up=True),
    ]
    top = 0.4 + height
    if whole:
        parts.append(box((-0.75, top, -0.75), (0.75, top + 0.4, 0.75), WHITE, 1.0))
    else:
        drum = skin([ring(0.46, -0.55, 9), ring(0.46, 0.55, 9)], (0.94, 0.94, 0.94), 1.0, 0.3)
        lid = disc(ring(0.46, 0.55, 9), (0.9, 0.9, 0.9), 1.0, up=True)
        parts.append(moved(_laid(np.concatenate([drum, lid])), (1.4, 0.35, 0.5), yaw_rad=0.6))
    return np.concatenate(parts)


def _laid(mesh: Mesh) -> Mesh:
    """Turn what stands onto its side, along z."""
    out = mesh.copy()
    out[:, 1], out[:, 2] = -mesh[:, 2], mesh[:, 1]
    out[:, 4], out[:, 5] = -mesh[:, 5], mesh[:, 4]
    return out


def ruined_wall(rng: np.random.Generator) -> Mesh:
    parts = []
    height = 3.4
    for index in range(7):
        start = -3.5 + index
        level = max(0.5, height * (1.0 - 0.11 * index) + rng.uniform(-0.5, 0.4))
        shade = rng.uniform(0.88, 1.0)
        parts.append(
            box((start, -1.2, -0.35), (start + 1.0, level, 0.35), (shade, shade, shade), 1.0)
        )
    return np.concatenate(parts)


def arch(rng: np.random.Generator) -> Mesh:
    """A free-standing gate of cut stones."""
    parts = [
        box((side * 1.9 - 0.55, -1.2, -0.6), (side * 1.9 + 0.55, 3.2, 0.6), WHITE, 1.0)
        for side in (-1.0, 1.0)
    ]
    for index in range(9):
        angle = math.pi * (index + 0.5) / 9
        shade = rng.uniform(0.88, 1.0)
        stone = box((-0.42, -0.50, -0.6), (0.42, 0.50, 0.6), (shade, shade, shade), 1.0)
        turned = stone.copy()
        c, s = math.cos(angle), math.sin(angle)
        for first, second in ((0, 1), (3, 4)):
            turned[:, first] = s * stone[:, first] + c * stone[:, second]
            turned[:, second] = -c * stone[:, first] + s * stone[:, second]
        parts.append(moved(turned, (1.9 * c, 3.2 + 1.9 * s, 0.0)))
    return np.concatenate(parts)


def temple(rng: np.random.Generator) -> Mesh:
    """Steps, a colonnade, and what is left of the roof."""
    parts = [
        box((-4.6, -1.6, -6.6), (4.6, 0.35, 6.6), (0.92, 0.92, 0.92), 1.0),
        box((-4.1, 0.35, -6.1), (4.1, 0.7, 6.1), WHITE, 1.0),
    ]
    for x in (-3.4, 3.4):
        for index in range(5):
            whole = not (x > 0 and index in (3, 4))
            post = pillar(rng, 4.6 if whole else 2.0, whole) * 1.0
            post = post[post[:, 0] < 0.9]
            parts.append(moved(post, (x, 0.6, -5.2 + 2.6 * index)))
    lintel = [((-4.1, 5.6, -6.0), (-2.7, 6.3, 6.0)), ((2.7, 5.6, -6.0), (4.1, 6.3, 0.4))]
    parts += [box(low, high, WHITE, 1.0) for low, high in lintel]
    parts.append(box((-4.1, 5.6, -6.0), (4.1, 6.3, -4.6), WHITE, 1.0))
    gable = np.array([[(-4.3, 6.3, -5.9), (4.3, 6.3, -5.9), (0.0, 8.0, -5.9)]])
    parts.append(both_sides(gable, (0.95, 0.95, 0.95), 1.0, (0.0, 0.3, -1.0)))
    return np.concatenate(parts)


def reeds(rng: np.random.Generator) -> Mesh:
    parts = []
    for index in range(16):
        away, yaw = 0.9 * math.sqrt((index + 0.5) / 16), 2.4 * index
        root = np.array([away * math.cos(yaw), -0.6, away * math.sin(yaw)])
        lean = rng.normal(0.0, 0.18, 2)
        tip = root + np.array([lean[0], rng.uniform(1.7, 2.7), lean[1]])
        side = 0.06 * np.array([math.cos(1.7 * index), 0.0, math.sin(1.7 * index)])
        shade = rng.uniform(0.75, 1.1)
        colour: Colour = (0.52 * shade, 0.58 * shade, 0.32 * shade)
        parts.append(
            both_sides(np.array([[root - side, root + side, tip]]), colour, 0.0, (0, 1, 0))
        )
        if index % 4 == 0:
            head = column((0.06, 0.06), (0.0, 0.32), (0.40, 0.27, 0.18), 5)
            x, y, z = tip
            parts.append(moved(head, (float(x), float(y) - 0.25, float(z))))
    return np.concatenate(parts)


def lilies(rng: np.random.Generator) -> Mesh:
    parts = []
    for index in range(7):
        away, yaw = 1.1 * math.sqrt((index + 0.5) / 7), 2.4 * index
        x, z = away * math.cos(yaw), away * math.sin(yaw)
        pad = ring(rng.uniform(0.22, 0.38), 0.03, 7, 0.0, (x, 0.0, z))
        parts.append(disc(pad, (0.36, 0.52, 0.30), 0.0, up=True))
        if index % 3 == 0:
            parts.append(blob((x, 0.10, z), (0.13, 0.10, 0.13), (0.95, 0.80, 0.86), 0.0, rng))
    return np.concatenate(parts)


def willow(rng: np.random.Generator) -> Mesh:
    parts = [column((0.40, 0.28, 0.20), (-0.6, 1.4, 3.8), (0.43, 0.36, 0.29))]
    parts.append(blob((0.0, 4.5, 0.0), (2.0, 1.2, 2.0), WHITE, 1.0, rng, fine=True))
    for index in range(20):
        yaw = index * math.tau / 20 + rng.uniform(-0.1, 0.1)
        out = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        side = np.array([-out[2], 0.0, out[0]]) * rng.uniform(0.30, 0.42)
        away = rng.uniform(1.7, 2.1)
        top = out * (away - 0.5) + np.array([0.0, 4.9, 0.0])
        middle = out * (away + 0.4) + np.array([0.0, 3.4, 0.0])
        low = out * (away + 0.55) + np.array([0.0, rng.uniform(0.9, 1.9), 0.0])
        strip = np.array(
            [
                [top - side, top + side, middle + side],
                [top - side, middle + side, middle - side],
                [middle - side, middle + side, low],
            ]
        )
        shade = rng.uniform(0.8, 1.0)
        normal = (float(out[0]), 0.6, float(out[2]))
        parts.append(both_sides(strip, (shade, shade, shade), 1.0, normal))
    return np.concatenate(parts)


def mushrooms() -> Mesh:
    """Caps that gleam in the dark."""
    parts = []
    for x, z, height, size in (
        (0.0, 0.0, 0.75, 0.42),
        (0.55, 0.2, 0.45, 0.28),
        (-0.3, 0.5, 0.3, 0.2),
    ):
        stem = column((0.12 * size / 0.3, 0.08), (-0.2, height), (0.82, 0.78, 0.70), 5)
        cap = [ring(size, height - 0.06, 7), ring(0.7 * size, height + 0.16, 7)]
        cap.append(ring(1e-4, height + 0.24, 7))
        parts += [
            moved(stem, (x, 0.0, z)),
            moved(skin(cap, (0.30, 0.62, 0.60), GLEAMING, 0.3), (x, 0.0, z)),
            moved(disc(cap[0], (0.55, 0.70, 0.62), GLEAMING, up=False), (x, 0.0, z)),
        ]
    return np.concatenate(parts)


def bird() -> Mesh:
    """Wings along x, which the shader beats; the beak towards +z."""
    white: Colour = (0.90, 0.90, 0.90)
    wings = [
        [(0.0, 0.0, 0.18), (side * 0.75, 0.0, -0.02), (0.0, 0.0, -0.16)] for side in (-1.0, 1.0)
    ]
    return np.concatenate(
        [
            both_sides(np.array(wings), (0.80, 0.82, 0.85), 0.0, (0.0, 1.0, 0.2)),
            blob((0, 0, 0), (0.09, 0.09, 0.30), white, 0.0, np.random.default_rng(3), 0.05),
        ]
    )
