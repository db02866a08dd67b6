"""What the evaluation compares, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.__main__ import main
from distill.comparison import (
    colour_drift,
    frechet_numbers,
    has_moved,
    measure,
    true_features,
)
from distill.evaluate import Extent, Truth, wrong_cameras
from distill.features import CLIP_FRAMES, CLIP_NUMBERS, Ruler
from distill.result import headline
from distill.rollout import Views
from tests.worldmodel import tiny
from worldmodel.types import check_rigid


def _cameras(seeds: tuple[int, ...]) -> Tensor:
    clips = [np.stack([camera.camera_from_world for camera in tiny.walk(6, s)]) for s in seeds]
    return torch.from_numpy(np.stack(clips))


def _views(cameras: Tensor) -> Views:
    b, f = cameras.shape[:2]
    return Views(cameras=cameras, intrinsics=torch.ones(b, f, 4), words=torch.zeros(b, 1))


def test_an_evaluation_that_could_not_write_its_videos_says_so_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.commands.measuring.find_spec", lambda _: None)
    out = tmp_path / "evaluation.json"
    command = ["evaluate", str(tmp_path / "none"), "--data", str(tmp_path), "--out", str(out)]
    assert main(command) == 2
    assert "pip install av, or ask for --videos 0" in capsys.readouterr().err
    assert main([*command, "--videos", "0"]) == 2
    assert "av" not in capsys.readouterr().err.split()


def test_clips_whose_camera_rests_are_told_apart() -> None:
    cameras = _cameras((1, 2))
    cameras[1, 1:] = cameras[1, :1]
    assert has_moved(cameras, 0, 5).tolist() == [True, False]


def test_the_wrong_camera_starts_where_the_right_one_does_and_moves_as_its_neighbour() -> None:
    views = _views(_cameras((1, 2)))
    wrong = wrong_cameras(views).cameras
    torch.testing.assert_close(wrong[:, 0], views.cameras[:, 0])
    motion = wrong[0, 3] @ torch.linalg.inv(wrong[0, 0])
    neighbour = views.cameras[1, 3] @ torch.linalg.inv(views.cameras[1, 0])
    torch.testing.assert_close(motion, neighbour)
    check_rigid(wrong[0, 3].numpy())


def _row(psnr: float) -> dict[str, object]:
    return {
        "psnr_db": {"1": psnr, "32": psnr - 5},
        "psnr_margin_db": {"1": 1.5, "32": 1.0},
        "ssim": {"1": 0.8, "32": 0.7},
        "perceptual": {"1": 0.1, "32": 0.2},
        "gradient_energy_ratio": {"1": 0.9, "32": 0.8},
        "checkerboard_ratio": {"1": 0.2, "32": 0.4},
        "colour_drift": {"1": 0.01, "32": 0.02},
        "colour_variance_drift": {"1": 0.03, "32": 0.04},
        "motion_ratio": 0.9,
    }


def test_the_headline_holds_what_is_played_and_not_the_other_samplers() -> None:
    rows = {
        "autoencoder": _row(30.0),
        "repeat last true frame": _row(18.0),
        "2 steps": _row(24.0),
        "4 steps": _row(25.0),
        "wrong camera, 2 steps": _row(17.0),
    }
    played = {
        name: {"1000": 0.5}
        for name in ("gradient_energy_ratio", "colour_drift", "colour_variance_drift")
    }
    found = headline(rows, rows["2 steps"], played)
    assert found["psnr_db"] == {"1": 24.0, "32": 19.0}
    assert found["gradient_energy_ratio"] == {"32": 0.8, "1000": 0.5}
    assert found["colour_drift"] == {"32": 0.02, "1000": 0.5}
    assert found["autoencoder_psnr_db"] == 27.5
    assert found["autoencoder_checkerboard_ratio"] == 0.3
    assert set(found["baselines"]) == {
        "autoencoder", "repeat last true frame", "wrong camera, 2 steps"
    }  # fmt: skip


def test_sets_of_frames_in_other_places_but_of_the_same_colours_do_not_drift() -> None:
    mean, variance = torch.rand(4, 5, 3), torch.rand(4, 5, 3)
    shuffled = (mean.flip(0), variance.flip(0))
    assert colour_drift(shuffled, (mean, variance))["colour_drift"] == 0.0
    darker = colour_drift((mean * 0.9, variance), (mean, variance))
    assert darker["colour_drift"] == pytest.approx(0.1, abs=1e-3)


def _clips(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (2, 6, 32, 64, 3), generator=random).byte()


def test_the_truth_itself_is_measured_as_perfect() -> None:
    views = _views(_cameras((1, 2)))
    truth = Truth(frames=_clips(1), latents=torch.zeros(2, 6, 8, 4), views=views)
    ruler = Ruler("tiny", tiny.autoencoder().encoder)
    extent = Extent(known=2, clips=2, longest=4, steps=())
    row = measure(truth, truth.frames, extent, ruler, None)
    assert row["psnr_db"] == {"1": 100.0, "4": 100.0}
    assert row["ssim"]["4"] == pytest.approx(1.0, abs=1e-4)
    assert row["perceptual"]["4"] == 0.0
    assert row["gradient_energy_ratio"]["4"] == row["motion_ratio"] == 1.0
    assert row["checkerboard_ratio"]["4"] == 1.0
    assert true_features(truth, extent, ruler) is None  # too few clips
    assert "frechet" not in row
    other = measure(truth, _clips(2), extent, ruler, None)
    assert other["psnr_db"]["4"] < 20
    assert other["ssim"]["4"] < 0.5


def test_horizons_by_which_no_camera_has_moved_have_no_distance_to_truth() -> None:
    cameras = _cameras((1, 2))[:, :1].expand(-1, 6, -1, -1)
    truth = Truth(frames=_clips(1), latents=torch.zeros(2, 6, 8, 4), views=_views(cameras))
    ruler = Ruler("tiny", tiny.autoencoder().encoder)
    row = measure(truth, truth.frames, Extent(known=2, longest=4), ruler, None)
    assert "psnr_db" not in row
    assert row["gradient_energy_ratio"]["1"] == 1.0


def test_enough_clips_have_a_frechet_distance_to_the_truth_and_a_floor() -> None:
    clips, frames = CLIP_NUMBERS + 2, 2 + CLIP_FRAMES
    random = torch.Generator().manual_seed(3)
    true, other = (
        torch.randint(0, top, (clips, frames, 32, 64, 3), generator=random).byte()
        for top in (255, 200)
    )
    cameras = _cameras((1,))[:, :1].expand(clips, frames, -1, -1)
    truth = Truth(frames=true, latents=torch.zeros(clips, frames, 8, 4), views=_views(cameras))
    ruler = Ruler("tiny", tiny.autoencoder().encoder)
    extent = Extent(known=2, clips=clips, longest=CLIP_FRAMES, steps=())
    features = true_features(truth, extent, ruler)
    assert features is not None
    rows = {
        name: measure(truth, made, extent, ruler, features)
        for name, made in (("truth", true), ("other", other))
    }
    found = frechet_numbers(rows, features, clips)
    assert found["clips"] == clips
    assert found["distance"]["truth"] == pytest.approx(0.0, abs=1e-3)
    assert found["distance"]["other"] > found["floor_of_true_halves"] > 0
