"""What a frame sees before it, in passes over whole clips that the player never makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.networks import Transformer
from worldmodel import attention
from worldmodel.attention import Attend, FrameMask, TeacherForcing
from worldmodel.kv_cache import CacheConfig
from worldmodel.transformer import Geometry

Rule = Callable[[Tensor, Tensor], Tensor]  # frames of queries and keys -> which pairs may see


class NoisyHistory(TeacherForcing):
    """Causal training on one copy of a clip: a frame sees itself and those before it, noisy as they are.

    It sees as many as the cache holds, and the sinks.
    Source: CausVid (arXiv 2412.07772) and the ODE initialisation of Self Forcing (arXiv 2506.08009).
    """

    def __init__(
        self,
        frames: int,
        tokens: int,
        cache: CacheConfig,
        device: torch.device,
    ) -> None:

        def seen(query: Tensor, key: Tensor) -> Tensor:
            return cache.holds(query - 1, key) | (key == query)

        self.mask = mask_of_frames(seen, (frames, frames), tokens, device)


class CleanHistory:
    """What teacher forcing shows, for many passes over noisy frames behind the same clean ones.

    What the network makes of the clean frames is computed once. Nothing of it has a gradient. The masks
    are made once too: a compiler would take new ones for another case.
    """

    def __init__(self, frames: int, tokens: int, cache: CacheConfig, device: torch.device) -> None:
        def clean(query: Tensor, key: Tensor) -> Tensor:
            return cache.holds(query, key)

        def noisy(query: Tensor, key: Tensor) -> Tensor:  # keys: the clean frames, then the noisy
            own = key - frames == query
            return (cache.holds(query - 1, key) & (key < frames)) | own

        self._among_clean = mask_of_frames(clean, (frames, frames), tokens, device)
        self._of_noisy = mask_of_frames(noisy, (frames, 2 * frames), tokens, device)

    @torch.no_grad()
    def kernels(
        self, network: Transformer, context: Tensor, words: Tensor, geometry: Geometry
    ) -> list[Attend]:
        """With which noisy frames see the clean frames of `context` [b f p c] before each."""
        layers = range(network.config.layers)
        *kernels, last = (_Recording(self._among_clean) for _ in layers)
        zero = context.new_zeros(context.shape[:2])
        last.record(*network.last_keys_values(context, zero, words, geometry, kernels))
        return [Beside(kernel.keys, kernel.values, self._of_noisy) for kernel in (*kernels, last)]


class _Recording(TeacherForcing):
    """Clean frames see clean frames, and their keys and values are kept."""

    def __init__(self, mask: FrameMask) -> None:
        self.mask = mask

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.record(k, v)
        return super().__call__(q, k, v)

    def record(self, k: Tensor, v: Tensor) -> None:
        self.keys, self.values = k, v


class Beside(TeacherForcing):
    """Frames see themselves and what was remembered of others, as a mask says."""

    def __init__(self, keys: Tensor, values: Tensor, mask: FrameMask) -> None:
        """Remembered `keys` and `values` [b f p g d]; `mask`: of f remembered frames, then the new."""
        self.mask, self.keys, self.values = mask, keys, values

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = torch.cat([self.keys, k], dim=1), torch.cat([self.values, v], dim=1)
        return super().__call__(q, keys, values)


def mask_of_frames(
    seen: Rule,
    frames: tuple[int, int],
    tokens: int,
    device: torch.device,
) -> FrameMask:
    """`seen` between the tokens of so many query and key frames."""
    queries, keys = (torch.arange(count, device=device) for count in frames)
    return attention.mask_of_frames(seen(queries[:, None], keys[None]), tokens)
