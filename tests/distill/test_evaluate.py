"""What the evaluation compares, and what it leaves out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distill.evaluate import _has_moved, markdown, wrong_cameras
from distill.rollout import Views
from tests.worldmodel import tiny
from worldmodel.types import check_rigid


def _cameras(seeds: tuple[int, ...]) -> Tensor:
    clips = [np.stack([camera.camera_from_world for camera in tiny.walk(6, s)]) for s in seeds]
    return torch.from_numpy(np.stack(clips))


def _views(cameras: Tensor) -> Views:
    b, f = cameras.shape[:2]
    return Views(cameras=cameras, intrinsics=torch.ones(b, f, 4), words=torch.zeros(b, 1))


def test_clips_whose_camera_rests_are_told_apart() -> None:
    cameras = _cameras((1, 2))
    cameras[1, 1:] = cameras[1, :1]
    assert _has_moved(cameras, 0, 5).tolist() == [True, False]


def test_the_wrong_camera_starts_where_the_right_one_does_and_moves_as_its_neighbour() -> None:
    views = _views(_cameras((1, 2)))
    wrong = wrong_cameras(views).cameras
    torch.testing.assert_close(wrong[:, 0], views.cameras[:, 0])
    motion = wrong[0, 3] @ torch.linalg.inv(wrong[0, 0])
    neighbour = views.cameras[1, 3] @ torch.linalg.inv(views.cameras[1, 0])
    torch.testing.assert_close(motion, neighbour)
    check_rigid(wrong[0, 3].numpy())


def test_the_page_shows_every_row_and_its_margin() -> None:
    row = {"psnr_db": {"1": 20.0}, "gradient_energy_ratio": {"1": 0.9}}
    result = {
        "model": "m",
        "worlds": 3,
        "context_frames": 4,
        "device": "cpu",
        "dtype": "float32",
        "seed": 1,
        "rows": {"2 steps": row},
        "psnr_margin_db": {"2 steps": {"1": 1.5}},
    }
    page = markdown(result, "about")
    assert "| 2 steps | 20.0 / 0.90 |" in page
    assert "| 2 steps | +1.5 |" in page
