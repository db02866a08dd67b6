"""Frames that come back through noisy latents: what teaches an autoencoder, its decoder, an upscaler."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill import losses
from distill.batches import FrameBatch
from distill.objectives import Metrics, Moment
from worldmodel.autoencoder import Autoencoder, frames_to_float
from worldmodel.upscaler import UpscaledAutoencoder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionConfig:
    """Train the autoencoder to give frames back through noisy latents, or a part of the way back."""

    kind: Literal["reconstruction"]
    gradient_weight: float
    square_weight: float
    texture_weight: float = 0.0
    latent_noise: float  # largest standard deviation; the decoder learns to forgive the transformer
    # "decoder": the latents stay, so transformers fit on; "upscaler": the autoencoder stays
    part: Literal["all", "decoder", "upscaler"] = "all"
    perceptual_weight: float = 0.0  # of the distance in the activations of its own encoder
    adversarial_weight: float = 0.0  # how hard a critic pushes, of how hard L1 pulls; 0: no critic
    critic_lead_steps: int = (
        0  # for which it learns before it is heard; a clock would count compilers
    )
    critic_widths: tuple[int, ...] = (32, 64, 96)  # one per halving of the resolution, finest first

    def __post_init__(self) -> None:
        if self.perceptual_weight and self.part == "all":
            raise ValueError(
                "perceptual_weight measures with the encoder, which must not move: set part: decoder"
            )
        if min(self.adversarial_weight, self.perceptual_weight, self.critic_lead_steps) < 0:
            raise ValueError(
                "adversarial_weight, perceptual_weight and critic_lead_steps must not be negative,"
                f" got {self.adversarial_weight}, {self.perceptual_weight}, {self.critic_lead_steps}"
            )
        if not self.critic_widths:
            raise ValueError("critic_widths needs an entry for each halving of the resolution")


class Reconstruction:
    average_network = None

    def __init__(
        self,
        config: ReconstructionConfig,
        autoencoder: Autoencoder | UpscaledAutoencoder,
        perception: nn.Module | None = None,
    ) -> None:
        """`perception` gives the perceptual distance of two sets of frames, if that is asked for."""
        self.config, self._latents = config, autoencoder.config
        self._perception = perception
        self.trained: dict[str, nn.Module] = {"student": autoencoder}

    def due(self, step: int) -> Sequence[str]:  # noqa: ARG002 - the same at every step
        return ("student",)

    def case(self, moment: Moment) -> Hashable:  # noqa: ARG002 - the same at every step
        return "always"

    def loss(
        self,
        role: str,  # noqa: ARG002 - it has one role only
        batch: FrameBatch,
        moment: Moment,
    ) -> tuple[Tensor, Metrics]:
        return self.compared(*self.reconstructed(batch, moment))

    def reconstructed(self, batch: FrameBatch, moment: Moment) -> tuple[Tensor, Tensor]:
        """What comes back through noisy latents, and the frames themselves: [n 3 H W] in [-1, 1]."""
        frames = frames_to_float(batch.frames)
        (h, w), c = self._latents.grid, self._latents.latent_channels
        shape = (len(frames), h * w, c)
        level = torch.rand(shape[0], 1, 1, generator=moment.random, device=frames.device)
        noise = torch.randn(shape, generator=moment.random, device=frames.device)
        made: Tensor = self.trained["student"](frames, self.config.latent_noise * level * noise)
        return made, frames

    def compared(self, predicted: Tensor, frames: Tensor) -> tuple[Tensor, Metrics]:
        loss = losses.reconstruction(
            predicted,
            frames,
            gradient_weight=self.config.gradient_weight,
            square_weight=self.config.square_weight,
            texture_weight=self.config.texture_weight,
        )
        if self._perception is not None:
            loss = loss + self.config.perceptual_weight * self._perception(predicted, frames)
        squared = (predicted.detach() - frames).square().mean() / 4
        return loss, {"psnr_db": -10 * squared.log10()}
