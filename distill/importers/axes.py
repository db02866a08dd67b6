"""Axes, handedness and the horizon: other conventions into ours (OpenCV: x right, y down, z forward).

A pose changes its camera's axes on one side and its world's on the other:
new_world_from_new_camera = new_from_old(world) @ world_from_camera @ old_from_new(camera). A source with
a right-handed world may keep it; a left-handed one must change both, or a mirror would remain.
"""

from __future__ import annotations

import numpy as np

from distill.importers.tracks import Array, Axes

# rows: our axes, in the source's camera axes
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])  # x right, y up, z back; right-handed
OPENCV_FROM_UNITY = np.diag([1.0, -1.0, 1.0])  # x right, y up, z forward; left-handed
OPENCV_FROM_UNREAL = np.array(  # x forward, y right, z up; left-handed
    [[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]
)
FEW_TURNS = 4e-4  # variance of the right axes (1 degree squared) below which they tell no horizon
ROLL = 20.0  # their spread by turns must be this many times that by roll


def to_opencv(world_from_camera: Array, axes: Axes) -> Array:
    """Poses [t 4 4] of a source with `axes` as world_from_camera in ours; lengths stay as they are."""
    if axes == "opencv":
        return world_from_camera
    if axes == "opengl":  # the world is right-handed already and stays
        return world_from_camera @ _lifted(OPENCV_FROM_OPENGL.T)
    change = _lifted(OPENCV_FROM_UNITY if axes == "unity" else OPENCV_FROM_UNREAL)
    return change @ world_from_camera @ change.T


def _lifted(rotation: Array) -> Array:
    lifted = np.eye(4)
    lifted[:3, :3] = rotation
    return lifted


def inverse(rigid: Array) -> Array:
    """Of rigid motions [... 4 4]."""
    inverted = np.zeros_like(rigid)
    inverted[..., :3, :3] = rigid[..., :3, :3].swapaxes(-1, -2)
    inverted[..., :3, 3] = -np.einsum("...ji,...j->...i", rigid[..., :3, :3], rigid[..., :3, 3])
    inverted[..., 3, 3] = 1.0
    return inverted


def rotation_of(quaternion_xyzw: Array) -> Array:
    """Rotations [... 3 3] of quaternions [... 4], x y z w, normalised here.

    Raises:
        ValueError: if one is far from unit length, so that the order or the column may be wrong.
    """
    length = np.linalg.norm(quaternion_xyzw, axis=-1, keepdims=True)
    if not (np.abs(length - 1) < 0.01).all():
        raise ValueError("a quaternion has not unit length; is the order x y z w?")
    x, y, z, w = np.moveaxis(quaternion_xyzw / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def levelled(cameras: Array) -> Array:
    """camera_from_world [t 4 4] in a world whose y points down, which begins where the walk does.

    The horizon is found from the cameras: people and games hold them without roll, so their right axes
    are horizontal. If they hardly turn, the mean of their down axes has to do. The first camera has
    x = z = 0 and yaw 0; heights (-y) are those above the lowest camera.
    """
    world_from_camera = inverse(cameras)
    right, down = world_from_camera[:, :3, 0], world_from_camera[:, :3, 1]
    vertical = _vertical(right, down)
    ahead = world_from_camera[0, :3, 2]
    ahead = ahead - vertical * (ahead @ vertical)
    if np.linalg.norm(ahead) < 1e-3:  # straight up or down: the camera's top tells what is ahead
        ahead = -down[0] * np.sign(world_from_camera[0, :3, 2] @ vertical)
        ahead = ahead - vertical * (ahead @ vertical)
    ahead /= np.linalg.norm(ahead)
    rotation = np.stack([np.cross(vertical, ahead), vertical, ahead])  # level_from_world
    turned = np.eye(4)
    turned[:3, :3] = rotation
    level = turned @ world_from_camera
    level[:, :3, 3] -= (*level[0, [0], 3], level[:, 1, 3].max(), level[0, 2, 3])
    return inverse(level)


def _vertical(right: Array, down: Array) -> Array:
    """The direction down, of unit length, from axes [t 3] of cameras without roll."""
    values, vectors = np.linalg.eigh(right.T @ right / len(right))  # rising
    mean = down.mean(0)
    if values[1] > max(FEW_TURNS, ROLL * values[0]):
        vertical = vectors[:, 0]
        return vertical * (1.0 if vertical @ mean >= 0 else -1.0)
    across = vectors[:, 2]  # where the right axes lie, whichever way they point
    mean = mean - across * (mean @ across)
    return mean / np.linalg.norm(mean)
