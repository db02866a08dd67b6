"""A dungeon in pixel art, drawn with numpy alone: a game to make clips of.

    python -m distill import game examples.dungeon:make --out runs/dungeon --scale keep --static

Every seed is another dungeon: a maze with rooms, pillars, doors and banners, in one of a few palettes,
lit by torches. The camera turns but never tilts, and stays at one low height. Walls stop the player,
who slides along them and is turned away from them, so that keys held blindly lead on; the pose that is
told is always the one that was drawn.

All light that does not depend on the camera is painted into the textures when a dungeon is made. A frame
is then one look-up per sample, at twice the size: walls by crossing a ray per column with all lines of
the grid at once, floor and ceiling by the depth of their row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.importers.games import View
from distill.importers.tracks import Axes
from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.types import Intrinsics, MotionLimits

Array = NDArray[Any]

HEIGHT_PX, WIDTH_PX = 128, 224
LENS = Intrinsics.from_field_of_view(math.radians(80), WIDTH_PX, HEIGHT_PX)
FRAMES_PER_SECOND = 12.0
LIMITS = MotionLimits(0.6, math.radians(10.0), (0.0, 0.0))
EYES_M = (0.55, 0.7, 0.85)  # heights of the camera; a dungeon has one of them

CELL_M = 2.4  # a cell is as wide as it is high
CELLS = 21  # along each side; odd, the outermost are walls
TEXELS = 32  # along each side of a cell
LEVELS = 5  # of detail: 32, 16, 8, 4 and 2 texels
BLOCK = 2  # texels that share their light
SIZE_M = 0.5  # from the player's middle to a wall
NEAR_M = 2.2  # walls ahead closer than this turn the player
TURN_RAD = 0.13  # a frame, at most
FOG_M = 14.0  # half of a colour is left somewhat before


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours, 0 to 255."""

    wall: tuple[int, int, int]
    joint: tuple[int, int, int]
    floor: tuple[int, int, int]
    ceiling: tuple[int, int, int]
    accent: tuple[int, int, int]  # moss, or whatever grows there
    banner: tuple[int, int, int]
    flame: tuple[int, int, int]
    dark: tuple[int, int, int]  # what is far away
    planks: bool = False  # a ceiling of wood


PALETTES = (
    Palette(
        wall=(122, 124, 138), joint=(62, 62, 78), floor=(104, 98, 96), ceiling=(84, 82, 98),
        accent=(84, 130, 74), banner=(170, 44, 52), flame=(255, 176, 84), dark=(14, 14, 24),
    ),
    Palette(
        wall=(158, 92, 68), joint=(84, 52, 46), floor=(122, 100, 78), ceiling=(112, 76, 50),
        accent=(112, 120, 62), banner=(44, 74, 140), flame=(255, 190, 96), dark=(22, 13, 12),
        planks=True,
    ),
    Palette(
        wall=(186, 158, 108), joint=(118, 92, 62), floor=(156, 130, 92), ceiling=(134, 108, 78),
        accent=(96, 132, 92), banner=(124, 52, 120), flame=(255, 206, 120), dark=(28, 20, 12),
    ),
    Palette(
        wall=(92, 118, 128), joint=(46, 62, 74), floor=(86, 102, 104), ceiling=(62, 78, 92),
        accent=(70, 160, 140), banner=(208, 160, 60), flame=(120, 226, 240), dark=(8, 16, 24),
    ),
    Palette(
        wall=(126, 106, 142), joint=(66, 50, 82), floor=(110, 92, 106), ceiling=(88, 62, 54),
        accent=(150, 96, 150), banner=(52, 128, 112), flame=(255, 150, 120), dark=(18, 10, 24),
        planks=True,
    ),
)  # fmt: skip


def make() -> Dungeon:
    return Dungeon()


