"""Networks that nobody trained, and run folders of them."""

from __future__ import annotations

from pathlib import Path

import torch

from distill.evaluate import Model
from distill.stage_networks import build_network
from distill.stages import load_stage
from tests.worldmodel import tiny
from worldmodel.checkpoint import save_module


def tiny_model() -> Model:
    """To evaluate."""
    return Model(
        playable=tiny.playable(),
        autoencoder=tiny.autoencoder(),
        transformer=tiny.transformer(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def write_autoencoder(folder: Path) -> Path:
    """The nano model's."""
    stage, model = load_stage(Path("configs/stage/nano/autoencoder.yaml"), [])
    folder.mkdir()
    network = build_network(stage, model, None)
    save_module(folder, "autoencoder", network, model.autoencoder, torch.float32)
    return folder
