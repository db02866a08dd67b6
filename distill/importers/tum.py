"""Format `tum`: `rgb.txt` lists images by time, `groundtruth.txt` (or tum.txt) poses by time.

    rgb.txt            TIMESTAMP FILE
    groundtruth.txt    TIMESTAMP tx ty tz qx qy qz qw      world_from_camera, OpenCV axes, metres

The two clocks tick differently: an image gets the pose in between, and is left out where there is none
within 0.1 s. Source: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.importers.arrays import intrinsics_needed, prompt_in
from distill.importers.axes import inverse, rotation_of, to_opencv
from distill.importers.pictures import image_reader, image_size
from distill.importers.tracks import (
    Array,
    Hints,
    Item,
    Track,
    as_fractions,
    folders_with,
    for_all,
    load_array,
    read_text,
)

FURTHEST_S = 0.1  # between the two poses around an image


def find(src: Path, hints: Hints) -> list[Item]:
    """One item per folder with an `rgb.txt`."""
    folders = folders_with(src, "rgb.txt")
    return [Item(folder.name, partial(_open, folder, hints)) for folder in folders]


def _open(folder: Path, hints: Hints) -> Track:
    listed = _lines(folder / "rgb.txt", 2)
    stamps = np.array([_number(folder / "rgb.txt", words[0]) for words in listed])
    images = [folder / words[1] for words in listed]
    truth = next(
        (folder / name for name in ("groundtruth.txt", "tum.txt") if (folder / name).is_file()),
        None,
    )
    if truth is None:
        raise ValueError(f"{folder}: no groundtruth.txt")
    rows = np.array([[_number(truth, word) for word in words] for words in _lines(truth, 8)])
    if len(rows) < 2:
        raise ValueError(f"{truth}: one pose is no trajectory")
    if (np.diff(rows[:, 0]) <= 0).any():
        raise ValueError(f"{truth}: timestamps out of order")
    kept, poses = interpolated(rows, stamps)
    if not len(kept):
        raise ValueError(f"{folder}: no image has poses around it; are the clocks the same?")
    size = image_size(images[int(kept[0])])
    lens = folder / "intrinsics.npy"
    intrinsics = (
        as_fractions(load_array(lens), *size)
        if lens.is_file()
        else intrinsics_needed(folder, size, hints)
    )
    return Track(
        name=folder.name,
        times_s=stamps[kept],
        cameras=inverse(to_opencv(poses, hints.axes)),
        intrinsics=for_all(intrinsics, len(kept)),
        read=image_reader([images[int(place)] for place in kept]),
        prompt=prompt_in(folder, hints),
    )


def interpolated(rows: Array, stamps: Array) -> tuple[NDArray[np.int64], Array]:
    """Which of `stamps` lie between poses close enough, and world_from_camera [n 4 4] there.

    `rows` [t 8] are TIMESTAMP tx ty tz qx qy qz qw. Positions go straight; rotations along the shorter
    great circle (Shoemake 1985), here as normalised sums: the two poses are milliseconds apart.
    """
    times = rows[:, 0]
    after = np.searchsorted(times, stamps).clip(1, len(times) - 1)
    before = after - 1
    span = times[after] - times[before]
    inside = (stamps >= times[0] - 1e-9) & (stamps <= times[-1] + 1e-9) & (span <= FURTHEST_S)
    kept = np.flatnonzero(inside)
    first, second = rows[before[kept], 1:], rows[after[kept], 1:]
    share = ((stamps[kept] - times[before[kept]]) / span[kept]).clip(0, 1)[:, None]
    q0, q1 = first[:, 3:], second[:, 3:]
    q1 = np.where((q0 * q1).sum(1, keepdims=True) < 0, -q1, q1)
    mixed = (1 - share) * q0 + share * q1
    poses = np.tile(np.eye(4), (len(kept), 1, 1))
    rotation_of(q0)  # refuses what is no rotation before a mean hides it
    poses[:, :3, :3] = rotation_of(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    poses[:, :3, 3] = (1 - share) * first[:, :3] + share * second[:, :3]
    return kept, poses


def _lines(path: Path, words: int) -> list[list[str]]:
    lines = [line.split() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line[0].startswith("#")]
    if not lines or any(len(line) != words for line in lines):
        raise ValueError(f"{path}: expected lines of {words} words")
    return lines


def _number(path: Path, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{path}: {word!r} is no number") from None
