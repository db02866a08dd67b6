"""Latents whose first channels are mean colours, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.__main__ import main
from distill.clips import ClipSet
from tests.distill.clip_maker import write_clips
from worldmodel.autoencoder import AutoencoderConfig
from worldmodel.checkpoint import read_config

NANO = Path("configs/stage/nano")


@pytest.mark.slow
def test_a_model_of_colours_is_trained_like_any_other(tmp_path: Path) -> None:
    model = tmp_path / "colours.yaml"
    model.write_text(
        f"extends: {Path('configs/model/nano.yaml').absolute()}\nautoencoder: {{mean_colour_std: 4.0}}\n"
    )
    clips, colours = write_clips(tmp_path / "clips", frames=16), [f"model={model}", "steps=2"]
    train = ["--data", str(clips), "--out", str(tmp_path / "autoencoder"), "--device", "cpu"]
    assert main(["train", str(NANO / "autoencoder.yaml"), *colours, *train]) == 0
    found = read_config(tmp_path / "autoencoder", "autoencoder", AutoencoderConfig)
    assert found.mean_colour_std == 4.0

    latents = tmp_path / "latents"
    encode = ["--autoencoder", str(tmp_path / "autoencoder"), "--out", str(latents)]
    assert main(["encode", str(clips), *encode, "--device", "cpu"]) == 0
    learned = ClipSet(latents)
    tokens = np.concatenate([learned.array("latents", clip) for clip in range(len(learned))])
    spread = tokens.astype(np.float32).std((0, 1))
    assert spread[:3] == pytest.approx(4.0, rel=0.2) and spread[3:] == pytest.approx(1.0, rel=0.2)

    out = tmp_path / "stage-0"
    train = ["--data", str(latents), "--out", str(out), "--device", "cpu"]
    assert main(["train", str(NANO / "0.yaml"), *colours, *train]) == 0
    assert list(out.glob("transformer-*.safetensors"))
