"""`Sampler` replayed from captured CUDA graphs, one for every number of frames that memory can hold.

So attention reads what is filled and nothing else, without a mask, and the fast kernels apply. What
changes from frame to frame enters as a few numbers from the CPU, in one copy; words and places lie at
fixed addresses that all graphs read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from worldmodel.compiled import compile_function
from worldmodel.cuda_graph import CudaGraph, SideStream
from worldmodel.sampler import Commit, Sampler

Name = Literal["denoise", "commit", "commit_and_denoise", "commit_own", "commit_alone"]


class CapturedSampler:
    """The outputs of all functions are overwritten by the next call of any.

    But for `decode`: only itself overwrites its pixels, so the others may run at the same time.
    """

    def __init__(
        self,
        sampler: Sampler,
        frame: Sequence[Tensor],
        words: Tensor,
        *,
        commit: Commit,
        hold: Callable[[Tensor], Tensor] | None,
        compiled: bool,
        recalls: bool = False,
        packs: bool = False,
    ) -> None:
        """`frame`: latents [1 n p c] on the GPU; poses, intrinsics and times of `Network.geometry`.

        `hold`: what is done with every latent that was made (`drift.py`), if anything. `recalls`: there
        is a use for `commit_alone`. `packs`: there is one for `commit_and_denoise`.
        """
        latent, *cameras = frame
        self._sampler, self._block = sampler, latent.shape[1]
        self.words = words.clone()
        places = sampler.transformer.geometry(*cameras).tensors()
        both = [torch.cat([tensor] * (2 if packs else 1), dim=1) for tensor in places]
        self.places = tuple(tensor[:, -self._block :] for tensor in both)
        self._former = tuple(tensor[:, : self._block] for tensor in both) if packs else ()
        self._pool = torch.cuda.graph_pool_handle()
        geometry: Callable[..., tuple[Tensor, ...]] = self._geometry
        self._geometry_of = compile_function(geometry) if compiled else geometry
        self._locate = CudaGraph(self._place, cameras, pool=self._pool)
        self._graphs: dict[tuple[Name, int], CudaGraph[Tensor]] = {}
        level, slots = torch.ones(1, self._block), torch.arange(self._block)
        for held in held_counts(sampler.cache.config.slots, self._block):
            bound = _Bound(replace(sampler, held=held), self.words, self.places)
            self._capture("denoise", held, bound.denoise, (latent, level, level))
            if commit == "clean" or held == 0:  # start pictures are always committed clean
                self._capture("commit", held, bound.commit, (latent, level, slots))
            if packs:
                pair = _Bound(replace(sampler, held=held), self.words, tuple(both))
                packed = latent, latent, level, level, slots
                self._capture("commit_and_denoise", held, pair.commit_and_denoise, packed)
            if commit == "own":
                self._capture("commit_own", held, bound.commit_own, (slots,))
        if recalls:
            bound = _Bound(sampler, self.words, self.places)
            self._capture("commit_alone", 0, bound.commit_alone, (latent, level, slots))
        self.hold = None if hold is None else CudaGraph(hold, (latent,), pool=self._pool)
        self.beside: Callable[[], AbstractContextManager[None]] = nullcontext
        self.decode: Callable[[Tensor], Tensor] = sampler.decode
        if sampler.autoencoder.capturable:
            self.beside = side = SideStream()
            self.decode = CudaGraph(sampler.decode, (latent,), stream=side.stream)

    def locate(self, poses: Tensor, intrinsics: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        """`Network.geometry` of CPU tensors, into `places`, for the calls that follow."""
        self._locate(poses, intrinsics, times)
        return self.places

    def at(self, held: int) -> CapturedFrame:
        """The functions of `Sampler` where `held` slots are filled."""
        return CapturedFrame(self._graphs, held, self.decode)

    def _capture(
        self, name: Name, held: int, function: Callable[..., Tensor], example: Sequence[Tensor]
    ) -> None:
        warmup = 1 if (name, 0) in self._graphs else 3
        graph = CudaGraph(function, example, warmup=warmup, pool=self._pool)
        self._graphs[name, held] = graph

    def _geometry(self, *cameras: Tensor) -> tuple[Tensor, ...]:
        return self._sampler.transformer.geometry(*cameras).tensors()

    def _place(self, *cameras: Tensor) -> Tensor:
        for former, fixed in zip(self._former, self.places, strict=False):  # none, or one for each
            former.copy_(fixed)
        for fixed, new in zip(self.places, self._geometry_of(*cameras), strict=True):
            fixed.copy_(new)
        return self.places[0]


@dataclass(frozen=True)
class CapturedFrame:
    """Takes noise levels and slots as CPU tensors; words and places are where they always are."""

    graphs: Mapping[tuple[Name, int], CudaGraph[Tensor]]
    held: int
    decode: Callable[[Tensor], Tensor]

    def denoise(self, latent: Tensor, sigma: Tensor, to: Tensor, *_fixed: Tensor) -> Tensor:
        """See `Sampler.denoise`."""
        return self.graphs["denoise", self.held](latent, sigma, to)

    def commit(self, latent: Tensor, sigma: Tensor, slot: Tensor, *_fixed: Tensor) -> Tensor:
        """See `Sampler.commit`."""
        return self.graphs["commit", self.held](latent, sigma, slot)

    def commit_and_denoise(
        self,
        finished: Tensor,
        latent: Tensor,
        sigma: Tensor,
        to: Tensor,
        slot: Tensor,
        *_fixed: Tensor,
    ) -> Tensor:
        """See `Sampler.commit_and_denoise`: of the frames that were located last and before."""
        name: Name = "commit_and_denoise"
        return self.graphs[name, self.held](finished, latent, sigma, to, slot)

    def commit_alone(self, latent: Tensor, sigma: Tensor, slot: Tensor, *_fixed: Tensor) -> Tensor:
        """See `Sampler.commit_alone`."""
        return self.graphs["commit_alone", 0](latent, sigma, slot)

    def commit_own(self, slot: Tensor) -> Tensor:
        """See `Sampler.commit_own`."""
        return self.graphs["commit_own", self.held](slot)


class _Bound:
    """A sampler with its words and places."""

    def __init__(self, sampler: Sampler, words: Tensor, places: tuple[Tensor, ...]) -> None:
        self._sampler, self._words, self._places = sampler, words, places

    def denoise(self, latent: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
        return self._sampler.denoise(latent, sigma, to, self._words, *self._places)

    def commit(self, latent: Tensor, sigma: Tensor, slot: Tensor) -> Tensor:
        return self._sampler.commit(latent, sigma, slot, self._words, *self._places)

    def commit_and_denoise(
        self, finished: Tensor, latent: Tensor, sigma: Tensor, to: Tensor, slot: Tensor
    ) -> Tensor:
        levels = sigma, to
        return self._sampler.commit_and_denoise(
            finished, latent, *levels, slot, self._words, *self._places
        )

    def commit_alone(self, latent: Tensor, sigma: Tensor, slot: Tensor) -> Tensor:
        return self._sampler.commit_alone(latent, sigma, slot, self._words, *self._places)

    def commit_own(self, slot: Tensor) -> Tensor:
        return self._sampler.commit_own(slot)


def held_counts(slots: int, block: int) -> list[int]:
    """How many slots can be filled when a block begins: blocks, and maybe one picture, came before."""
    after_pictures = {min(1 + block * n, slots) for n in range(slots + 1)}
    return sorted(after_pictures | {min(block * n, slots) for n in range(slots + 1)})
