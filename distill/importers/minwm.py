"""Formats `minwm` and `worldplay`: videos whose cameras are keys, or JSON files of matrices.

    minwm      preencode_input.json [{"caption", "pose_str": "right-8, a-11"}], videos/000000_*/gen.mp4;
               or NAME.txt, one trajectory such as w*10,d*9, beside NAME.mp4
    worldplay  NAME.json {"0": {"extrinsic": world_from_camera, "K": pixels}} for every latent, or
               {"0": {"w2c": camera_from_world, "intrinsic": pixels}} for every frame, beside NAME.mp4

A key moves the camera by 0.08 units, or turns it by 3 degrees, per latent of 4 video frames (the first
frame stands alone), in the camera's own axes, pitch included. Latent i stands for video frame 4i. These
conventions are those of the published code of minWM and HY-WorldPlay.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.importers.arrays import check_count
from distill.importers.axes import inverse
from distill.importers.pictures import find_video, video_reader, video_times
from distill.importers.tracks import (
    Array,
    Frames,
    Hints,
    Item,
    Track,
    as_fractions,
    for_all,
    read_text,
    rigid,
)
from worldmodel.motion import world_from_camera_rotation

FRAMES_PER_LATENT = 4
UNITS_PER_LATENT = 0.08
TURN_PER_LATENT_RAD = math.radians(3.0)
LENS = (969.697 / 1920, 969.697 / 1080, 0.5, 0.5)  # of both projects' own videos

# right, down, ahead; then yaw to the right, pitch up
MOVES: dict[str, tuple[float, float, float, float, float]] = {
    "w": (0, 0, 1, 0, 0),
    "s": (0, 0, -1, 0, 0),
    "d": (1, 0, 0, 0, 0),
    "a": (-1, 0, 0, 0, 0),
    "u": (0, -1, 0, 0, 0),
    "dn": (0, 1, 0, 0, 0),
    "l": (0, 0, 0, 1, 0),
    "j": (0, 0, 0, -1, 0),
    "i": (0, 0, 0, 0, 1),
    "k": (0, 0, 0, 0, -1),
    "right": (0, 0, 0, 1, 0),
    "left": (0, 0, 0, -1, 0),
    "up": (0, 0, 0, 0, 1),
    "down": (0, 0, 0, 0, -1),
}
SEGMENT = re.compile(r"([a-z]+)\s*[-*]\s*(\d+)")


def find_minwm(src: Path, hints: Hints) -> list[Item]:
    """One item per row of `preencode_input.json`, or per trajectory file."""
    table = src / "preencode_input.json"
    if table.is_file():
        return _rows(src, table, hints)
    files = sorted(src.glob("*.txt"))
    if not files:
        raise ValueError(f"{src}: neither preencode_input.json nor trajectories (*.txt) in it")
    return [Item(path.stem, partial(_from_text, path, hints)) for path in files]


def _from_text(path: Path, hints: Hints) -> Track:
    video = find_video(path.parent, path.stem)
    return _from_keys(path.stem, path, video, read_text(path), hints)


def _rows(src: Path, table: Path, hints: Hints) -> list[Item]:
    try:
        rows = json.loads(read_text(table))
        told = [(str(row.get("caption", hints.prompt)), str(row["pose_str"])) for row in rows]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{table}: not a list of captions and pose strings ({error!r})") from None

    def open_row(index: int) -> Track:
        folder = next(iter(sorted((src / "videos").glob(f"{index:06d}_*"))), None)
        video = None if folder is None else find_video(folder)
        caption, keys = told[index]
        return _from_keys(f"{index:06d}", src / "videos", video, keys, hints, caption)

    return [Item(f"{i:06d}", partial(open_row, i)) for i in range(len(told))]


def _from_keys(
    name: str, where: Path, video: Path | None, keys: str, hints: Hints, prompt: str | None = None
) -> Track:
    if video is None:
        raise ValueError(f"{where}: no video for {name}")
    poses = walk(keys)
    times = _times(video, hints)
    check_count(video, len(times), len(poses))
    return Track(
        name=name,
        times_s=times,
        cameras=inverse(poses),
        intrinsics=for_all(np.array(LENS), len(poses)),
        read=video_reader(video),
        prompt=hints.prompt if prompt is None else prompt,
    )


def walk(keys: str) -> Array:
    """world_from_camera [1 + 4n 4 4] of a trajectory of n latents, one pose per video frame.

    Raises:
        ValueError: naming what is no key and count.
    """
    pose = np.eye(4)
    poses = [pose]
    for part in keys.replace("\n", ",").split(","):
        if not part.strip():
            continue
        match = SEGMENT.fullmatch(part.strip())
        if match is None or match[1] not in MOVES:
            raise ValueError(
                f"trajectory {keys!r}: {part.strip()!r} is no key and count such as w*10"
            )
        move = np.array(MOVES[match[1]]) / FRAMES_PER_LATENT
        for _ in range(FRAMES_PER_LATENT * int(match[2])):
            pose = pose.copy()
            yaw, pitch = TURN_PER_LATENT_RAD * move[3], TURN_PER_LATENT_RAD * move[4]
            pose[:3, :3] = pose[:3, :3] @ world_from_camera_rotation(yaw, pitch)
            pose[:3, 3] += UNITS_PER_LATENT * pose[:3, :3] @ move[:3]
            poses.append(pose)
    return np.stack(poses)


def find_worldplay(src: Path, hints: Hints) -> list[Item]:
    """One item per JSON file."""
    files = sorted(src.glob("*.json"))
    if not files:
        raise ValueError(f"{src}: no .json files in it")
    return [Item(path.stem, partial(_from_matrices, path, hints)) for path in files]


def _from_matrices(path: Path, hints: Hints) -> Track:
    video = find_video(path.parent, path.stem)
    if video is None:
        raise ValueError(f"{path}: no video {path.stem}.* beside it")
    cameras, lenses, per_latent = read_matrices(path)
    times, read = _times(video, hints), video_reader(video)
    places: Sequence[int] = range(len(times))
    if per_latent:
        places = range(0, len(times), FRAMES_PER_LATENT)
    check_count(video, len(places), len(cameras))

    def read_chosen(indices: Sequence[int]) -> Frames:
        return read([places[index] for index in indices])

    # their K belongs to a picture of twice its principal point, whatever the size of the video
    width, height = 2 * lenses[0, 0, 2], 2 * lenses[0, 1, 2]
    return Track(
        name=path.stem,
        times_s=times[list(places)],
        cameras=cameras,
        intrinsics=as_fractions(lenses, width, height),
        read=read_chosen,
        prompt=hints.prompt,
    )


def read_matrices(path: Path) -> tuple[Array, Array, bool]:
    """camera_from_world [n 4 4], K [n 3 3] in pixels, and whether they are one per latent.

    Raises:
        ValueError: if the file is none of the two kinds.
    """
    try:
        tree: dict[str, Any] = json.loads(read_text(path))
        rows = [tree[str(index)] for index in range(len(tree))]
        per_latent = "extrinsic" in rows[0]
        pose, lens = ("extrinsic", "K") if per_latent else ("w2c", "intrinsic")
        poses = np.array([row[pose] for row in rows], np.float64)
        lenses = np.array([row[lens] for row in rows], np.float64)
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no JSON of numbered poses and intrinsics ({error!r})") from None
    if poses.shape[1:] != (4, 4) or lenses.shape[1:] != (3, 3):
        raise ValueError(f"{path}: expected 4x4 poses and 3x3 intrinsics")
    return (inverse(rigid(poses)) if per_latent else poses), lenses, per_latent


def _times(video: Path, hints: Hints) -> Array:
    times = video_times(video)
    return times if hints.fps is None else np.arange(len(times)) / hints.fps
