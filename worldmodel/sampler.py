"""One denoising step, one commit, one decode: the three functions a running world is made of.

Each takes and returns tensors only, keeps its shapes, draws no random number and reads state by
address, so each can be captured as one CUDA graph and replayed (`cuda_graph.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from worldmodel import flow, prope
from worldmodel.attention import (
    Attend,
    Cached,
    Committing,
    CommittingAlone,
    Mix,
    Packing,
    mix_fused,
)
from worldmodel.kv_cache import KVCache
from worldmodel.transformer import Geometry, Places

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


def noises(steps: int, solver: Solver) -> int:
    """How often `sample` asks for fresh noise."""
    return steps if solver == "consistency" else 1


class NetworkConfig(Protocol):
    """What a running world asks of a transformer's config."""

    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def tokens_per_frame(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def metres_per_unit(self) -> float: ...
    @property
    def vocabulary(self) -> tuple[str, ...]: ...


class Network(Protocol):
    """A transformer that can be played: `WorldTransformer` or `WanTransformer`."""

    @property
    def config(self) -> NetworkConfig: ...

    def __call__(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> Tensor: ...

    def last_keys_values(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> tuple[Tensor, Tensor]: ...

    def geometry(
        self, camera_from_anchor: Tensor, intrinsics: Tensor, time: Tensor
    ) -> Geometry: ...

    def places(self, geometry: Geometry) -> Places: ...

    def condition(self, prompt: Tensor) -> Tensor: ...

    def move_keys(self, keys: Tensor, matrix: Tensor, frames: float) -> Tensor: ...

    def move_values(self, values: Tensor, matrix: Tensor) -> Tensor: ...


class DecoderConfig(Protocol):
    """What a running world asks of an autoencoder's config."""

    @property
    def height_px(self) -> int: ...
    @property
    def width_px(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def latent_channels(self) -> int: ...


class Decoder(Protocol):
    """Latents to pixels, one step of play at a time: `Autoencoder` or `TinyDecoder`."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def frames_per_latent(self) -> int: ...

    @property
    def drawn_larger(self) -> int:
        """How much larger than start pictures frames are, on each side."""
        ...

    @property
    def capturable(self) -> bool:
        """Does every `render` do the same work on the same addresses?"""
        ...

    def render(self, latents: Tensor) -> Tensor:
        """Pixels, uint8 [f * frames_per_latent H W 3], of the next latents [1 f p c] of a world.

        Of the first latent of a world only the last frame is meant to be seen.
        """
        ...

    def encode_start(self, frames: Tensor, /) -> Tensor:
        """The latent [1 1 p c] of a start picture [1 3 H W] in [-1, 1]."""
        ...

    def reset(self) -> None:
        """Begin another world."""
        ...

    def state(self) -> dict[str, Any]:
        """A copy of what is remembered of the latents before; empty where nothing is."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Sampler:
    transformer: Network
    autoencoder: Decoder
    cache: KVCache
    mix: Mix = mix_fused
    held: int | None = None  # slots filled when a pass begins; None asks the device

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
        """One Euler step of latents [b n p c] from noise levels `sigma` [b n] to `to` [b n].

        The n frames are made together and see each other; `words` is what `condition` returned.
        """
        layers = range(self.transformer.config.layers)
        kernels = [Cached(self.cache, layer, self.mix, self.held) for layer in layers]
        places = self.transformer.places(Geometry(matrix, inverse, cos, sin))
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
        """Write the keys and values of finished latents [b n p c] into the n slots of `slot`.

        Nothing is predicted: the last layer stops at its keys and values. Returns `cache.filled`.
        """
        held = self._mark_filled(slot)
        layers = range(self.transformer.config.layers)
        *kernels, last = (Committing(self.cache, layer, slot, self.mix, held) for layer in layers)
        places = self.transformer.places(Geometry(matrix, inverse, cos, sin))
        k, v = self.transformer.last_keys_values(latent, sigma, words, places, kernels)
        last.write(k, v)
        return self.cache.filled

    def commit_and_denoise(
        self,
        finished: Tensor,
        latent: Tensor,
        sigma: Tensor,
        to: Tensor,
        slot: Tensor,
        words: Tensor,
        matrix: Tensor,
        inverse: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        """`commit` of latents [b n p c], then `denoise` of the n after them, in one pass of the network.

        `sigma` and `to` [b n] are those of the new ones, which are returned; places are of all 2n.
        """
        held = self._mark_filled(slot)
        last = self.transformer.config.layers - 1
        kernels = [
            Packing(self.cache, layer, slot, self.mix, held, last=layer == last)
            for layer in range(last + 1)
        ]
        places = self.transformer.places(Geometry(matrix, inverse, cos, sin))
        latents = torch.cat([finished, latent], dim=1)
        levels = torch.cat([torch.zeros_like(sigma), sigma], dim=1)
        predicted = self.transformer(latents, levels, words, places, kernels)
        return flow.euler_step(latent, predicted[:, len(slot) :], sigma, to)

    def commit_alone(
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
        """`commit` of one frame that sees no other; who calls it says that the slot is filled."""
        layers = range(self.transformer.config.layers)
        *kernels, last = (CommittingAlone(self.cache, layer, slot, self.mix) for layer in layers)
        places = self.transformer.places(Geometry(matrix, inverse, cos, sin))
        k, v = self.transformer.last_keys_values(latent, sigma, words, places, kernels)
        last.write(k, v)
        return self.cache.filled

    def commit_own(self, slot: Tensor) -> Tensor:
        """Write what the last `denoise` computed of its frame into `slot`: no pass of the network.

        For models that were trained with it. Returns `cache.filled`.
        """
        self._mark_filled(slot)
        self.cache.keep_own(slot, self.held)
        return self.cache.filled

    def _mark_filled(self, slot: Tensor) -> int | None:
        if self.held is None:
            self.cache.mark_filled(slot)
            return None
        held = min(self.held + len(slot), self.cache.config.slots)
        self.cache.set_filled(held)
        return held

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels, uint8 [n H W 3], of the next latents [1 f p c]; see `Decoder.render`."""
        return self.autoencoder.render(latent)

    def let_time_pass(self, slots: range, frames: float) -> None:
        """Move the frames in `slots` on in time, so that they seem as old as before. Not captured."""
        network = self.transformer
        still = torch.eye(4, device=self.cache.keys.device)[None]
        self.cache.map_keys(lambda keys: network.move_keys(keys, still, -frames), slots)

    def move_anchor(self, old_anchor_from_new_anchor: Tensor, frames: float) -> None:
        """Make the cache relative to new anchors [b 4 4], and count time from `frames` later on.

        Exact up to rounding: see `prope.reanchor_matrix` and `rope.shift_time`. Not captured; it runs
        once every few seconds of play.
        """
        network = self.transformer
        unit = network.config.metres_per_unit
        matrix = prope.reanchor_matrix(old_anchor_from_new_anchor, unit).to(self.cache.keys.device)
        self.cache.map(
            lambda keys: network.move_keys(keys, matrix, frames),
            lambda values: network.move_values(values, matrix),
        )
