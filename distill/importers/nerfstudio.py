"""Format `nerfstudio`: `transforms.json` with world_from_camera in OpenGL axes, and images.

Source: https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.importers.arrays import prompt_in, rate_needed
from distill.importers.axes import inverse, to_opencv
from distill.importers.pictures import image_reader, image_size
from distill.importers.tracks import Array, Hints, Item, Track, folders_with, read_text

PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def find(src: Path, hints: Hints) -> list[Item]:
    """One item per `transforms.json`."""
    folders = folders_with(src, "transforms.json")
    return [Item(folder.name, partial(_open, folder, hints)) for folder in folders]


def _open(folder: Path, hints: Hints) -> Track:
    path = folder / "transforms.json"
    try:
        scene = json.loads(read_text(path))
        frames = sorted(scene["frames"], key=lambda frame: str(frame["file_path"]))
        poses = np.array([frame["transform_matrix"] for frame in frames], np.float64)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a nerfstudio file ({error!r})") from None
    if not frames:
        raise ValueError(f"{path}: lists no frames")
    model = scene.get("camera_model", "OPENCV")
    if model not in PINHOLES:
        raise ValueError(f"{path}: camera_model {model}: undistort the images to a pinhole first")
    images = [_image(folder, str(frame["file_path"])) for frame in frames]
    size = image_size(images[0])
    lenses = [_lens(path, {**scene, **frame}, size) for frame in frames]
    if poses.shape[1:] == (3, 4):
        poses = np.concatenate([poses, np.tile([[[0.0, 0, 0, 1]]], (len(poses), 1, 1))], axis=1)
    return Track(
        name=folder.name,
        times_s=_times(folder, frames, hints),
        cameras=inverse(to_opencv(poses, "opengl")),
        intrinsics=np.array(lenses),
        read=image_reader(images),
        prompt=prompt_in(folder, hints),
    )


def _image(folder: Path, name: str) -> Path:
    """Some tools leave out the suffix."""
    for path in (folder / name, folder / f"{name}.png", folder / f"{name}.jpg"):
        if path.is_file():
            return path
    raise ValueError(f"{folder / name}: listed in transforms.json but not there")


def _lens(path: Path, facts: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, ...]:
    bent = [name for name in DISTORTION if abs(float(facts.get(name, 0.0))) > 1e-6]
    if bent:
        raise ValueError(f"{path}: distorted ({', '.join(bent)}): undistort the images first")
    width, height = float(facts.get("w", size[0])), float(facts.get("h", size[1]))
    if "fl_x" in facts:
        fx = float(facts["fl_x"])
    elif "camera_angle_x" in facts:
        fx = 0.5 * width / math.tan(0.5 * float(facts["camera_angle_x"]))
    else:
        raise ValueError(f"{path}: neither fl_x nor camera_angle_x")
    fy = float(facts.get("fl_y", fx))
    cx, cy = float(facts.get("cx", width / 2)), float(facts.get("cy", height / 2))
    return fx / width, fy / height, cx / width, cy / height


def _times(folder: Path, frames: list[dict[str, Any]], hints: Hints) -> Array:
    """From `time`, else from the numbers in the files' names: an export leaves out lost frames."""
    if hints.fps is None and all("time" in frame for frame in frames):
        return np.array([float(frame["time"]) for frame in frames])
    rate = rate_needed(folder, hints)
    numbers = [re.search(r"(\d+)$", Path(str(frame["file_path"])).stem) for frame in frames]
    if all(numbers):
        return np.array([int(found.group()) for found in numbers if found]) / rate
    return np.arange(len(frames)) / rate
