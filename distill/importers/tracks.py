"""What every importer gives: frames with cameras, in time, in our axes; checked before writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frames = Iterator[NDArray[np.uint8]]
Read = Callable[[Sequence[int]], Frames]  # rising indices -> those frames (H, W, 3), RGB
Axes = Literal["opencv", "opengl", "unity", "unreal"]
AXES: tuple[Axes, ...] = ("opencv", "opengl", "unity", "unreal")
RIGID = 1e-2  # rounded files are this far from a rotation at most; what is further is none


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A walk through one world, not cut yet."""

    name: str
    times_s: Array  # [t], rising
    cameras: Array  # [t 4 4] camera_from_world, OpenCV axes, in units of the source
    intrinsics: Array  # [t 4] fx fy cx cy, fractions of the image
    read: Read
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that may turn out to be a track, or broken: then `open` raises ValueError."""

    name: str
    open: Callable[[], Track]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What files do not say themselves."""

    fps: float | None = None  # of the source, where it has no clock
    intrinsics_px: tuple[float, float, float, float] | None = None  # fx fy cx cy, pixels
    axes: Axes = "opencv"
    poses_are: Literal["world-from-camera", "camera-from-world"] | None = None
    prompt: str = ""
    # of what plays while it is imported:
    episodes: int = 20
    episode_frames: int = 600
    seed: int = 0
    height_px: int = 128
    width_px: int = 224
    spool: Path = Path("frames")  # a folder for their frames until they are written


def checked(track: Track) -> Track:
    """The same track with poses made exactly rigid.

    Raises:
        ValueError: if counts disagree, time does not rise, a pose is no rigid motion or a lens no lens.
    """
    counts = {len(track.times_s), len(track.cameras), len(track.intrinsics)}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"{len(track.times_s)} times, {len(track.cameras)} poses and"
            f" {len(track.intrinsics)} intrinsics: as many of each are needed, and at least one"
        )
    back = np.flatnonzero(~(np.diff(track.times_s) > 0))
    if back.size:
        k = int(back[0])
        raise ValueError(
            f"timestamps out of order: frame {k + 1} is at {track.times_s[k + 1]:g} s, frame {k}"
            f" at {track.times_s[k]:g} s"
        )
    fx, fy, cx, cy = track.intrinsics.T
    inside = (cx > 0) & (cx < 1) & (cy > 0) & (cy < 1)
    if not (np.isfinite(track.intrinsics).all() and ((fx > 0.1) & (fy > 0.1) & inside).all()):
        first = [round(float(x), 4) for x in track.intrinsics[0]]
        raise ValueError(f"intrinsics {first} are no lens (fractions of the image are expected)")
    return replace(track, cameras=rigid(track.cameras))


def rigid(poses: Array) -> Array:
    """[t 4 4] with every rotation replaced by the nearest exact one: files are rounded.

    Source: nearest rotation by singular values, Schoenemann 1966.

    Raises:
        ValueError: naming the first pose that is too far from a rigid motion.
    """
    if poses.shape[1:] != (4, 4):
        raise ValueError(f"poses must have shape (T, 4, 4), got {poses.shape}")
    if not np.isfinite(poses).all():
        bad = int(np.flatnonzero(~np.isfinite(poses).all((1, 2)))[0])
        raise ValueError(f"pose {bad} holds NaN or infinity")
    rotation = poses[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    off = np.maximum(off, np.abs(poses[:, 3] - (0, 0, 0, 1)).max(-1))
    if (off > RIGID).any():
        bad = int((off > RIGID).argmax())
        raise ValueError(f"pose {bad} cannot be rigid: off a rotation by {off[bad]:.2g}")
    mirrored = np.linalg.det(rotation) < 0
    if mirrored.any():
        raise ValueError(f"pose {int(mirrored.argmax())} mirrors: other axes were expected")
    left, _, right = np.linalg.svd(rotation)
    exact = poses.copy()
    exact[:, :3, :3] = left @ right
    exact[:, 3] = (0, 0, 0, 1)
    return exact


def as_fractions(values: Array, width_px: int, height_px: int) -> Array:
    """Intrinsics (4,), (t, 4), (3, 3) or (t, 3, 3), in pixels or fractions, as fractions [.. 4].

    The principal point tells which they are: a fraction lies between 0 and 1, no pixel does.

    Raises:
        ValueError: if the shape is another one, or there is skew.
    """
    values = np.asarray(values, np.float64)
    if values.shape[-2:] == (3, 3):
        if np.abs(values[..., 0, 1]).max() > 1e-6 * np.abs(values[..., 0, 0]).max():
            raise ValueError("intrinsics have skew, which no camera here has")
        k = values
        values = np.stack([k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]], -1)
    if values.shape[-1:] != (4,) or values.ndim > 2:
        raise ValueError(f"intrinsics must be fx fy cx cy or 3x3 matrices, got {values.shape}")
    if (values[..., 2:] <= 1.0).all():
        return values
    return values / np.array([width_px, height_px, width_px, height_px], np.float64)


def for_all(intrinsics: Array, count: int) -> Array:
    """[4] or [t 4] -> [t 4]; raises ValueError if there are others than `count`."""
    if intrinsics.ndim == 1 or len(intrinsics) == 1:
        return np.tile(intrinsics.reshape(1, 4), (count, 1))
    if len(intrinsics) != count:
        raise ValueError(f"{len(intrinsics)} intrinsics for {count} poses")
    return intrinsics


def folders_with(src: Path, name: str) -> list[Path]:
    """`src` if it holds a file `name`, else its folders that do.

    Raises:
        ValueError: if there is none.
    """
    if (src / name).is_file():
        return [src]
    found = sorted(path.parent for path in src.glob(f"*/{name}"))
    if not found:
        raise ValueError(f"{src}: neither it nor a folder in it holds {name}")
    return found


def load_array(path: Path) -> Array:
    """Numbers of a .npy file; never unpickles.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError):
        raise ValueError(f"{path}: not a .npy file of numbers") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: not a .npy file of numbers")
    return array.astype(np.float64)


def read_text(path: Path) -> str:
    """Raises ValueError naming the file if there is none or it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
