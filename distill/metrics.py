"""How close frames are to the truth: images as float [... 3 H W] in [-1, 1]."""

from __future__ import annotations

from torch import Tensor


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image [...]; identical images give 100 dB."""
    error = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean((-3, -2, -1))
    return -10 * error.clamp_min(1e-10).log10()


def gradient_energy(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of each image [...]: what blur takes away."""
    x = x.clamp(-1, 1)
    horizontal = x.diff(dim=-1).abs().mean((-3, -2, -1))
    return horizontal + x.diff(dim=-2).abs().mean((-3, -2, -1))
