"""Wan's real classes at tiny sizes, with random weights that all do something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from worldmodel import config as strict
from worldmodel import wan_keys
from worldmodel.convert import convert
from worldmodel.models import WanModelConfig, load_playable
from worldmodel.session import WorldSession
from worldmodel.tiny_decoder import TinyDecoder, TinyDecoderConfig
from worldmodel.wan import WanConfig, WanTransformer

NANO = Path(__file__).parents[2] / "configs" / "model" / "wan-nano.yaml"
LENS = torch.tensor([0.505, 0.898, 0.5, 0.5])


VALUES: dict[str, object] = {
    "vae_channels": 16,
    "grid": (2, 3),
    "width": 48,
    "layers": 3,
    "heads": 2,
    "mlp_width": 64,
    "text_width": 20,
    "text_tokens": 7,
    "noise_frequencies": 16,
    "metres_per_unit": 1.0,
}


def config(camera: bool = True, **changes: object) -> WanConfig:
    return WanConfig(**(VALUES | changes), camera=camera)  # type: ignore[arg-type]


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


def model_config(*overrides: str) -> WanModelConfig:
    return strict.load(NANO, WanModelConfig, overrides)


def decoder(wanted: TinyDecoderConfig | None = None) -> TinyDecoder:
    torch.manual_seed(8)
    made = TinyDecoder(wanted or model_config().decoder)
    with torch.no_grad():  # PyTorch's own start lets a signal fade from layer to layer
        for parameter in made.parameters():
            parameter.mul_(2.0)
    return made.eval()


def published(
    model: WanTransformer, layout: wan_keys.Layout, prefix: str = ""
) -> dict[str, Tensor]:
    """The weights of a model as somebody would publish them."""
    weights = model.state_dict()
    entries = wan_keys.table(model.config, layout)
    return {
        prefix + e.their_name: weights[e.name].reshape(e.their_shape).contiguous() for e in entries
    }


def model_folder(folder: Path, *overrides: str, with_decoder: bool = True) -> Path:
    """A tiny random Wan model, converted as a user would."""
    wanted = model_config(*overrides)
    source, small = folder / "source.safetensors", folder / "taew2_1.safetensors"
    save_file(published(transformer(wanted.transformer), "wan"), source)
    save_file(decoder(wanted.decoder).state_dict(), small)
    convert(source, folder / "model", wanted, decoder=small if with_decoder else None)
    return folder / "model"


def session(
    folder: Path,
    *overrides: str,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    **how: Any,
) -> WorldSession:
    """A running world of such a model, in a new folder; `how`: options of `WorldSession`."""
    folder.mkdir()
    model = load_playable(model_folder(folder, *overrides))
    device = device or torch.device("cpu")
    parts = model.playable, model.decoder, model.transformer
    return WorldSession(*parts, device, dtype, read_prompt=model.read_prompt, **how)
