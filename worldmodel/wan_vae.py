"""Wan's own autoencoder, through the optional package `diffusers`, decoding latent by latent.

Its causal convolutions take what they remember as an argument: a list of features, which is kept here.
The first latent of a video is one frame, every further one is four. Latents are normalised with the
statistics in its config. What it remembers changes shape after the first latents, so it is not captured
as a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.autoencoder import frames_to_uint8
from worldmodel.wan import PATCH

DOWNSCALE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WanVaeConfig:
    kind: Literal["wan_vae"] = "wan_vae"
    height_px: int
    width_px: int
    vae_channels: int
    base_width: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.height_px // (DOWNSCALE * PATCH), self.width_px // (DOWNSCALE * PATCH)

    @property
    def latent_channels(self) -> int:
        return self.vae_channels * PATCH * PATCH


class WanVae(nn.Module):
    """`Decoder` around diffusers' `AutoencoderKLWan`; remembers what it decoded last."""

    frames_per_latent = 4
    drawn_larger = 1
    capturable = False
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: WanVaeConfig) -> None:
        """
        Raises:
            ValueError: if diffusers is not installed, saying what to do.
        """
        super().__init__()
        self.config = config
        vae_type, causal = _diffusers()
        self.vae: Any = vae_type(base_dim=config.base_width, z_dim=config.vae_channels)
        for name in ("latent_mean", "latent_std"):
            values = getattr(self.vae.config, name.replace("latent", "latents"))
            statistic = torch.tensor(values).view(-1, 1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)
        self._memories = sum(isinstance(layer, causal) for layer in self.vae.decoder.modules())
        self.reset()

    def render(self, latents: Tensor) -> Tensor:
        """Pixels, uint8 [4 f H W 3], of the next latents [1 f p c]; the very first is 4 equal ones."""
        made = [self.decode(latent[:, None]) for latent in latents.unbind(1)]
        whole = [frames.expand(self.frames_per_latent, -1, -1, -1) for frames in made]
        return frames_to_uint8(torch.cat(whole))

    def decode(self, latent: Tensor) -> Tensor:
        """Frames [n 3 H W], nominally in [-1, 1], of the next latent [1 1 p c]: 1 at first, then 4."""
        pattern = "1 f (h w) (c y x) -> c f (h y) (w x)"
        z = rearrange(latent.float(), pattern, h=self.config.grid[0], y=PATCH, x=PATCH)
        z = (z * self.latent_std + self.latent_mean)[None].to(self.vae.dtype)
        first = all(feature is None for feature in self._features)
        frames = self.vae.decoder(
            self.vae.post_quant_conv(z), feat_cache=self._features, feat_idx=[0], first_chunk=first
        )
        return rearrange(frames, "1 c t h w -> t c h w")

    def encode_start(self, frames: Tensor, /) -> Tensor:
        """The latent [1 1 p c] of a start picture [1 3 H W] in [-1, 1]."""
        return self.encode(frames)

    def encode(self, frames: Tensor) -> Tensor:
        """The latents [1 f p c] of a video [1 + 4 (f - 1) 3 H W] in [-1, 1]."""
        video = rearrange(frames, "t c h w -> 1 c t h w").to(self.vae.dtype)
        z = self.vae.encode(video).latent_dist.mode()[0].float()
        z = (z - self.latent_mean) / self.latent_std
        return rearrange(z, "c f (h y) (w x) -> 1 f (h w) (c y x)", y=PATCH, x=PATCH)

    def reset(self) -> None:
        """Begin another video."""
        self._features: list[Tensor | str | None] = [None] * self._memories

    def state(self) -> dict[str, Any]:
        """A copy of what the convolutions remember."""
        return {"features": [_copy(feature, torch.device("cpu")) for feature in self._features]}

    def load_state(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: if it is that of another decoder.
        """
        features = state.get("features", [])
        if len(features) != self._memories:
            raise ValueError("the state of another decoder does not fit this one")
        self._features = [_copy(feature, self.latent_mean.device) for feature in features]


def _copy(feature: Tensor | str | None, device: torch.device) -> Tensor | str | None:
    return feature.to(device, copy=True) if isinstance(feature, Tensor) else feature


def _diffusers() -> tuple[Any, Any]:
    try:
        from diffusers.models.autoencoders.autoencoder_kl_wan import (
            AutoencoderKLWan,
            WanCausalConv3d,
        )
    except ImportError as error:
        raise ValueError(
            "Wan's own autoencoder needs the package diffusers: pip install -e '.[wan]'; or convert with"
            " a tiny decoder"
        ) from error
    return AutoencoderKLWan, WanCausalConv3d