class Dungeon:
    """The game: what `distill.importers.games` plays."""

    axes: Axes = "opencv"
    frames_per_second = FRAMES_PER_SECOND

    def reset(self, seed: int) -> View:
        """Enter dungeon number `seed`."""
        rng = np.random.default_rng(seed)
        self._place = build(rng)
        self._eye_m = float(rng.choice(EYES_M))
        self._side = 1.0  # the way that walls turn the player
        self._held = False  # by a wall that may not lie straight ahead
        x, z, yaw = _start(self._place.solid, rng)
        self._viewpoint = Viewpoint(x_m=x, y_m=-self._eye_m, z_m=z, yaw_rad=yaw)
        return self._view()

    def step(self, command: Command) -> View:
        """Walk and turn; looking up and rising are not for this world."""
        wanted = self._steered(replace(command, up=0.0, pitch_rad=0.0))
        moved = advance(self._viewpoint, wanted, self.frames_per_second, LIMITS)
        before, solid = self._viewpoint, self._place.solid
        x = _stopped(solid, before.x_m, moved.x_m, before.z_m)
        z = _stopped(solid.T, before.z_m, moved.z_m, x)
        way_m = math.hypot(moved.x_m - before.x_m, moved.z_m - before.z_m)
        self._held = math.hypot(x - before.x_m, z - before.z_m) < 0.7 * way_m
        self._viewpoint = replace(moved, x_m=x, y_m=-self._eye_m, z_m=z)
        return self._view()

    def _steered(self, command: Command) -> Command:
        """The same command, turned to the freer side if it leads into a wall close by."""
        if not command.forward and not command.right:
            return command
        ahead = self._viewpoint.yaw_rad + math.atan2(command.right, command.forward)
        angles = ahead + np.array([0.0, -0.6, 0.6])
        x, z = self._viewpoint.x_m, self._viewpoint.z_m
        free = cast(self._place, x, z, np.sin(angles), np.cos(angles)).depth_m
        if free[0] >= NEAR_M:
            self._side = 1.0 if free[2] > free[1] else -1.0
            if not self._held:
                return command
        near = max(1.0 - free[0] / NEAR_M, 0.5 if self._held else 0.0)
        turn = self._side * TURN_RAD * near**0.5
        return replace(command, yaw_rad=command.yaw_rad + turn)

    def _view(self) -> View:
        frame = draw(self._place, self._viewpoint, self._eye_m)
        world_from_camera: Array = np.linalg.inv(self._viewpoint.camera_from_world())
        return View(frame, world_from_camera, LENS)


def _stopped(solid: Array, before: float, after: float, across: float) -> float:
    """How far along the first axis of `solid` a player gets who stands at `across` on the second."""
    ahead = math.copysign(SIZE_M, after - before)
    cell = math.floor((after + ahead) / CELL_M)
    sides = {math.floor((across + side) / CELL_M) for side in (-SIZE_M, SIZE_M)}
    if not any(solid[cell, side] for side in sides):
        return after
    edge = cell if ahead > 0 else cell + 1
    stop = edge * CELL_M - ahead - math.copysign(1e-6, ahead)
    return stop if (stop - before) * ahead > 0 else before


# Drawing


@dataclass(frozen=True, slots=True)
class Place:
    """A dungeon, ready to be drawn."""

    solid: Array  # bool [x z]
    faces: Array  # int [x z side]: number of a wall; sides face -x, +x, -z, +z
    texels: Array  # uint32 [n] 0xBBGGRR: all levels of the walls, then of floor and ceiling
    dark: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Hits:
    """Where rays meet walls."""

    depth_m: Array  # [c], in lengths of the rays' directions
    face: Array  # int [c]
    along: Array  # [c], 0 to 1 across the face


def _level_starts(count: int) -> list[int]:
    """Where the levels of `count` cells begin in `Place.texels`, and where the last ends."""
    sizes = [count * (TEXELS >> level) ** 2 for level in range(LEVELS)]
    return [0, *np.cumsum(sizes).tolist()]


