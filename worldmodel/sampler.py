"""One denoising step, one commit, one decode: the three functions a running world is made of.

Each takes and returns tensors only, keeps its shapes, draws no random number and reads state by
address, so each can be captured as one CUDA graph and replayed (`cuda_graph.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from worldmodel import flow, prope, rope
from worldmodel.attention import Cached, Committing, Mix, mix_fused
from worldmodel.autoencoder import Autoencoder, frames_to_uint8
from worldmodel.kv_cache import KVCache
from worldmodel.transformer import EagerPlaces, Geometry, WorldTransformer

Solver = Literal["euler", "consistency"]
Commit = Literal["clean", "own"]  # who writes a frame's memory: a pass of its own, or its last step


def sample(
    denoise: Callable[[Tensor, float, float], Tensor],
    fresh_noise: Callable[[], Tensor],
    levels: Sequence[float],
    solver: Solver,
) -> Tensor:
    """A latent from noise, along noise levels that fall from 1 to 0.

    `denoise(latent, now, to)` is one Euler step. "euler" follows the path from level to level. A
    model distilled for "consistency" jumps to the end from every level; what it finds there is put
    back to the next level with fresh noise (Song et al. 2023, arXiv 2303.01469, algorithm 1).
    """
    latent = fresh_noise()
    for now, then in pairwise(levels):
        if solver == "euler":
            latent = denoise(latent, now, then)
            continue
        latent = denoise(latent, now, 0.0)
        if then > 0.0:
            latent = (1.0 - then) * latent + then * fresh_noise()
    return latent


@dataclass(frozen=True)
class Sampler:
    transformer: WorldTransformer
    autoencoder: Autoencoder
    cache: KVCache
    mix: Mix = mix_fused

    def denoise(
        self,
        latent: Tensor,
        sigma: Tensor,
        to: Tensor,
        words: Tensor,
        matrix: Tensor,
        inverse: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        """One Euler step of latent [b 1 p c] from noise level `sigma` [b 1] to `to` [b 1]."""
        layers = range(self.transformer.config.layers)
        kernels = [Cached(self.cache, layer, self.mix) for layer in layers]
        places = EagerPlaces(Geometry(matrix, inverse, cos, sin))
        predicted = self.transformer(latent, sigma, words, places, kernels)
        return flow.euler_step(latent, predicted, sigma, to)

    def commit(
        self,
        latent: Tensor,
        sigma: Tensor,
        slot: Tensor,
        words: Tensor,
        matrix: Tensor,
        inverse: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        """Write the keys and values of a finished latent [b 1 p c] into `slot` of the cache.

        Nothing is predicted: the last layer stops at its keys and values. Returns `cache.filled`.
        """
        self.cache.mark_filled(slot)
        layers = range(self.transformer.config.layers)
        *kernels, last = (Committing(self.cache, layer, slot, self.mix) for layer in layers)
        places = EagerPlaces(Geometry(matrix, inverse, cos, sin))
        k, v = self.transformer.last_keys_values(latent, sigma, words, places, kernels)
        last.write(k, v)
        return self.cache.filled

    def commit_own(self, slot: Tensor) -> Tensor:
        """Write what the last `denoise` computed of its frame into `slot`: no pass of the network.

        For models that were trained with it. Returns `cache.filled`.
        """
        self.cache.mark_filled(slot)
        self.cache.keep_own(slot)
        return self.cache.filled

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels, uint8 [b H W 3], of latent [b 1 p c]."""
        return frames_to_uint8(self.autoencoder.decode(latent[:, 0]))

    def move_anchor(self, old_anchor_from_new_anchor: Tensor, frames: float) -> None:
        """Make the cache relative to new anchors [b 4 4], and count time from `frames` later on.

        Exact up to rounding: see `prope.reanchor_matrix` and `rope.shift_time`. Not captured; it runs
        once every few seconds of play.
        """
        config = self.transformer.config
        matrix = prope.reanchor_matrix(old_anchor_from_new_anchor, config.metres_per_unit)
        matrix = matrix.to(self.cache.keys.device)[:, None]
        frequencies = self.transformer.time_frequencies

        def projective(x: Tensor) -> Tensor:
            tokens = rearrange(x.float(), "l b g k d -> b 1 k (l g) d")
            moved = prope.transform(matrix, tokens)
            return rearrange(moved, "b 1 k (l g) d -> l b g k d", l=len(x))

        def on_keys(keys: Tensor) -> Tensor:
            first, second = keys.chunk(2, dim=-1)
            turned = rope.shift_time(second, -frames, frequencies)
            return torch.cat([projective(first), turned], dim=-1)

        def on_values(values: Tensor) -> Tensor:
            first, second = values.chunk(2, dim=-1)
            return torch.cat([projective(first), second.float()], dim=-1)

        self.cache.map(on_keys, on_values)
