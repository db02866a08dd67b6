"""Model folders of every kind, ready to be played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.checkpoint import (
    PlayableConfig,
    assign,
    load_model,
    load_tensors,
    load_upscaler,
    read_config,
    read_playable,
    stored_kind,
)
from worldmodel.embeddings import PromptFolder
from worldmodel.kv_cache import CacheConfig
from worldmodel.sampler import Decoder, DecoderConfig, Network
from worldmodel.tiny_decoder import TinyDecoder, TinyDecoderConfig
from worldmodel.transformer import read_words
from worldmodel.types import Runtime
from worldmodel.upscaler import UpscaledAutoencoder
from worldmodel.wan import KIND, WanConfig, WanTransformer
from worldmodel.wan_vae import WanVae, WanVaeConfig

PROMPTS = "prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class WanModelConfig:
    """A Wan-scale model: `configs/model/wan*.yaml`."""

    transformer: WanConfig
    decoder: TinyDecoderConfig | WanVaeConfig
    playable: PlayableConfig

    def __post_init__(self) -> None:
        check_fit(self.transformer, self.decoder)

    @property
    def cache(self) -> CacheConfig:
        return self.playable.cache


@dataclass(frozen=True, slots=True, eq=False)
class Playable:
    """What a session is made of."""

    playable: PlayableConfig
    decoder: Decoder
    transformer: Network
    read_prompt: Callable[[str], Tensor]
    runs_on: tuple[Runtime, ...] = ("torch",)


def load_playable(folder: Path) -> Playable:
    """Read a model folder of any kind, on the CPU.

    Raises:
        ValueError: naming the file and what is wrong with it.
        FileNotFoundError: if the folder holds no model.
    """
    if stored_kind(folder, "transformer") != KIND:
        playable, autoencoder, transformer = load_model(folder)
        read = partial(read_words, transformer.config.vocabulary)
        upscaler = load_upscaler(folder)
        decoder: Decoder = autoencoder
        if upscaler is not None:
            decoder = UpscaledAutoencoder(autoencoder, upscaler)
        return Playable(playable, decoder, transformer, read, ("torch", "openvino"))
    playable = read_playable(folder)
    config, weights = load_tensors(folder, "transformer", WanConfig, keep_dtype=True)
    wan = empty(WanTransformer, config)
    assign(wan, weights, f"{folder}: transformer", replace_parameters=True)
    wan_decoder = load_decoder(folder)
    check_fit(config, wan_decoder.config)
    return Playable(playable, wan_decoder, wan.eval(), prompt_folder(folder, config))


def load_decoder(folder: Path) -> TinyDecoder | WanVae:
    """The decoder of a Wan model folder.

    Raises:
        ValueError: saying how to add one, if it has none.
    """
    if not any(folder.glob("decoder-1-of-*.safetensors")):
        raise ValueError(f"{folder}: no decoder here; convert again with --decoder FILE")
    config: TinyDecoderConfig | WanVaeConfig
    if stored_kind(folder, "decoder") == "wan_vae":
        config, weights = load_tensors(folder, "decoder", WanVaeConfig, keep_dtype=True)
    else:
        config, weights = load_tensors(folder, "decoder", TinyDecoderConfig, keep_dtype=True)
    decoder = make_decoder(config)
    assign(decoder, weights, f"{folder}: decoder", replace_parameters=True)
    return decoder.eval()


def make_decoder(config: TinyDecoderConfig | WanVaeConfig) -> TinyDecoder | WanVae:
    """
    Raises:
        ValueError: if it needs a package that is not installed.
    """
    return WanVae(config) if isinstance(config, WanVaeConfig) else TinyDecoder(config)


def random_model(
    config: WanModelConfig, seed: int = 0, device: torch.device | None = None
) -> Playable:
    """A model whose weights are noise, for measuring speed: that does not depend on values."""
    torch.manual_seed(seed)
    with device or torch.device("cpu"):
        transformer, decoder = WanTransformer(config.transformer), make_decoder(config.decoder)
    wan = config.transformer

    def read(_prompt: str) -> Tensor:
        return torch.zeros(1, wan.text_tokens, wan.text_width)

    return Playable(config.playable, decoder.eval(), transformer.eval(), read)


def open_prompts(folder: Path) -> PromptFolder:
    """The prompts of a Wan model folder.

    Raises:
        ValueError: if there is no Wan model.
    """
    if stored_kind(folder, "transformer") != KIND:
        raise ValueError(f"{folder}: no Wan model here")
    return prompt_folder(folder, read_config(folder, "transformer", WanConfig))


def prompt_folder(folder: Path, config: WanConfig) -> PromptFolder:
    return PromptFolder(folder / PROMPTS, config.text_tokens, config.text_width)


def empty(cls: Callable[[WanConfig], WanTransformer], config: WanConfig) -> WanTransformer:
    """The network without memory for its weights; the tables it computes are real."""
    with torch.device("meta"):
        network = cls(config)
    tables = cls(replace(config, layers=0))
    for name, buffer in tables.named_buffers():
        setattr(network, name, buffer)
    return network


def check_fit(transformer: WanConfig, decoder: DecoderConfig) -> None:
    """
    Raises:
        ValueError: with the numbers, if the decoder makes frames of other latents.
    """
    ours = transformer.grid, transformer.latent_channels
    theirs = decoder.grid, decoder.latent_channels
    if ours != theirs:
        raise ValueError(
            f"the transformer makes latents of grid and channels {ours}, the decoder reads {theirs}"
        )
