"""`python -m distill moments`: a copy of a model that keeps long walks from drifting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.__main__ import main
from tests.distill.clip_maker import write_clips
from tests.worldmodel import tiny
from worldmodel.checkpoint import load_model, save_model
from worldmodel.session import load_session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evaluation.json").write_text("{}")
    save_model(tmp_path / "model", tiny.playable(), tiny.autoencoder(), tiny.transformer())
    return tmp_path / "model"


def test_the_copy_knows_its_frames_and_plays(folder: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data")
    command = ["moments", str(folder), "--data", str(data), "--out", str(tmp_path / "new")]
    assert main([*command, "--limit", "9.5"]) == 0
    playable, autoencoder, _ = load_model(tmp_path / "new")
    assert playable.rollout.drift_limit == 9.5
    assert autoencoder.latent_moments is not None
    assert not torch.equal(autoencoder.latent_moments.mean, torch.zeros(8))
    assert load_session(tmp_path / "new", device="cpu").spec.width_px == 64
    assert not (tmp_path / "new" / "evaluation.json").exists()  # it was another model's
    assert main(command) == 2  # nothing is overwritten
