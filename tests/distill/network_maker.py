"""Run folders of networks that nobody trained."""

from __future__ import annotations

from pathlib import Path

import torch

from distill.stage_networks import build_network
from distill.stages import load_stage
from worldmodel.checkpoint import save_module


def write_autoencoder(folder: Path) -> Path:
    """The nano model's."""
    stage, model = load_stage(Path("configs/stage/nano/autoencoder.yaml"), [])
    folder.mkdir()
    network = build_network(stage, model, None)
    save_module(folder, "autoencoder", network, model.autoencoder, torch.float32)
    return folder
