"""The algebra of flow matching: noise levels sigma in [0, 1], 0 is data and 1 is noise.

    x_sigma = (1 - sigma) x0 + sigma eps        v = eps - x0        x0 = x_sigma - sigma v

Source: Lipman et al. 2023 (arXiv 2210.02747), in the convention of Wan2.1 and Causal Forcing++
(arXiv 2605.15141). Everything here stays in float32: half precision loses small time steps.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Put `x0` at noise level `sigma`; sigma [b f] against x0 [b f p c]."""
    sigma = _per_frame(sigma)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network predicts."""
    return noise - x0


def x0_from_velocity(x_sigma: Tensor, predicted_velocity: Tensor, sigma: Tensor) -> Tensor:
    return x_sigma - _per_frame(sigma) * predicted_velocity


def euler_step(x_sigma: Tensor, predicted_velocity: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """One Euler step of dx/dsigma = v."""
    return x_sigma + _per_frame(to - sigma) * predicted_velocity


def shift(u: Tensor, amount: float) -> Tensor:
    """Move uniform noise levels towards noise: sigma(u) = a u / (1 + (a - 1) u)."""
    return amount * u / (1 + (amount - 1) * u)


def schedule(steps: int, shift_amount: float) -> Tensor:
    """The steps + 1 noise levels of a sampler, from 1 to 0, float32.

    Raises:
        ValueError: if there is no step.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {steps}")
    return shift(torch.linspace(1, 0, steps + 1, dtype=torch.float32), shift_amount)


@cache
def levels(steps: int, shift_amount: float) -> tuple[float, ...]:
    """`schedule` as plain numbers: asked for with every frame, and always the same."""
    return tuple(schedule(steps, shift_amount).tolist())


def _per_frame(sigma: Tensor) -> Tensor:
    return sigma.float()[..., None, None]
