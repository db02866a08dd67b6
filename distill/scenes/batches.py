"""Draw commands: which instances and which pieces of land each frame draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.scenes.kinds import FAR_M, Kind, kinds
from distill.scenes.objects import Objects
from distill.scenes.terrain import CELL_M, CHUNK_CELLS, CHUNKS, POINTS, SIZE_M, Terrain
from distill.scenes.views import Views, reach, seen

COMMAND_WORDS = 5  # of an indirect draw; moderngl reads both sorts with this stride


@dataclass(frozen=True, slots=True, eq=False)
class Commands:
    """Indirect draws of all frames, one after the other."""

    words: NDArray[np.uint32]  # (draws, COMMAND_WORDS)
    first: NDArray[np.int64]  # per frame
    count: NDArray[np.int64]


def mesh_ranges() -> NDArray[np.int64]:
    """(kinds, 2): first vertex and number of vertices in the concatenated meshes."""
    counts = np.array([len(kind.mesh) for kind in kinds()])
    return np.stack([np.cumsum(counts) - counts, counts], -1)


def object_commands(objects: Objects, views: Views) -> tuple[NDArray[np.float32], Commands]:
    """Instance rows, gathered per frame, and the draws that use them."""
    near = _near(objects, views)
    data = objects.data[near]
    kind = objects.kind[near]
    centre = data[:, :3]
    visible = seen(views, centre, objects.radius_m[near].astype(np.float32))
    eye = views.eye.astype(np.float32)
    small = np.nonzero(data[:, 9] < FAR_M)[0]  # large things are drawn however far they are
    away = (centre[small, 0] - eye[:, :1]) ** 2 + (centre[small, 2] - eye[:, 2:]) ** 2
    visible[:, small] &= away < data[small, 9] ** 2
    frame, row = np.nonzero(visible)
    return data[row], _grouped(frame, kind[row], len(views.eye))


def _near(objects: Objects, views: Views) -> NDArray[np.int64]:
    x, z, radius = reach(views)
    away = np.hypot(objects.x_m - np.float32(x), objects.z_m - np.float32(z))
    return np.nonzero(away < objects.data[:, 9] + np.float32(radius))[0]


def _grouped(frame: NDArray[np.int64], kind: NDArray[np.int64], frames: int) -> Commands:
    """One draw per frame and kind; instances already lie in that order."""
    ranges = mesh_ranges()
    key = frame * len(ranges) + kind
    groups, base, instances = np.unique(key, return_index=True, return_counts=True)
    words = np.zeros((len(groups), COMMAND_WORDS), np.uint32)
    words[:, 0] = ranges[groups % len(ranges), 1]
    words[:, 1] = instances
    words[:, 2] = ranges[groups % len(ranges), 0]
    words[:, 3] = base
    count = np.bincount(groups // len(ranges), minlength=frames)
    return Commands(words, np.cumsum(count) - count, count)


def all_objects(objects: Objects) -> Commands:
    """Every instance that can cast a shadow worth seeing, once."""
    groups, base, instances = np.unique(objects.kind, return_index=True, return_counts=True)
    keep = np.array([_casts_shadow(kinds()[k]) for k in groups], bool)
    groups, base, instances = groups[keep], base[keep], instances[keep]
    ranges = mesh_ranges()
    words = np.zeros((len(groups), COMMAND_WORDS), np.uint32)
    words[:, 0], words[:, 1] = ranges[groups, 1], instances
    words[:, 2], words[:, 3] = ranges[groups, 0], base
    return Commands(words, np.zeros(1, np.int64), np.array([len(groups)]))


def _casts_shadow(kind: Kind) -> bool:
    """Shadows are baked once, so what moves has none."""
    return kind.draw_distance_m > 60.0 and not kind.motion


def chunk_indices() -> NDArray[np.uint32]:
    """The triangles of one chunk, from its first point on; split as in `Terrain.height_at`."""
    start = np.arange(CHUNK_CELLS)[:, None] * POINTS + np.arange(CHUNK_CELLS)[None, :]
    a, b, c, d = start, start + 1, start + POINTS, start + POINTS + 1
    return np.stack([a, c, b, b, c, d], -1).reshape(-1).astype(np.uint32)


def chunk_balls(terrain: Terrain) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres and radii of balls around the chunks."""
    inner = terrain.height[:-1, :-1].reshape(CHUNKS, CHUNK_CELLS, CHUNKS, CHUNK_CELLS)
    low, high = (
        inner.min((1, 3)).ravel() - 6.0,
        inner.max((1, 3)).ravel() + 6.0,
    )  # 6: the far border
    side = CHUNK_CELLS * CELL_M
    line = (np.arange(CHUNKS) + 0.5) * side - 0.5 * SIZE_M
    z, x = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    radius = np.sqrt(0.5 * side**2 + (0.5 * (high - low)) ** 2)
    return np.stack([x, 0.5 * (low + high), z], -1).astype(np.float32), radius.astype(np.float32)


def land_commands(terrain: Terrain, views: Views) -> Commands:
    centre, radius = chunk_balls(terrain)
    frame, chunk = np.nonzero(seen(views, centre, radius))
    return _land(frame, chunk, len(views.eye))


def all_land() -> Commands:
    return _land(np.zeros(CHUNKS**2, np.int64), np.arange(CHUNKS**2), 1)


def _land(frame: NDArray[np.int64], chunk: NDArray[np.int64], frames: int) -> Commands:
    words = np.zeros((len(frame), COMMAND_WORDS), np.uint32)
    words[:, 0] = 6 * CHUNK_CELLS**2
    words[:, 1] = 1
    words[:, 3] = (chunk // CHUNKS) * CHUNK_CELLS * POINTS + (chunk % CHUNKS) * CHUNK_CELLS
    count = np.bincount(frame, minlength=frames)
    return Commands(words, np.cumsum(count) - count, count)
