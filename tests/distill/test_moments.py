"""`python -m distill moments`: a copy of a model that keeps long walks from drifting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.__main__ import main
from distill.run import export
from tests.distill.clip_maker import write_clips
from tests.worldmodel import tiny
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import load_model, save_model
from worldmodel.session import load_session
from worldmodel.transformer import WorldTransformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evaluation.json").write_text("{}")
    autoencoder = Autoencoder(replace(tiny.autoencoder().config, height_px=64, width_px=112))
    transformer = WorldTransformer(replace(tiny.transformer().config, grid=autoencoder.config.grid))
    save_model(tmp_path / "model", tiny.playable(), autoencoder, transformer)
    return tmp_path / "model"


def test_the_copy_knows_its_frames_and_plays(folder: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data")
    command = ["moments", str(folder), "--data", str(data), "--out", str(tmp_path / "new")]
    assert main([*command, "--limit", "9.5"]) == 0
    playable, autoencoder, _ = load_model(tmp_path / "new")
    assert playable.rollout.drift_limit == 9.5
    assert autoencoder.latent_moments is not None
    assert not torch.equal(autoencoder.latent_moments.mean, torch.zeros(8))
    assert load_session(tmp_path / "new", device="cpu").spec.width_px == 112
    assert not (tmp_path / "new" / "evaluation.json").exists()  # it was another model's
    assert main(command) == 2  # nothing is overwritten


def test_a_model_of_somebodys_clips_knows_their_frames(folder: Path, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data")
    plain = tiny.playable()
    limited = replace(plain, rollout=replace(plain.rollout, drift_limit=18.0))
    with pytest.raises(ValueError, match="python -m distill moments"):
        export(limited, folder, folder, tmp_path / "without")
        load_session(tmp_path / "without", device="cpu")
    export(limited, folder, folder, tmp_path / "with", data)
    assert load_model(tmp_path / "with")[1].latent_moments is not None
    load_session(tmp_path / "with", device="cpu")