SAMPLES = 2  # along each side of a pixel
ROWS, COLUMNS = SAMPLES * HEIGHT_PX, SAMPLES * WIDTH_PX
FOCAL_PX = LENS.fx * COLUMNS
ACROSS = (((np.arange(COLUMNS) + 0.5) / COLUMNS - LENS.cx) / LENS.fx).astype(np.float32)
DOWN = (((np.arange(ROWS) + 0.5) / ROWS - LENS.cy) / LENS.fy).astype(np.float32)
VIGNETTE = np.float32(1.0) - 0.16 * (
    (np.abs(ACROSS[None, :]) / ACROSS.max()) ** 2 + (np.abs(DOWN[:, None]) / DOWN.max()) ** 2
).astype(np.float32)
DARK_VIGNETTE = VIGNETTE.reshape(HEIGHT_PX, SAMPLES, WIDTH_PX, SAMPLES).mean((1, 3))


def cast(place: Place, x_m: float, z_m: float, dx: Array, dz: Array) -> Hits:
    """The first walls on the rays from a point along (dx, dz) [c]."""
    first = _crossings(place, x_m, z_m, dx, dz, place.solid, 0)
    second = _crossings(place, z_m, x_m, dz, dx, place.solid.T, 2)
    return Hits(*(np.where(first[0] < second[0], a, b) for a, b in zip(first, second, strict=True)))


def _crossings(
    place: Place, at_m: float, other_m: float, along: Array, other: Array, solid: Array, side: int
) -> tuple[Array, Array, Array]:
    """Depth, face and place on it where rays first enter a wall across the lines of one axis."""
    forward = along > 0
    rate = np.where(forward, np.maximum(along, 1e-6), np.minimum(along, -1e-6))
    lines = (
        np.where(forward, math.floor(at_m / CELL_M) + 1, math.ceil(at_m / CELL_M) - 1)
        + np.where(forward, 1, -1) * np.arange(CELLS)[:, None]
    )
    depth = (lines * CELL_M - at_m) / rate  # [k c]
    across = (other_m + depth * other) / CELL_M
    cell = np.clip(np.where(forward, lines, lines - 1), 0, CELLS - 1)
    other_cell = np.clip(np.floor(across), 0, CELLS - 1).astype(np.intp)
    first = solid[cell, other_cell].argmax(0)
    columns = np.arange(along.size)
    depth, across = depth[first, columns], across[first, columns]
    cell, other_cell = cell[first, columns], other_cell[first, columns]
    faces = place.faces if side == 0 else place.faces.transpose(1, 0, 2)
    face = faces[cell, other_cell, side + ~forward]
    return depth, face, across - np.floor(across)


