"""The autoencoder against a critic of patches, which learns to tell true frames from decoded ones.

Losses of pixels ask for the mean of all that a latent leaves open, which is blurred. A critic asks for
something that might be true. It also sees what no true frame has, such as the pattern of a pixel shuffle
where only the amount of texture is asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from distill import losses
from distill.batches import FrameBatch
from distill.objectives import (
    Metrics,
    Moment,
    random_uniform,
)
from distill.reconstruction import Reconstruction, ReconstructionConfig
from worldmodel.autoencoder import Autoencoder, ChannelNorm
from worldmodel.upscaler import UpscaledAutoencoder

LEVEL = 1 / 127.5  # between neighbouring values of 8 bits, in [-1, 1]


class PatchCritic(nn.Module):
    """How true each patch of frames [n 3 H W] in [-1, 1] looks: [n h w], more is truer.

    Resolution is halved by unshuffling, so no pixel is averaged away before it is looked at. Patches
    overlap; with three halvings they are some 50 pixels wide.
    Source: Isola et al., arXiv 1611.07004, section 3.2.2, for judging patches instead of images.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths`: channels after each halving of the resolution, finest first."""
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for target in widths:
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, target, 3, padding=1)]
            layers += [ChannelNorm(target), nn.SiLU()]
            width = target
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        opinion: Tensor = self.layers(frames.contiguous(memory_format=torch.channels_last))
        return opinion[:, 0].float()

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The 3x3 kernels, but for the last, which is a vector."""
        return [p for p in self.parameters() if p.ndim == 4 and len(p) > 1]


class AdversarialReconstruction:
    """Reconstruction, and the critic's push on the pixels: always as hard, whatever its scale.

    Truth and reconstruction are compared place by place. Only the direction of the critic's gradient is
    taken, so how far a short run lets it get ahead does not decide how loud it is.
    Source: Jolicoeur-Martineau, arXiv 1807.00734 (relativistic losses).
    """

    average_network = None

    def __init__(
        self,
        config: ReconstructionConfig,
        autoencoder: Autoencoder | UpscaledAutoencoder,
        critic: nn.Module,
        perception: nn.Module | None = None,
    ) -> None:
        self.config = config
        self._plain = Reconstruction(config, autoencoder, perception)
        self.trained = {"student": autoencoder, "critic": critic}

    def due(self, step: int) -> Sequence[str]:  # noqa: ARG002 - the same at every step
        return ("student", "critic")

    def case(self, moment: Moment) -> Hashable:
        return "heard" if self._heard(moment) else "not yet heard"

    def _heard(self, moment: Moment) -> bool:
        return moment.step >= self.config.critic_lead_steps

    def loss(self, role: str, batch: FrameBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        if role == "critic":
            return self._critic_loss(batch, moment)
        made, frames = self._plain.reconstructed(batch, moment)
        loss, metrics = self._plain.compared(made, frames)
        if self._heard(moment):
            push = self._push(made, frames, moment)
            loss = loss + self.config.adversarial_weight * losses.pushed(made, push)
        return loss, metrics

    def _critic_loss(self, batch: FrameBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            made, frames = self._plain.reconstructed(batch, moment)
        of_truth, of_made = self._opinions(frames, made, moment)
        loss = losses.relativistic(of_truth, of_made)
        return loss, {"told_apart": (of_truth > of_made).float().mean()}

    def _push(self, made: Tensor, frames: Tensor, moment: Moment) -> Tensor:
        """The gradient at the pixels [n 3 H W] of looking truer; none reaches the critic's weights."""
        seen = made.detach().requires_grad_()
        of_truth, of_made = self._opinions(frames, seen, moment)
        doubt = losses.relativistic(of_made, of_truth.detach())
        (push,) = torch.autograd.grad(doubt, seen)
        return push

    def _opinions(self, frames: Tensor, made: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        critic = self.trained["critic"]
        return critic(_unrounded(frames, moment)), critic(_unrounded(made, moment))


def _unrounded(frames: Tensor, moment: Moment) -> Tensor:
    """With noise of one level, so that being one of 256 levels is no mark of truth."""
    return frames + LEVEL * (random_uniform(frames.shape, frames, moment) - 0.5)
