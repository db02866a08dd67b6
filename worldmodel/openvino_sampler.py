"""The functions of `Sampler`, compiled by OpenVINO: the fastest way to play on a CPU.

The network is compiled as pure functions: the memory goes in, and what a frame leaves in it comes out.
The ring itself stays where it is and is written here, by the few lines that know slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldmodel import flow
from worldmodel.attention import Remembering
from worldmodel.openvino_runner import OpenVino
from worldmodel.sampler import Sampler
from worldmodel.transformer import EagerPlaces, Geometry


@dataclass(frozen=True)
class PureSampler:
    """`Sampler` without a cache: `memory` is the keys [b g k d] of all layers, then the values."""

    sampler: Sampler

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
        bias: Tensor,
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        """The latent after one Euler step, and keys and values [layers b g p d] of the frame."""
        kernels = _kernels(bias, memory)
        places = EagerPlaces(Geometry(matrix, inverse, cos, sin))
        predicted = self.sampler.transformer(latent, sigma, words, places, kernels)
        return flow.euler_step(latent, predicted, sigma, to), *_own(kernels)

    def commit(
        self,
        latent: Tensor,
        sigma: Tensor,
        words: Tensor,
        matrix: Tensor,
        inverse: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor,
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        """Keys and values [layers b g p d] of a finished latent; `bias` hides its slot."""
        kernels = _kernels(bias, memory)
        places = EagerPlaces(Geometry(matrix, inverse, cos, sin))
        network = self.sampler.transformer
        kernels[-1].keep(*network.last_keys_values(latent, sigma, words, places, kernels[:-1]))
        return _own(kernels)

    def decode(self, latent: Tensor) -> tuple[Tensor]:
        return (self.sampler.autoencoder.render(latent),)


class OpenVinoSampler:
    """`Sampler`, function by function."""

    def __init__(
        self, sampler: Sampler, frame: Sequence[Tensor], dtype: torch.dtype, folder: Path | None
    ) -> None:
        """Compile, or read what was compiled before from `folder`.

        `frame` is one set of inputs of `Sampler.denoise`. The networks of `sampler` are float32, its
        cache keeps no place for the frame being made; OpenVINO computes in `dtype`.
        """
        self._cache = sampler.cache
        layers = range(sampler.transformer.config.layers)
        self._memory = [
            *(self._cache.keys[layer] for layer in layers),
            *(self._cache.values[layer] for layer in layers),
        ]
        pure, memory = PureSampler(sampler), (self._cache.bias, *self._memory)
        latent, sigma, _, *rest = frame

        def file(name: str) -> Path | None:
            return None if folder is None else folder / f"{name}.blob"

        self._denoise = OpenVino(pure.denoise, (*frame, *memory), dtype, file("denoise"))
        committed = (latent, sigma, *rest, *memory)
        self._commit = OpenVino(pure.commit, committed, dtype, file("commit"))
        self._decode = OpenVino(pure.decode, (latent,), dtype, file("decode"))
        self._own: tuple[Tensor, ...] = ()

    def denoise(self, *inputs: Tensor) -> Tensor:
        """See `Sampler.denoise`."""
        latent, *own = self._denoise(*inputs, self._cache.bias, *self._memory)
        self._own = tuple(own)
        return latent.clone()  # the next call reads it and overwrites the runner's own

    def commit(self, latent: Tensor, sigma: Tensor, slot: Tensor, *rest: Tensor) -> Tensor:
        """See `Sampler.commit`."""
        self._cache.mark_filled(slot)
        bias = self._cache.bias_without(slot)
        keys, values = self._commit(latent, sigma, *rest, bias, *self._memory)
        self._cache.write_layers(keys, values, slot)
        return self._cache.filled

    def commit_alone(self, latent: Tensor, sigma: Tensor, slot: Tensor, *rest: Tensor) -> Tensor:
        """See `Sampler.commit_alone`: all of memory is hidden."""
        hidden = torch.full_like(self._cache.bias, float("-inf"))
        keys, values = self._commit(latent, sigma, *rest, hidden, *self._memory)
        self._cache.write_layers(keys, values, slot)
        return self._cache.filled

    def commit_own(self, slot: Tensor) -> Tensor:
        """See `Sampler.commit_own`."""
        self._cache.mark_filled(slot)
        keys, values = self._own
        self._cache.write_layers(keys, values, slot)
        return self._cache.filled

    def decode(self, latent: Tensor) -> Tensor:
        """See `Sampler.decode`."""
        return self._decode(latent)[0].clone()


def _kernels(bias: Tensor, memory: Sequence[Tensor]) -> list[Remembering]:
    layers = len(memory) // 2
    pairs = zip(memory[:layers], memory[layers:], strict=True)
    return [Remembering(keys, values, bias) for keys, values in pairs]


def _own(kernels: Sequence[Remembering]) -> tuple[Tensor, Tensor]:
    return (
        torch.stack([kernel.own[0] for kernel in kernels]),
        torch.stack([kernel.own[1] for kernel in kernels]),
    )
