"""Format `poses`: a video (or images) beside `poses.npy` and `intrinsics.npy`.

video.mp4, or images/*.png         one frame per pose
poses.npy        (T, 4, 4)         world_from_camera, unless --poses-are says otherwise
intrinsics.npy   (4,) (T, 4) (3, 3) or (T, 3, 3), pixels or fractions of the image
prompt.txt                         optional
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from distill.importers.axes import inverse, to_opencv
from distill.importers.pictures import (
    find_video,
    image_reader,
    image_size,
    images_of,
    video_reader,
    video_size,
    video_times,
)
from distill.importers.tracks import (
    Array,
    Hints,
    Item,
    Read,
    Track,
    as_fractions,
    folders_with,
    for_all,
    load_array,
    read_text,
    rigid,
)


def find(src: Path, hints: Hints) -> list[Item]:
    """One item per folder with a `poses.npy`."""
    folders = folders_with(src, "poses.npy")
    return [Item(folder.name, partial(_open, folder, hints)) for folder in folders]


def _open(folder: Path, hints: Hints) -> Track:
    poses = load_array(folder / "poses.npy")
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"{folder / 'poses.npy'}: expected (T, 4, 4), got {poses.shape}")
    if hints.poses_are is None and (folder / "transforms.json").is_file():
        raise ValueError(
            f"{folder}: an export of this program holds the inverse of what is usual: add"
            " --poses-are camera-from-world"
        )
    times, size, read = frames_in(folder, hints)
    check_count(folder, len(times), len(poses))
    if hints.poses_are == "camera-from-world":
        poses = inverse(rigid(poses))
    return Track(
        name=folder.name,
        times_s=times,
        cameras=inverse(to_opencv(poses, hints.axes)),
        intrinsics=for_all(_intrinsics(folder, size, hints), len(poses)),
        read=read,
        prompt=prompt_in(folder, hints),
    )


def frames_in(folder: Path, hints: Hints) -> tuple[Array, tuple[int, int], Read]:
    """Times, width and height, and a reader of the video or the images of a folder."""
    video = find_video(folder)
    if video is not None:
        times = video_times(video)
        if hints.fps is not None:
            times = np.arange(len(times)) / hints.fps
        return times, video_size(video), video_reader(video)
    images = next(
        (found for name in ("images", "frames") if (found := images_of(folder / name))), []
    )
    if not images:
        raise ValueError(f"{folder}: no video in it, and no images/")
    return (
        np.arange(len(images)) / rate_needed(folder, hints),
        image_size(images[0]),
        image_reader(images),
    )


def rate_needed(where: Path, hints: Hints) -> float:
    """Raises ValueError if nobody said how many frames a second there are."""
    if hints.fps is None:
        raise ValueError(f"{where}: images have no clock; say how many a second with --source-fps")
    return hints.fps


def check_count(where: Path, frames: int, poses: int) -> None:
    """Raises ValueError if there is not a frame for every pose."""
    if frames != poses:
        shorter = "shorter than its poses" if frames < poses else "longer than its poses"
        raise ValueError(f"{where}: a video {shorter}: {frames} frames, {poses} poses")


def prompt_in(folder: Path, hints: Hints) -> str:
    path = folder / "prompt.txt"
    return read_text(path).strip() if path.is_file() else hints.prompt


def _intrinsics(folder: Path, size: tuple[int, int], hints: Hints) -> Array:
    path = folder / "intrinsics.npy"
    if path.is_file():
        return as_fractions(load_array(path), *size)
    return intrinsics_needed(folder, size, hints)


def intrinsics_needed(where: Path, size: tuple[int, int], hints: Hints) -> Array:
    """Raises ValueError if nobody said what the lens is."""
    if hints.intrinsics_px is None:
        raise ValueError(f"{where}: no intrinsics; give --intrinsics fx,fy,cx,cy in pixels")
    width, height = size
    fx, fy, cx, cy = hints.intrinsics_px
    return np.array([fx / width, fy / height, cx / width, cy / height])
