"""Format `realestate10k`: text files with a URL and, per frame, a time, a lens and a 3x4 pose.

    https://www.youtube.com/watch?v=...
    TIMESTAMP_US fx fy cx cy 0 0 r00 r01 r02 tx r10 ... tz       fractions; camera_from_world, OpenCV

Beside NAME.txt lie the frames: a video NAME.mp4, or a folder NAME/ of images named by their timestamp.
Source: https://google.github.io/realestate10k/download.html
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from distill.importers.pictures import (
    find_video,
    image_reader,
    images_of,
    video_reader,
    video_times,
)
from distill.importers.tracks import Array, Frames, Hints, Item, Read, Track, read_text

COLUMNS = 19


def find(src: Path, hints: Hints) -> list[Item]:
    """One item per text file of `src`."""
    files = [src] if src.is_file() else sorted(src.glob("*.txt"))
    if not files:
        raise ValueError(f"{src}: no .txt files in it")
    return [Item(path.stem, partial(_open, path, hints)) for path in files]


def _open(path: Path, hints: Hints) -> Track:
    rows = _rows(path)
    times = rows[:, 0] / 1e6
    cameras = np.tile(np.eye(4), (len(rows), 1, 1))
    cameras[:, :3] = rows[:, 7:].reshape(-1, 3, 4)
    places, read = _frames(path, rows[:, 0])

    def read_chosen(indices: Sequence[int]) -> Frames:
        return read([places[index] for index in indices])

    return Track(
        name=path.stem,
        times_s=times,
        cameras=cameras,
        intrinsics=rows[:, 1:5],
        read=read_chosen,
        prompt=hints.prompt,
    )


def _rows(path: Path) -> Array:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if lines and len(lines[0]) == 1:  # the URL
        lines = lines[1:]
    try:
        rows = np.array([[float(word) for word in line] for line in lines])
    except ValueError as error:
        raise ValueError(f"{path}: not a RealEstate10K file ({error})") from None
    if rows.ndim != 2 or rows.shape[1] != COLUMNS:
        raise ValueError(f"{path}: expected lines of {COLUMNS} numbers, got {rows.shape}")
    return rows


def _frames(path: Path, stamps_us: Array) -> tuple[list[int], Read]:
    """Where each row's frame is among the frames that `read` counts."""
    images = images_of(path.with_suffix(""))
    if images:
        known = {image.stem: place for place, image in enumerate(images)}
        missing = [f"{stamp:.0f}" for stamp in stamps_us if f"{stamp:.0f}" not in known]
        if missing:
            raise ValueError(f"{path.with_suffix('')}: no image for timestamp {missing[0]}")
        return [known[f"{stamp:.0f}"] for stamp in stamps_us], image_reader(images)
    video = find_video(path.parent, path.stem)
    if video is None:
        raise ValueError(f"{path}: neither a folder of images nor a video of that name beside it")
    shown = video_times(video)
    places = np.abs(shown[None] - stamps_us[:, None] / 1e6).argmin(1)
    period = float(np.median(np.diff(shown))) if len(shown) > 1 else 0.0
    late = np.abs(shown[places] - stamps_us / 1e6) > 0.75 * period
    if late.any():
        stamp = stamps_us[int(late.argmax())] / 1e6
        raise ValueError(f"{video}: a video shorter than its poses: no frame at {stamp:g} s")
    if (np.diff(places) <= 0).any():
        raise ValueError(f"{path}: timestamps out of order, or two for one frame of {video.name}")
    return places.tolist(), video_reader(video)
