"""Camera paths for runs without a player: trajectory text and pose files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.pacing import cameras_per_second
from worldmodel import trajectory
from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.types import Camera, GeneratorSpec, check_rigid

Poses = NDArray[np.float64]  # (T, 4, 4) camera_from_world, the start first


DEFAULT_TRAJECTORY = "w*24,wl*24,w*24"


def walk_trajectory(text: str, spec: GeneratorSpec) -> Poses:
    """The poses of a trajectory string, one command per camera."""
    return walk_commands(trajectory.parse(text, cameras_per_second(spec)), spec)


def walk_ahead(frames: int, spec: GeneratorSpec) -> Poses:
    """Just enough poses for that many frames."""
    cameras = math.ceil((frames - 1) * spec.cameras_per_step / spec.frames_per_step)
    return walk_commands([Command(forward=1.0)] * cameras, spec)


def walk_commands(commands: Sequence[Command], spec: GeneratorSpec) -> Poses:
    """The start pose and one pose per command, by the same motion as in play."""
    rate = cameras_per_second(spec)
    viewpoint = Viewpoint()
    poses = [viewpoint.camera_from_world()]
    for command in commands:
        viewpoint = advance(viewpoint, command, rate, spec.limits)
        poses.append(viewpoint.camera_from_world())
    return np.stack(poses)


def read_poses(path: Path, *, world_from_camera: bool = False) -> Poses:
    """Read a .npy file of (T, 4, 4) OpenCV poses; never unpickles.

    Raises:
        ValueError: naming the file, and the index of the first pose that is no rigid motion.
    """
    poses = _read_array(path)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise ValueError(f"poses {path}: expected an array of shape (T, 4, 4), got {poses.shape}")
    for index, pose in enumerate(poses):
        try:
            check_rigid(pose)
        except ValueError as error:
            raise ValueError(f"poses {path}: index {index}: {error}") from None
    return np.linalg.inv(poses).astype(np.float64) if world_from_camera else poses


def cameras(poses: Poses, spec: GeneratorSpec) -> list[Camera]:
    return [Camera(pose, spec.intrinsics) for pose in poses]


def frame_count(poses: int, spec: GeneratorSpec) -> int:
    """How many frames a path has: the start frame, and those of one camera per further pose."""
    return 1 + (poses - 1) * spec.frames_per_step // spec.cameras_per_step


def _read_array(path: Path) -> NDArray[np.float64]:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"poses {path} does not exist") from None
    except (ValueError, EOFError, OSError):
        # numpy suggests unpickling for everything it does not know; that is never an option here.
        raise ValueError(f"poses {path}: not a .npy file of numbers") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"poses {path}: not a .npy file of numbers")
    return array.astype(np.float64)
