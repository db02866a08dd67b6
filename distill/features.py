"""What a network trained here sees in frames: the ruler of perceptual and Fréchet distances.

No outside weights enter this project, so the ruler is the encoder of an autoencoder of ours. It was
trained to keep what its decoder needs and nothing else, which is less than a classifier knows; numbers
of two evaluations compare only if they name the same ruler. It is shown whole frames, also where it was
trained on what they have beyond mean colours (`mean_colour_std`): else it would not see colours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.metrics import frechet_distance

CLIP_FRAMES = 16  # of one sample of the Fréchet distance
CLIP_DEPTH = 2  # which activations: at an eighth of the resolution
CLIP_NUMBERS = 32  # of its feature vector
PROJECTION_SEED = 7


@dataclass(frozen=True)
class Ruler:
    """Activations of an encoder, at every resolution it passes through."""

    name: str  # of the model it belongs to
    encoder: nn.Module

    def digest(self) -> str:
        """Tells rulers apart: eight hexadecimal digits of the SHA-256 of the weights."""
        found = hashlib.sha256()
        for weight in self.encoder.state_dict().values():
            found.update(weight.detach().float().cpu().numpy().tobytes())
        return found.hexdigest()[:8]

    @torch.no_grad()
    def features(self, frames: Tensor) -> list[Tensor]:
        """The last activation [n c h w] at each resolution of frames [n 3 H W] in [-1, 1]."""
        return activations(self.encoder, frames)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance [n] of images [n 3 H W] in [-1, 1]: 0 if equal, at most 4."""
        return feature_distance(self.features(a), self.features(b))

    @torch.no_grad()
    def clip_features(self, clips: Tensor) -> Tensor:
        """One vector [n d] for each clip [n f 3 H W] in [-1, 1]: what is there, and how it moves.

        Activations at an eighth of the resolution: their mean and spread over the image, and how
        much they change from frame to frame.
        """
        n, f = clips.shape[:2]
        maps = self.features(clips.flatten(0, 1))[CLIP_DEPTH].unflatten(0, (n, f))
        content, spread = maps.mean((1, 3, 4)), maps.std((3, 4)).mean(1)
        change = maps.diff(dim=1).abs().mean((1, 3, 4))
        return torch.cat([content, spread, change], dim=-1)

    @torch.no_grad()
    def frame_features(self, frames: Tensor) -> Tensor:
        """One vector [n d] for each of frames [n 3 H W] in [-1, 1]: what is there, however it moves."""
        maps = self.features(frames)[CLIP_DEPTH]
        return torch.cat([maps.mean((2, 3)), maps.std((2, 3))], dim=-1)


class Perception(nn.Module):
    """The mean distance of a `Ruler` with a gradient, which the encoder must not take: freeze it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One number for images [n 3 H W] in [-1, 1]."""
        pair = (activations(self.encoder, frames) for frames in (a, b))
        return feature_distance(*pair).mean()


def activations(encoder: nn.Module, frames: Tensor) -> list[Tensor]:
    """The last activation [n c h w] at each resolution of frames [n 3 H W] in [-1, 1]."""
    weight = next(encoder.parameters())
    x = frames.to(weight.dtype, memory_format=torch.channels_last)
    layers = encoder.layers
    assert isinstance(layers, nn.Sequential)
    seen = [x]
    for layer in layers:
        seen.append(layer(seen[-1]))
    finished = [a for a, b in pairwise(seen) if a.shape[-2:] != b.shape[-2:]]
    return [*(a.float() for a in finished[1:]), seen[-1].float()]  # without the frame itself


def feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Distance [n] of activations: 0 if equal, at most 4.

    At every resolution the channels of a pixel become a unit vector; the squared differences are
    averaged over pixels and resolutions. Nothing is learned on top.
    Source: Zhang et al., arXiv 1801.03924, equation 1 with all weights 1.
    """
    pairs = zip(a, b, strict=True)
    distances = [(_unit(x) - _unit(y)).square().sum(1).mean((-2, -1)) for x, y in pairs]
    return torch.stack(distances).mean(0)


def frechet_to_truth(generated: Tensor, true: Tensor) -> float:
    """Fréchet distance of clip features [n d] to the true ones [m d].

    Every feature is measured in standard deviations of the true clips, then all are projected to
    fewer numbers by a fixed random matrix, so that some hundreds of clips determine a covariance.
    """
    mean, spread = true.mean(0), true.std(0).clamp_min(1e-6)
    random = torch.Generator().manual_seed(PROJECTION_SEED)
    matrix = torch.randn(true.shape[-1], CLIP_NUMBERS, generator=random).to(true.device)
    matrix = matrix / true.shape[-1] ** 0.5
    return frechet_distance((generated - mean) / spread @ matrix, (true - mean) / spread @ matrix)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=1)
