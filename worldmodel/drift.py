"""Keeps long walks to what frames look like.

A model that walks on its own frames changes their light a little every time; after hundreds of frames a
world is black, or purple. What drifts first are the simplest things: the mean and the spread of each
latent channel over a frame. Their values in true frames are known; where they lie further out than those
of true frames do, they are pulled back, and forms are left alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

RIDGE = 1e-4  # keeps directions in which true frames do not differ from counting without end


class Moments(nn.Module):
    """Mean and covariance, over true frames, of the means and log spreads of c latent channels."""

    mean: Tensor
    whitening: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * channels))
        self.register_buffer("whitening", torch.eye(2 * channels))

    @torch.no_grad()
    def measure(self, latents: Tensor) -> None:
        """Take them from true latents [n p c]; n should be many times c.

        Raises:
            ValueError: if there are fewer frames than moments.
        """
        found = moments_of(latents)
        if len(found) < 2 * found.shape[1]:
            raise ValueError(f"{len(found)} frames are too few to know {found.shape[1]} moments")
        mean = found.mean(0)
        covariance = torch.cov((found - mean).T) + RIDGE * torch.eye(len(mean), device=mean.device)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)))

    def distance(self, latents: Tensor) -> Tensor:
        """Mahalanobis distance [...] of frames [... p c] from true ones; those have about sqrt(2 c)."""
        return self._steps(moments_of(latents)).norm(dim=-1)

    def hold(self, latents: Tensor, limit: float) -> Tensor:
        """Frames [... p c], those further away than `limit` with their moments pulled back to it."""
        found = moments_of(latents)
        distance = self._steps(found).norm(dim=-1, keepdim=True)
        allowed = self.mean + (found - self.mean) * (limit / distance).clamp(max=1.0)
        before, after = found[..., None, :], allowed[..., None, :]
        c = latents.shape[-1]
        spread = (after[..., c:] - before[..., c:]).exp()
        return (latents - before[..., :c]) * spread + after[..., :c]

    def _steps(self, found: Tensor) -> Tensor:
        return (found - self.mean) @ self.whitening.T


def moments_of(latents: Tensor) -> Tensor:
    """Mean and log of the standard deviation of every channel: [... p c] -> [... 2c]."""
    return torch.cat([latents.mean(-2), latents.std(-2).clamp_min(1e-3).log()], -1)


def holder(autoencoder: nn.Module, limit: float | None) -> Callable[[Tensor], Tensor]:
    """What a rollout does with every frame it made.

    Raises:
        ValueError: if there is a limit, and nobody measured what frames look like.
    """
    if limit is None:
        return lambda latents: latents
    moments = getattr(autoencoder, "latent_moments", None)
    if not isinstance(moments, Moments):
        raise ValueError(
            "rollout.drift_limit: the autoencoder does not say what frames look like; run"
            " python -m distill moments MODEL --data CLIPS --out NEW, or set it to null"
        )
    return lambda latents: moments.hold(latents, limit)