def draw(place: Place, viewpoint: Viewpoint, eye_m: float) -> NDArray[np.uint8]:
    """The frame (HEIGHT_PX, WIDTH_PX, 3) that is seen from a viewpoint."""
    sine, cosine = math.sin(viewpoint.yaw_rad), math.cos(viewpoint.yaw_rad)
    dx, dz = sine + cosine * ACROSS, cosine - sine * ACROSS
    hits = cast(place, viewpoint.x_m, viewpoint.z_m, dx, dz)
    wall_m = hits.depth_m.astype(np.float32)
    plane_m = (np.where(DOWN > 0, eye_m, eye_m - CELL_M) / DOWN).astype(np.float32)  # of the rows
    is_wall = wall_m[None, :] < plane_m[:, None]
    index = np.where(
        is_wall,
        _wall_index(place, hits, wall_m, eye_m),
        _plane_index(place, viewpoint, plane_m, dx, dz),
    )
    light = np.where(is_wall, _clearness(wall_m)[None, :], _clearness(plane_m)[:, None])
    light *= VIGNETTE
    texel = place.texels.take(index, mode="clip")  # what is behind a wall may lie anywhere
    frame = np.empty((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    for c, dark in enumerate(place.dark):
        samples = ((texel >> np.uint32(8 * c)) & np.uint32(255)).astype(np.float32)
        samples -= dark
        samples *= light
        frame[..., c] = _pixels(samples) + (dark * DARK_VIGNETTE + 0.5)
    return frame


def _wall_index(place: Place, hits: Hits, depth_m: Array, eye_m: float) -> Array:
    """Where in the texels the colour of each sample is, were it one of a wall: int32 [rows columns]."""
    starts = _level_starts(int(place.faces.max()) + 1)
    step = np.abs(np.diff(hits.along, append=hits.along[-1:]))  # texels from column to column
    step = np.where(step < 0.3, step, 0.0) * TEXELS
    down = depth_m * (TEXELS / CELL_M / FOCAL_PX)
    level = _level(np.maximum(step, down) * 0.75)
    size = TEXELS >> level
    base = np.array(starts)[level] + hits.face * size * size
    base += (hits.along * size).astype(np.int32)
    scale = (size / CELL_M).astype(np.float32)
    rows = np.multiply.outer(DOWN, depth_m * scale)
    rows += np.float32(CELL_M - eye_m) * scale
    index: Array = rows.astype(np.int32)
    index *= size.astype(np.int32)
    index += base.astype(np.int32)
    return index


def _plane_index(place: Place, viewpoint: Viewpoint, depth_m: Array, dx: Array, dz: Array) -> Array:
    """The same for floor and ceiling, whose rows have one depth each."""
    walls = _level_starts(int(place.faces.max()) + 1)[-1]
    starts = np.array(_level_starts(2 * CELLS * CELLS)) + walls
    height_m = np.abs(depth_m * DOWN)
    along = depth_m**2 / height_m * (TEXELS / CELL_M / FOCAL_PX)  # texels from row to row
    level = _level(along * 0.6)
    width = (CELLS * TEXELS) >> level
    base = starts[level] + np.where(DOWN > 0, 0, width * width)
    scale = (width / (CELLS * CELL_M)).astype(np.float32)
    index = _texel_along(viewpoint.x_m, depth_m, dx, scale)
    index *= width.astype(np.int32)[:, None]
    index += _texel_along(viewpoint.z_m, depth_m, dz, scale)
    index += base.astype(np.int32)[:, None]
    return index


def _texel_along(at_m: float, depth_m: Array, rays: Array, scale: Array) -> Array:
    """Places of samples along one axis of the ground, in texels of their rows: int32 [rows columns]."""
    places: Array = np.multiply.outer(depth_m * scale, rays)
    places += (np.float32(at_m) * scale)[:, None]
    return places.astype(np.int32)


def _level(texels_per_sample: Array) -> Array:
    """The level whose texels are about as large as a sample."""
    level = np.ceil(np.log2(np.maximum(texels_per_sample, 1e-3)) - 0.25)
    whole: Array = np.clip(level, 0, LEVELS - 1).astype(np.int64)
    return whole


def _clearness(depth_m: Array) -> Array:
    """What is left of a colour at that depth, 0 to 1; the rest is dark."""
    clear: Array = 0.06 + 0.94 * np.exp(-((depth_m / FOG_M) ** 1.3))
    return clear.astype(np.float32)


def _pixels(samples: Array) -> Array:
    """The means of the samples [rows columns] of each pixel."""
    rows = samples[0::2] + samples[1::2]
    pixels: Array = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(1 / SAMPLES**2)
    return pixels


# Building


def build(rng: np.random.Generator) -> Place:
    """A dungeon: its plan, its walls painted and lit."""
    palette = PALETTES[int(rng.integers(len(PALETTES)))]
    solid = carve(rng)
    faces, listed = _number_faces(solid)
    walls, torches = _paint_walls(listed, palette, rng)
    ground = np.stack([_paint_floor(solid, palette, rng), _paint_ceiling(palette, rng)])
    _light(solid, listed, torches, palette, walls, ground)
    texels = [_packed(level) for level in (*_smaller(walls), *_smaller(ground))]
    return Place(solid, faces, np.concatenate(texels), palette.dark)


def carve(rng: np.random.Generator) -> Array:
    """What is solid, bool [x z]: a maze on the odd cells, some loops, rooms with pillars."""
    solid = np.ones((CELLS, CELLS), bool)
    stack = [(1, 1)]
    solid[1, 1] = False
    while stack:
        x, z = stack[-1]
        ways = [(x + a, z + b) for a, b in ((2, 0), (-2, 0), (0, 2), (0, -2))]
        ways = [(a, b) for a, b in ways if 0 < a < CELLS and 0 < b < CELLS and solid[a, b]]
        if not ways:
            stack.pop()
            continue
        a, b = ways[int(rng.integers(len(ways)))]
        solid[(x + a) // 2, (z + b) // 2] = solid[a, b] = False
        stack.append((a, b))
    for _ in range(26):  # loops: walls between two open cells
        x, z = (int(n) for n in rng.integers(1, CELLS - 1, 2))
        if (x + z) % 2:
            solid[x, z] = False
    for _ in range(7):
        wide, deep = (int(n) for n in rng.choice((3, 5), 2))
        x, z = (1 + 2 * int(rng.integers((CELLS - size) // 2)) for size in (wide, deep))
        solid[x : x + wide, z : z + deep] = False
        if wide == deep == 5:
            solid[x + 1 : x + 4 : 2, z + 1 : z + 4 : 2] = True
    return solid


def _start(solid: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """A place in an open cell, and the yaw of the longest view from there."""
    cells = np.argwhere(~solid)
    x, z = (int(n) for n in cells[int(rng.integers(len(cells)))])
    views = []
    for quarter, (a, b) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
        length = 1
        while not solid[x + a * length, z + b * length]:
            length += 1
        views.append((length, quarter))
    yaw = max(views)[1] * math.pi / 2 + rng.uniform(-0.3, 0.3)
    near = rng.uniform(-0.3, 0.3, 2)
    return (x + 0.5) * CELL_M + near[0], (z + 0.5) * CELL_M + near[1], float(yaw)


SIDES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])


@dataclass(frozen=True, slots=True)
class Faces:
    """The walls that can be seen [f]."""

    cell: Array  # int [f 2], solid
    side: Array  # int [f]
    outside: Array  # int [f 2], the open cell before it


def _number_faces(solid: Array) -> tuple[Array, Faces]:
    faces = np.zeros((CELLS, CELLS, 4), np.int32)
    cells = np.argwhere(solid)
    rows = []
    for side, (a, b) in enumerate(SIDES):
        outside = cells + np.array((a, b))
        inside = ((outside >= 0) & (outside < CELLS)).all(1)
        seen = inside & ~solid[tuple(np.clip(outside, 0, CELLS - 1).T)]
        rows.append(np.column_stack([cells[seen], np.full(seen.sum(), side), outside[seen]]))
    found = np.concatenate(rows)
    faces[found[:, 0], found[:, 1], found[:, 2]] = np.arange(len(found))
    return faces, Faces(found[:, :2], found[:, 2], found[:, 3:])


# Painting: textures are float [.. 32 32 3], rows from the top down


def _noise(rng: np.random.Generator, size: int, amount: float) -> Array:
    """A brightness around 1 for texels [32 32] in squares of `size`."""
    steps = rng.integers(-2, 3, (TEXELS // size, TEXELS // size)) * amount / 2
    return 1.0 + np.kron(steps, np.ones((size, size)))


def _blocks(
    rng: np.random.Generator, colour: Array, joint: Array, high: int, wide: int, jitter: float
) -> Array:
    """Courses of stones `high` x `wide` texels, every other one shifted; lit from above."""
    y, x = np.mgrid[0:TEXELS, 0:TEXELS]
    course = y // high
    x = (x + (course % 2) * (wide // 2)) % TEXELS
    tones = 1.0 + rng.integers(-2, 3, (TEXELS // high, TEXELS // wide)) * jitter / 2
    tone = tones[course, x // wide] * _noise(rng, 2, 0.05)
    tone = tone + np.where(y % high == 1, 0.13, 0.0) - np.where(y % high == high - 1, 0.10, 0.0)
    stones: Array = colour * tone[..., None]
    gap = (y % high == 0) | (x % wide == 0)
    return np.where(gap[..., None], joint, stones)


def _planks(rng: np.random.Generator, colour: Array, wide: int) -> Array:
    """Boards from top to bottom."""
    x = np.arange(TEXELS)
    tones = 1.0 + rng.integers(-2, 3, TEXELS // wide) * 0.06
    grain = 1.0 + np.repeat(rng.integers(-1, 2, (TEXELS // 8, TEXELS)), 8, 0) * 0.05
    tone = tones[x // wide][None, :] * grain * np.where(x % wide == 0, 0.55, 1.0)
    boards: Array = colour * tone[..., None]
    return boards


WOOD = np.array((126.0, 84.0, 50.0))
IRON = np.array((70.0, 72.0, 82.0))


def _paint_walls(faces: Faces, palette: Palette, rng: np.random.Generator) -> tuple[Array, Array]:
    """Textures of all faces, and which of them bear a torch (their numbers)."""
    wall, joint = np.array(palette.wall, float), np.array(palette.joint, float)
    kinds = [
        _blocks(rng, wall, joint, 8, 16, 0.10),
        _blocks(rng, wall, joint, 8, 16, 0.10),
        _overgrown(_blocks(rng, wall, joint, 8, 16, 0.10), np.array(palette.accent, float), rng),
        _blocks(rng, wall * 0.94, joint, 16, 16, 0.08),
        _pillar(_blocks(rng, wall * 1.06, joint, 16, 32, 0.06)),
        _door(_blocks(rng, wall, joint, 8, 16, 0.10), rng),
        _banner(_blocks(rng, wall, joint, 8, 16, 0.10), np.array(palette.banner, float)),
        _torch(_blocks(rng, wall, joint, 8, 16, 0.10)),
    ]
    plain, pillar, door, banner, torch = [0, 1, 2, 3], 4, 5, 6, 7
    count = len(faces.side)
    kind = rng.choice(plain, count, p=(0.38, 0.3, 0.2, 0.12))
    draw = rng.random(count)
    kind[draw < 0.21] = banner
    kind[draw < 0.15] = door
    kind[draw < 0.09] = torch
    alone = np.bincount(_key(faces.cell), minlength=CELLS * CELLS)[_key(faces.cell)] == 4
    kind[alone] = pillar
    return np.stack(kinds)[kind], np.flatnonzero(kind == torch)


def _key(cells: Array) -> Array:
    number: Array = cells[:, 0] * CELLS + cells[:, 1]
    return number


def _overgrown(texture: Array, moss: Array, rng: np.random.Generator) -> Array:
    """Moss that grows from the bottom."""
    height = np.repeat(rng.integers(4, 15, TEXELS // 2), 2)
    y = np.arange(TEXELS)[:, None]
    grown = y >= TEXELS - height[None, :]
    shade = _noise(rng, 2, 0.16)[..., None]
    return np.where(grown[..., None], moss * shade, texture)


def _pillar(texture: Array) -> Array:
    """Round: dark at its edges, with a foot and a head."""
    x = (np.arange(TEXELS) + 0.5) / TEXELS * 2 - 1
    texture = texture * (0.55 + 0.5 * np.sqrt(1 - x**2))[None, :, None]
    texture[:4] *= 1.18
    texture[-4:] *= 1.18
    texture[4:6] *= 0.7
    texture[-6:-4] *= 0.7
    return texture


def _door(texture: Array, rng: np.random.Generator) -> Array:
    """A closed door of wood under an arch."""
    y, x = np.mgrid[0:TEXELS, 0:TEXELS]
    across = np.abs(x - 15.5)
    arch = (across < 10) & ((y >= 14) | (across**2 + (y - 14) ** 2 < 100))
    frame = (across < 12) & ((y >= 14) | (across**2 + (y - 14) ** 2 < 150))
    boards = _planks(rng, WOOD, 4)
    boards[(y == 12) | (y == 13) | (y == 24) | (y == 25)] = IRON
    boards[18:21, 21:23] = (196, 160, 84)
    out = np.where(frame[..., None], texture * 0.62, texture)
    return np.where(arch[..., None], boards, out)


def _banner(texture: Array, colour: Array) -> Array:
    """A cloth with a diamond, cut to two points below."""
    y, x = np.mgrid[0:TEXELS, 0:TEXELS]
    across = np.abs(x - 15.5)
    cloth = (across < 7) & (y >= 4) & (y < 20 + across * 0.8)
    folds = 1.0 + 0.12 * np.where((x // 3) % 2 == 0, 1.0, -1.0)
    sign = across + np.abs(y - 12) < 5
    painted = np.where(sign[..., None], (226.0, 202.0, 120.0), colour) * folds[..., None]
    out = np.where(cloth[..., None], painted, texture)
    out[3, 7:25] = WOOD
    return out


def _torch(texture: Array) -> Array:
    """A torch in a bracket; its flame is added with the light."""
    texture[14:22, 15:17] = WOOD
    texture[20:22, 13:19] = IRON
    texture[12:14, 14:18] = IRON
    return texture


def _flame(texture: Array, flame: Array) -> None:
    """Over lit torches [n 32 32 3], since a flame is no darker in the dark."""
    texture[:, 6:12, 14:18] = flame
    texture[:, 4:6, 15:17] = flame * 0.85
    texture[:, 8:12, 15:17] = np.minimum(flame * 1.25 + 40, 255)


def _paint_floor(solid: Array, palette: Palette, rng: np.random.Generator) -> Array:
    """All cells as one texture [x z 3]: flagstones, some small, some overgrown."""
    colour, joint = np.array(palette.floor, float), np.array(palette.joint, float)
    moss = np.array(palette.accent, float)
    plain = [_blocks(rng, colour, joint, 16, 16, 0.12) for _ in range(3)]
    small = [_blocks(rng, colour * 0.95, joint, 8, 8, 0.12)]
    patch = (_noise(rng, 4, 0.5) > 1.2)[..., None]
    grown = [np.where(patch, moss * 0.8 * _noise(rng, 2, 0.2)[..., None], plain[0])]
    kind = rng.choice(5, solid.shape, p=(0.35, 0.25, 0.12, 0.13, 0.15))
    return _tiled(np.stack([*plain, *small, *grown]), kind)


def _paint_ceiling(palette: Palette, rng: np.random.Generator) -> Array:
    colour, joint = np.array(palette.ceiling, float), np.array(palette.joint, float)
    if palette.planks:
        boards = _planks(rng, colour, 8)
        boards[:5] = colour * 0.62  # a beam
        boards[4] = colour * 0.45
        return _tiled(boards[None], np.zeros((CELLS, CELLS), int))
    stones = np.stack([_blocks(rng, colour, joint, 16, 16, 0.10) for _ in range(3)])
    return _tiled(stones, rng.integers(0, 3, (CELLS, CELLS)))


def _tiled(textures: Array, kind: Array) -> Array:
    """One texture [x z 3] of a cell's texture for each cell."""
    size = CELLS * TEXELS
    return textures[kind].transpose(0, 2, 1, 3, 4).reshape(size, size, 3)


# Light


def _light(
    solid: Array, faces: Faces, torches: Array, palette: Palette, walls: Array, ground: Array
) -> None:
    """Multiply textures in place by what light they get: a little everywhere, more from torches."""
    lamp = np.array(palette.flame, float) / 255
    spots = _face_points(faces, np.array([(0.5, 0.25)]))[torches, 0]  # [t 3]
    spots[:, [0, 2]] += SIDES[faces.side[torches]] * 0.15
    per_cell = TEXELS // BLOCK
    middles = (np.arange(per_cell) + 0.5) / per_cell
    grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)  # (along, down), row by row
    points, normals = _face_points(faces, grid), SIDES[faces.side]
    on_walls = np.zeros((len(points), per_cell**2))
    on_ground = np.zeros((2, CELLS, CELLS, per_cell, per_cell))
    steps = (np.arange(CELLS)[:, None] + middles) * CELL_M  # [cell texel]
    for torch, spot in zip(torches, spots, strict=True):
        reached = _reached(solid, faces.outside[torch])
        near = np.flatnonzero(reached[tuple(faces.outside.T)])
        to = spot - points[near]
        facing = np.einsum("fpc,fc->fp", to[..., [0, 2]], normals[near])
        on_walls[near] += _falloff((to**2).sum(-1), facing)
        xs, zs = np.nonzero(reached)
        flat = (steps[xs][:, :, None] - spot[0]) ** 2 + (steps[zs][:, None, :] - spot[2]) ** 2
        for plane, drop in enumerate((-spot[1], CELL_M + spot[1])):
            on_ground[plane, xs, zs] += _falloff(flat + drop**2, drop)
    shape = (len(points), per_cell, per_cell)
    walls *= _seen(on_walls.reshape(shape), lamp)
    size = CELLS * per_cell
    flat_light = on_ground.transpose(0, 1, 3, 2, 4).reshape(2, size, size)
    ground *= _seen(flat_light, lamp)
    lit = walls[torches]
    _flame(lit, np.array(palette.flame, float))
    walls[torches] = lit


def _face_points(faces: Faces, grid: Array) -> Array:
    """Places [f p 3] of points (along, down) [p 2] of every face, metres, y down from the floor."""
    corner = (faces.cell + np.maximum(SIDES[faces.side], 0)) * CELL_M
    along_x = faces.side >= 2
    x = corner[:, :1] + np.where(along_x[:, None], grid[:, 0] * CELL_M, 0.0)
    z = corner[:, 1:] + np.where(along_x[:, None], 0.0, grid[:, 0] * CELL_M)
    y = np.broadcast_to((grid[:, 1] - 1.0) * CELL_M, x.shape)
    return np.stack([x, y, z], -1)


def _reached(solid: Array, cell: Array, steps: int = 4) -> Array:
    """Open cells that light gets to from one, bool [x z]."""
    reached = np.zeros_like(solid)
    reached[tuple(cell)] = True
    for _ in range(steps):
        spread = reached.copy()
        spread[1:] |= reached[:-1]
        spread[:-1] |= reached[1:]
        spread[:, 1:] |= reached[:, :-1]
        spread[:, :-1] |= reached[:, 1:]
        reached = spread & ~solid
    return reached


def _falloff(square_m: Array, facing_m: Array | float) -> Array:
    """Light of one torch on a surface that it stands `facing_m` before."""
    slant = np.maximum(facing_m, 0.0) / np.sqrt(square_m)
    light: Array = (0.35 + 0.65 * slant) * np.maximum(facing_m > 0, 0.0) / (0.35 + square_m * 0.55)
    return light


def _seen(light: Array, lamp: Array) -> Array:
    """Factors [.. 3] of colours, for every texel, of light in blocks of texels."""
    soft = 1.35 * light / (0.4 + light)
    blocks = 0.72 + soft[..., None] * lamp
    return np.repeat(np.repeat(blocks, BLOCK, -3), BLOCK, -2)


def _smaller(textures: Array) -> list[Array]:
    """Levels of detail, each half as wide as the one before."""
    levels = [np.clip(textures, 0, 255)]
    for _ in range(LEVELS - 1):
        t = levels[-1]
        levels.append((t[:, ::2, ::2] + t[:, 1::2, ::2] + t[:, ::2, 1::2] + t[:, 1::2, 1::2]) / 4)
    return levels


def _packed(textures: Array) -> Array:
    whole = (textures + 0.5).astype(np.uint32)
    packed: Array = (whole[..., 0] | whole[..., 1] << 8 | whole[..., 2] << 16).ravel()
    return packed
