"""Wan's real classes at tiny sizes, with random weights that all do something."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.wan import WanConfig, WanTransformer

LENS = torch.tensor([0.505, 0.898, 0.5, 0.5])


def config(camera: bool = True, **changes: object) -> WanConfig:
    values: dict[str, object] = {
        "vae_channels": 16,
        "grid": (2, 3),
        "width": 48,
        "layers": 3,
        "heads": 2,
        "mlp_width": 64,
        "text_width": 20,
        "text_tokens": 7,
        "noise_frequencies": 16,
        "camera": camera,
        "metres_per_unit": 1.0,
    }
    return WanConfig(**(values | changes))  # type: ignore[arg-type]


def transformer(wanted: WanConfig | None = None, seed: int = 5) -> WanTransformer:
    torch.manual_seed(seed)
    model = WanTransformer(wanted or config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def prompt(wanted: WanConfig, seed: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(1, wanted.text_tokens, wanted.text_width, generator=random)
