"""The way of a recording in the formats of other programs.

    poses.npy         (T, 4, 4) camera_from_world, OpenCV axes: what `--poses` reads
    intrinsics.npy    (T, 4) fx fy cx cy, fractions of the image
    tum.txt           a line per frame: seconds, position and quaternion (x y z w) of world_from_camera
    transforms.json   nerfstudio: world_from_camera with OpenGL axes (y up, z back), pixels; and images/

Sources: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats and
https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.events import VIDEO
from engine.replay import Recording, Seen, trajectory
from engine.video import read_video

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # its own inverse
IMAGE_NAME = "images/frame_{:06d}.png"


def export(recording: Recording, folder: Path) -> int:
    """Write all formats into a new folder, complete or not at all; return how many frames.

    Raises:
        ValueError: if the folder exists or the video cannot be read.
    """
    if folder.exists():
        raise ValueError(f"output {folder} exists; name a new folder")
    seen = trajectory(recording)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    (partial / "images").mkdir(parents=True)
    try:
        poses = np.stack([one.camera.camera_from_world for one in seen])
        lenses = [one.camera.intrinsics for one in seen]
        np.save(partial / "poses.npy", poses, allow_pickle=False)
        intrinsics = np.array([(lens.fx, lens.fy, lens.cx, lens.cy) for lens in lenses])
        np.save(partial / "intrinsics.npy", intrinsics, allow_pickle=False)
        rate = float(recording.header["frames_per_second"])
        (partial / "tum.txt").write_text(tum_lines(poses, rate), encoding="utf-8")
        images = _write_images(recording, seen, partial)
        transforms = nerfstudio(recording, seen, images)
        (partial / "transforms.json").write_text(
            json.dumps(transforms, indent=1) + "\n", encoding="utf-8"
        )
        partial.rename(folder)
    except BaseException:  # an interrupted export leaves nothing behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return len(seen)


def tum_lines(poses: NDArray[np.float64], rate: float) -> str:
    """The trajectory format of the TUM RGB-D benchmark."""
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for index, pose in enumerate(poses):
        world_from_camera = np.linalg.inv(pose)
        numbers = [*world_from_camera[:3, 3], *quaternion(world_from_camera[:3, :3])]
        lines.append(" ".join([f"{index / rate:.6f}", *(f"{number:.9f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """x y z w, with w >= 0, of a (3, 3) rotation: from its largest component, which is stable.

    Source: S. W. Shepperd, Quaternion from rotation matrix, 1978.
    """
    trace = float(np.trace(rotation))
    diagonal = [float(rotation[i, i]) for i in range(3)]
    squares = [1.0 + 2.0 * diagonal[i] - trace for i in range(3)] + [1.0 + trace]
    largest = int(np.argmax(squares))
    scale = math.sqrt(squares[largest])
    q = [0.0] * 4
    if largest == 3:
        q[3] = scale
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            q[i] = float(rotation[k, j] - rotation[j, k]) / scale
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = scale
        q[j] = float(rotation[j, i] + rotation[i, j]) / scale
        q[k] = float(rotation[k, i] + rotation[i, k]) / scale
        q[3] = float(rotation[k, j] - rotation[j, k]) / scale
    sign = -0.5 if q[3] < 0 else 0.5
    return sign * q[0], sign * q[1], sign * q[2], sign * q[3]


def nerfstudio(recording: Recording, seen: list[Seen], images: dict[int, str]) -> dict[str, object]:
    """`transforms.json`; frames whose image the video does not have are left out."""
    width, height = recording.header["size_px"]
    frames = []
    for index, one in enumerate(seen):
        if index not in images:
            continue
        lens = one.camera.intrinsics
        world_from_camera = np.linalg.inv(one.camera.camera_from_world) @ OPENGL_FROM_OPENCV
        frames.append(
            {
                "file_path": images[index],
                "transform_matrix": world_from_camera.tolist(),
                "fl_x": lens.fx * width,
                "fl_y": lens.fy * height,
                "cx": lens.cx * width,
                "cy": lens.cy * height,
            }
        )
    return {"camera_model": "OPENCV", "w": width, "h": height, "frames": frames}


def _write_images(recording: Recording, seen: list[Seen], folder: Path) -> dict[int, str]:
    """The frames of the way from the video: their index -> their file."""
    index_by_video_frame = {one.video_frame: index for index, one in enumerate(seen)}
    files = {}
    for number, frame in read_video(recording.folder / VIDEO):
        index = index_by_video_frame.get(number)
        if index is not None:
            files[index] = IMAGE_NAME.format(index)
            Image.fromarray(frame).save(folder / files[index])
    return files
