"""Frames of videos and image files, only those that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from distill.importers.tracks import Array, Read

VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def _stamps(path: Path) -> tuple[list[int], Fraction]:
    """When each frame is shown, rising, and the unit of that in seconds; without decoding."""
    import av  # only where there are videos: machines that train need not have it

    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            unit = stream.time_base
            packets = [packet for packet in container.demux(stream) if packet.size]
            shown = [packet.pts for packet in packets if not packet.is_discard]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path}: no video that can be read ({error})") from None
    if unit is None or not shown or None in shown:
        raise ValueError(f"{path}: a video without times")
    return sorted(stamp for stamp in shown if stamp is not None), unit


def video_times(path: Path) -> Array:
    """When each frame is shown, in seconds, rising.

    Raises:
        ValueError: if it is no video.
    """
    stamps, unit = _stamps(path)
    return np.array([float(stamp * unit) for stamp in stamps])


def video_size(path: Path) -> tuple[int, int]:
    """Width and height, pixels."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def video_reader(path: Path) -> Read:
    """Reads frames by their place in the order of showing.

    Frames are found by their time: one that cannot be decoded must not shift the others.
    """

    def read(indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        import av

        stamps, _ = _stamps(path)
        wanted = list(indices)
        try:
            with av.open(path) as container:
                for frame in container.decode(video=0):
                    if not wanted or frame.pts is None or frame.pts > stamps[wanted[0]]:
                        break
                    if frame.pts == stamps[wanted[0]]:
                        wanted.pop(0)
                        yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except av.FFmpegError as error:
            raise ValueError(f"{path}: broken off at frame {wanted[0]} ({error})") from None
        if wanted:
            raise ValueError(f"{path}: frame {wanted[0]} cannot be decoded")

    return read


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, pixels; raises ValueError if it is no picture."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: no picture that can be read ({error})") from None


def image_reader(paths: Sequence[Path]) -> Read:
    def read(indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for index in indices:
            try:
                with Image.open(paths[index]) as image:
                    yield np.asarray(image.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"{paths[index]}: no picture that can be read ({error})") from None

    return read


def find_video(folder: Path, stem: str | None = None) -> Path | None:
    """The only video of a folder, or the one called `stem`.

    Raises:
        ValueError: if there are several to choose from.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS)
    found = [path for path in found if stem in (None, path.stem)]
    if len(found) > 1:
        raise ValueError(f"{folder}: several videos: {', '.join(path.name for path in found)}")
    return found[0] if found else None


def images_of(folder: Path) -> list[Path]:
    """Its pictures, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
