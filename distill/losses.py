"""Pure losses: tensors in, scalars out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from worldmodel import flow


def flow_matching(
    predicted_velocity: Tensor, x0: Tensor, noise: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Mean squared error to eps - x0 (arXiv 2210.02747), all [b f p c].

    `counts` [b f]: how much each frame does; None: all the same.
    """
    predicted, true = predicted_velocity.float(), flow.velocity(x0, noise)
    if counts is None:
        return functional.mse_loss(predicted, true)
    errors = (predicted - true).square().mean((2, 3))
    return (errors * counts).sum() / counts.sum()


def distribution_matching(made: Tensor, real_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """A loss whose gradient moves `made` [b f p c] from where the critic to where the teacher points.

    The direction is scaled by the mean distance of each clip to the teacher's x0.
    Source: DMD (arXiv 2311.18828), equations 7 and 8.
    """
    with torch.no_grad():
        scale = (made - real_x0).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
        target = made - (fake_x0 - real_x0) / scale
    return 0.5 * functional.mse_loss(made, target)


def pushed(made: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient at `made` has the direction of `gradient` and the length of an L1 loss's.

    Its value, one half, says nothing.
    """
    with torch.no_grad():
        scale = gradient.square().mean().sqrt().clamp_min(1e-12)
        target = made - gradient / scale
    return 0.5 * functional.mse_loss(made, target)


def relativistic(above: Tensor, below: Tensor) -> Tensor:
    """Small if `above` exceeds `below` at every place; neither saturates for the one that is behind.

    Source: Jolicoeur-Martineau, arXiv 1807.00734, the relativistic loss of a logistic critic.
    """
    return functional.softplus(below - above).mean()


def gradient_l1(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """L1 distance of horizontal and vertical differences of images [n c h w], summed over scales.

    An error of brightness costs little here and a lost edge costs much, which keeps decoders sharp.
    """
    total = a.new_zeros(())
    for scale in range(scales):
        if scale:
            a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
        error = a - b
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return total


def texture_l1(a: Tensor, b: Tensor, patch: int = 8) -> Tensor:
    """L1 distance of how much neighbouring pixels differ, on average in patches, of images [n c h w].

    Losses of pixels give the mean of what a latent leaves open, and a mean of blades of grass is a
    lawn. Here it costs nothing where each blade stands, only that there are as many.
    """

    def texture(x: Tensor) -> Tensor:
        horizontal = x.diff(dim=-1).abs().mean(1, keepdim=True)
        vertical = x.diff(dim=-2).abs().mean(1, keepdim=True)
        both = torch.cat([horizontal[..., 1:, :], vertical[..., :, 1:]], dim=1)
        return functional.avg_pool2d(both, patch, patch // 2)

    return functional.l1_loss(texture(a), texture(b))


def reconstruction(
    predicted: Tensor,
    target: Tensor,
    *,
    gradient_weight: float,
    square_weight: float,
    texture_weight: float = 0.0,
) -> Tensor:
    """L1 + edges + squares + texture, on images [n 3 h w] in [-1, 1]."""
    loss = functional.l1_loss(predicted, target)
    loss = loss + gradient_weight * gradient_l1(predicted, target)
    loss = loss + square_weight * functional.mse_loss(predicted, target)
    if texture_weight:
        loss = loss + texture_weight * texture_l1(predicted, target)
    return loss


def is_finite(*values: Tensor) -> Tensor:
    """One boolean on the device, without waiting for it."""
    return torch.stack([value.detach().float().isfinite().all() for value in values]).all()
