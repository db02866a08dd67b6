from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.paths import frame_count, read_poses, walk_ahead, walk_trajectory
from worldmodel import trajectory

from .fakes import SPEC


def test_a_trajectory_has_its_start_pose_and_one_pose_per_frame() -> None:
    poses = walk_trajectory("w*20,l*10,wd*8", SPEC)
    assert poses.shape == (39, 4, 4)
    assert np.array_equal(poses[0], np.eye(4))
    assert frame_count(len(poses), SPEC) == 39


@pytest.mark.parametrize(
    ("text", "column", "complaint"),
    [
        ("w*20,x*3", 6, "unknown key 'x'"),
        ("w*20,,d", 6, "expected keys"),
        ("w*0", 1, "at least 1"),
        ("w*20,l*ten", 6, "at least 1"),
        ("", 1, "expected keys"),
    ],
)
def test_a_bad_trajectory_names_the_column(text: str, column: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"column {column}: .*{complaint}"):
        trajectory.parse(text, 12.0)


@pytest.mark.parametrize(("cameras", "frames"), [(1, 1), (1, 4), (4, 4), (3, 12)])
@pytest.mark.parametrize("wanted", [1, 2, 9])
def test_walking_ahead_yields_enough_frames(cameras: int, frames: int, wanted: int) -> None:
    spec = replace(SPEC, cameras_per_step=cameras, frames_per_step=frames)
    poses = walk_ahead(wanted, spec)
    assert frame_count(len(poses), spec) >= wanted
    assert len(poses) == 1 or frame_count(len(poses) - 1, spec) < wanted


def test_poses_survive_a_file_and_its_inverse(tmp_path: Path) -> None:
    poses = walk_trajectory("wl*5,wi*5", SPEC)
    np.save(tmp_path / "poses.npy", poses)
    np.save(tmp_path / "inverse.npy", np.linalg.inv(poses).astype(np.float32))
    assert np.array_equal(read_poses(tmp_path / "poses.npy"), poses)
    back = read_poses(tmp_path / "inverse.npy", world_from_camera=True)
    assert np.allclose(back, poses, atol=1e-6)


def test_a_bad_pose_is_named_by_its_index(tmp_path: Path) -> None:
    file = tmp_path / "poses.npy"
    for damage, complaint in [(np.nan, "NaN"), (2.0, "not rigid")]:
        poses = np.tile(np.eye(4), (5, 1, 1))
        poses[3, 0, 0] = damage
        np.save(file, poses)
        with pytest.raises(ValueError, match=f"index 3: .*{complaint}"):
            read_poses(file)


@pytest.mark.parametrize(
    "content", [b"", b"not numpy", b"\x93NUMPY\x01\x00"], ids=["empty", "text", "cut off"]
)
def test_what_is_no_npy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "poses.npy"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers"):
        read_poses(file)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    file = tmp_path / "poses.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers"):
        read_poses(file)


def test_poses_of_another_shape_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "poses.npy"
    np.save(file, np.zeros((3, 3, 4)))
    with pytest.raises(ValueError, match=r"shape \(T, 4, 4\), got \(3, 3, 4\)"):
        read_poses(file)
