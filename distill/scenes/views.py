"""From commanded viewpoints to what the renderer needs: eyes, matrices, and what each frame sees.

World coordinates are (x, up, z): the viewpoint's axes with the vertical turned round. Everything is
computed for all frames of a clip at once, because Python calls, not arithmetic, are what costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.scenes.terrain import Terrain
from distill.scenes.world import Placement
from worldmodel.motion import Viewpoint, world_from_camera_rotation
from worldmodel.types import Intrinsics

EYE_HEIGHT_M = 1.7
NEAR_M, FAR_M = 0.12, 1200.0
_UP = np.diag([1.0, -1.0, 1.0])  # turns "down" into "up"; its own inverse

FRAME_BLOCK_BYTES = 256  # std140 size of `Frame`, rounded up to the offset alignment of all drivers


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """All frames of a clip; arrays start with the frame axis."""

    eye: NDArray[np.float64]  # (f, 3): x, up, z
    camera_from_world: NDArray[np.float64]  # (f, 3, 3) rotation, world with up
    lens: NDArray[np.float64]  # (f, 4): fx fy cx cy
    seconds: NDArray[np.float64]  # (f,) since the first frame of the clip; zeros where time stands


def make_views(
    terrain: Terrain,
    placement: Placement,
    viewpoints: Sequence[Viewpoint],
    lenses: Sequence[Intrinsics],
    seconds: NDArray[np.float64] | None = None,
) -> Views:
    """Stand the commanded viewpoints on the ground of a world."""
    c, s = np.cos(placement.yaw_rad), np.sin(placement.yaw_rad)
    x = np.array([v.x_m for v in viewpoints])
    z = np.array([v.z_m for v in viewpoints])
    world_x = placement.x_m + c * x + s * z
    world_z = placement.z_m - s * x + c * z
    height = np.array([-v.y_m for v in viewpoints])
    eye_up = terrain.ground_at(world_x, world_z) + EYE_HEIGHT_M + height
    rotations = np.stack(
        [world_from_camera_rotation(v.yaw_rad + placement.yaw_rad, v.pitch_rad) for v in viewpoints]
    )
    lens = np.array([(k.fx, k.fy, k.cx, k.cy) for k in lenses])
    camera_from_world = rotations.transpose(0, 2, 1) @ _UP
    when = np.zeros(len(viewpoints)) if seconds is None else seconds
    return Views(np.stack([world_x, eye_up, world_z], -1), camera_from_world, lens, when)


def frame_blocks(views: Views) -> NDArray[np.float32]:
    """The `Frame` uniform blocks: (f, FRAME_BLOCK_BYTES / 4).

    Images are drawn upside down for OpenGL, so that they are read back top row first.
    """
    count = len(views.eye)
    fx, fy, cx, cy = views.lens.T
    project = np.zeros((count, 4, 4))
    project[:, 0, 0], project[:, 0, 2] = 2.0 * fx, 2.0 * cx - 1.0
    project[:, 1, 1], project[:, 1, 2] = 2.0 * fy, 2.0 * cy - 1.0
    project[:, 2, 2] = (FAR_M + NEAR_M) / (FAR_M - NEAR_M)
    project[:, 2, 3] = -2.0 * FAR_M * NEAR_M / (FAR_M - NEAR_M)
    project[:, 3, 2] = 1.0
    pose = np.zeros((count, 4, 4))
    pose[:, :3, :3] = views.camera_from_world
    pose[:, :3, 3] = -np.einsum("fij,fj->fi", views.camera_from_world, views.eye)
    pose[:, 3, 3] = 1.0
    right, down, forward = views.camera_from_world.transpose(1, 0, 2)
    blocks = np.zeros((count, FRAME_BLOCK_BYTES // 4), np.float32)
    blocks[:, :16] = (project @ pose).transpose(0, 2, 1).reshape(count, 16)
    blocks[:, 16:19], blocks[:, 19] = views.eye, views.seconds
    across, along = 0.5 / fx[:, None], 0.5 / fy[:, None]
    shift_x, shift_y = (2.0 * cx[:, None] - 1.0) * across, (2.0 * cy[:, None] - 1.0) * along
    blocks[:, 20:23] = forward - shift_x * right - shift_y * down
    blocks[:, 24:27] = right * across
    blocks[:, 28:31] = down * along
    return blocks


def seen(
    views: Views, centre: NDArray[np.float32], radius: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which balls (m, 3) touch the view of which frame: (f, m)."""
    rotation = views.camera_from_world.astype(np.float32)
    offset = np.einsum("fij,fj->fi", views.camera_from_world, views.eye).astype(np.float32)
    local = np.matmul(rotation, centre.T) - offset[:, :, None]
    x, y, z = local[:, 0], local[:, 1], local[:, 2]
    tangent = ((0.5 + np.abs(views.lens[:, 2:] - 0.5)) / views.lens[:, :2]).astype(np.float32)
    inside: NDArray[np.bool_] = z > -radius
    for side, half in ((np.abs(x), tangent[:, :1]), (np.abs(y), tangent[:, 1:])):
        inside &= side - half * z < radius * np.sqrt(1.0 + half * half)
    return inside


def reach(views: Views) -> tuple[float, float, float]:
    """A circle on the map (x, z, radius) that holds the whole path."""
    low, high = views.eye.min(0), views.eye.max(0)
    middle = 0.5 * (low + high)
    return float(middle[0]), float(middle[2]), float(0.5 * np.hypot(*(high - low)[[0, 2]]))
