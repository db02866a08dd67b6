"""Where frames may be written; checked before there are any."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
MOST_SCALE = 16


def free_name(folder: Path, name: str, suffix: str) -> Path:
    """`name` with the time of day, to the millisecond."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return folder / f"{name}-{stamp}{suffix}"


def is_frame(entry: Path) -> bool:
    return entry.is_file() and entry.name.startswith("frame_") and entry.suffix == ".png"


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raises:
    ValueError: if `path` is taken and may not be replaced, or cannot be written at all.
    """
    if path.suffix.lower() not in (*VIDEO_SUFFIXES, ""):
        raise ValueError(
            f"output {path}: give a video ({', '.join(VIDEO_SUFFIXES)}) or a folder for PNG frames"
        )
    if path.exists() and not overwrite:
        raise ValueError(f"output {path} exists; add --overwrite to replace it")
    if path.exists() and path.is_dir() != (path.suffix == ""):
        raise ValueError(f"output {path} is {'a folder' if path.is_dir() else 'a file'}")
    if path.is_dir() and any(not is_frame(entry) for entry in path.iterdir()):
        raise ValueError(f"output folder {path} holds other files; they are never overwritten")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raises:
    ValueError: if the folder that is to hold `path` cannot be one.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise ValueError(f"output {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"output {path}: folder {nearest} is not writable")
