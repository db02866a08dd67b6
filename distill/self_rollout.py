"""The student's own rollout, differentiable at one denoising step of every frame.

Training cannot use the ring cache of play: gradients need keys and values that nobody overwrites. Here
every write makes new tensors. What a frame may see is the same, which a test proves.
Source: Self Forcing (arXiv 2506.08009) and Causal Forcing++ (arXiv 2605.15141), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from worldmodel import flow
from worldmodel.kv_cache import CacheConfig
from worldmodel.sampler import Commit
from worldmodel.transformer import Geometry, WorldTransformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one rollout is sampled; the same on all processes, so that none waits for another."""

    levels: Sequence[float]  # noise levels of a frame, from 1 to 0
    exit_step: int  # the denoising step that gradients flow through
    first_levels: Sequence[float] = (1.0, 0.0)  # the same for a first frame that nobody gave
    first_exit_step: int = 0
    commit: Commit = "clean"  # who writes the memory: a pass of its own, or the last denoising step
    block_frames: int = 1  # frames that are made together and see each other


def self_rollout(
    student: nn.Module,
    geometry: Geometry,
    words: Tensor,
    known: Tensor,
    cache: CacheConfig,
    plan: Plan,
    random: torch.Generator,
) -> Tensor:
    """Latents [b f p c]: the frames of `known` [b f0 p c] (f0 may be 0), then the student's own.

    Every generated frame is the student's x0 at the exit step, with a gradient through that step only.
    Frames are remembered without gradient: clean, or, if the last denoising step writes the memory, as
    that step leaves them; the steps after the exit then run too, as they will in play.
    """
    wrapped = isinstance(student, nn.parallel.DistributedDataParallel)
    plain = cast(WorldTransformer, student.module if wrapped else student)
    memory = Memory(cache, plain, len(known))
    rollout = _Rollout(student, plain, words, memory, plan, random)
    frames: list[Tensor] = []
    for start, stop in _blocks(known.shape[1], geometry.matrix.shape[1], plan.block_frames):
        place = geometry.frames(start, stop)
        if start < known.shape[1]:
            latent = known[:, start:stop]
            rollout.commit(latent, place)
        else:
            shape = (len(known), stop - start, *known.shape[2:])
            latent = rollout.block(shape, place, first=start == 0)
        frames.append(latent)
    return torch.cat(frames, dim=1)


def _blocks(known: int, frames: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last frame (exclusive) of every pass: known ones singly, as play gives them."""
    yield from ((index, index + 1) for index in range(known))
    yield from ((start, min(start + size, frames)) for start in range(known, frames, size))


@dataclass(frozen=True, slots=True)
class _Rollout:
    student: nn.Module  # what gradients flow through; may be wrapped for several processes
    plain: WorldTransformer
    words: Tensor
    memory: Memory
    plan: Plan
    random: torch.Generator

    def block(self, shape: tuple[int, ...], place: Geometry, *, first: bool) -> Tensor:
        """Make and remember frames of latents `shape` [b n p c]."""
        plan, own = self.plan, self.plan.commit == "own"
        levels, exit_step = plan.levels, plan.exit_step
        if first:
            levels, exit_step = plan.first_levels, plan.first_exit_step
        last = len(levels) - 2 if own else exit_step
        latent = made = self._noise(shape)
        for step in range(last + 1):
            kernels = self.memory.reading(shape[1])
            with torch.set_grad_enabled(torch.is_grad_enabled() and step == exit_step):
                x0 = self._x0(latent, levels[step], place, kernels)
            if step == exit_step:
                made = x0
            if step < last:
                lower = latent.new_full(shape[:2], levels[step + 1])
                latent = flow.interpolate(x0.detach(), self._noise(shape), lower)
        if own:
            self.memory.keep(kernels)
        else:
            self.commit(made.detach(), place)
        return made

    @torch.no_grad()
    def commit(self, latent: Tensor, place: Geometry) -> None:
        """Remember clean frames; the last layer stops at its keys and values."""
        kernels = self.memory.writing(latent.shape[1])
        zero = latent.new_zeros(latent.shape[:2])
        inputs = (latent, zero, self.words, place, kernels[:-1])
        kernels[-1].write(*self.plain.last_keys_values(*inputs))
        self.memory.take_over(kernels)

    def _x0(
        self, latent: Tensor, level: float, place: Geometry, kernels: Sequence[Reading]
    ) -> Tensor:
        network = self.student if torch.is_grad_enabled() else self.plain
        sigma = latent.new_full(latent.shape[:2], level)
        velocity = network(latent, sigma, self.words, place, kernels)
        return flow.x0_from_velocity(latent, velocity, sigma)

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.words.device)


class Memory:
    """Keys and values of the frames so far, in the slots where play keeps them, without gradients.

    It has its full size from the first frame on and hides what is empty, so that a compiled block sees
    one shape only. Nothing is overwritten: a write makes new tensors, and gradients keep the old ones.
    """

    def __init__(self, config: CacheConfig, network: WorldTransformer, batch: int) -> None:
        self.config = config
        model, device = network.config, network.latent_in.weight.device
        tokens = model.tokens_per_frame
        shape = (batch, model.kv_heads, config.slots * tokens, model.head_width)
        empty = torch.zeros(shape, dtype=_compute_dtype(network), device=device)
        # not one tensor twice: a compiler would see another case in that
        self._layers = [(empty, torch.zeros_like(empty))] * model.layers
        self._tokens_of_slot = torch.arange(shape[2], device=device).view(config.slots, tokens)
        self._frames = 0

    def reading(self, frames: int) -> list[Reading]:
        """Kernels with which `frames` new frames see the memory and each other."""
        own = frames * self._tokens_of_slot.shape[1]
        bias = self._bias(self._frames, own)
        return [Reading(keys, values, bias) for keys, values in self._layers]

    def writing(self, frames: int) -> list[Writing]:
        """Kernels that write `frames` new frames first; these see what the memory then holds."""
        bias = self._bias(self._frames + frames, 0)
        tokens = self._tokens(frames)
        return [Writing(keys, values, tokens, bias) for keys, values in self._layers]

    def take_over(self, kernels: Sequence[Writing]) -> None:
        """Remember what a pass with `writing` kernels wrote."""
        self._frames += len(kernels[0].tokens) // self._tokens_of_slot.shape[1]
        self._layers = [(kernel.keys, kernel.values) for kernel in kernels]

    def keep(self, kernels: Sequence[Reading]) -> None:
        """Remember the frames of a pass with `reading` kernels as that pass saw them."""
        frames = kernels[0].own[0].shape[2] // self._tokens_of_slot.shape[1]
        tokens = self._tokens(frames)
        self._frames += frames
        self._layers = [
            (
                kernel.keys.index_copy(2, tokens, kernel.own[0]),
                kernel.values.index_copy(2, tokens, kernel.own[1]),
            )
            for kernel in kernels
        ]

    def _tokens(self, frames: int) -> Tensor:
        """Where the next `frames` frames are kept; built from views, without waiting for a GPU."""
        slots = [self.config.slot(self._frames + i) for i in range(frames)]
        return torch.cat([self._tokens_of_slot[slot] for slot in slots])

    def _bias(self, filled: int, own: int) -> Tensor:
        """Added to all scores, [slots*p + own]: hides the slots that no frame has been put into."""
        empty, _ = self._layers[0]
        bias = empty.new_zeros(empty.shape[2] + own)
        bias[filled * self._tokens_of_slot.shape[1] : empty.shape[2]] = float("-inf")
        return bias


@dataclass
class Reading:
    """New frames attend to the memory and to each other."""

    keys: Tensor  # [b g slots*p d]
    values: Tensor
    bias: Tensor  # [slots*p + n*p]
    own: tuple[Tensor, Tensor] = field(init=False)  # keys and values of the new frames, [b g n*p d]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own_keys, own_values = _layout(k), _layout(v)
        self.own = own_keys.detach(), own_values.detach()
        keys = torch.cat([self.keys, own_keys], dim=2)
        values = torch.cat([self.values, own_values], dim=2)
        return _attend(q, keys, values, self.bias)


@dataclass
class Writing:
    """New frames are put into the memory and attend to all it then holds."""

    keys: Tensor
    values: Tensor
    tokens: Tensor  # [n*p], where the new frames belong
    bias: Tensor  # [slots*p]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.write(k, v)
        return _attend(q, self.keys, self.values, self.bias)

    def write(self, k: Tensor, v: Tensor) -> None:
        self.keys = self.keys.index_copy(2, self.tokens, _layout(k))
        self.values = self.values.index_copy(2, self.tokens, _layout(v))


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Query heads that share keys are stacked into rows, so keys are read once per group."""
    queries = rearrange(q, "b f p (g r) d -> b g (r f p) d", g=keys.shape[1])
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=bias[None, None, None])
    return rearrange(mixed, "b g (r f p) d -> b f p (g r) d", f=q.shape[1], p=q.shape[2])


def _layout(x: Tensor) -> Tensor:
    return rearrange(x, "b f p g d -> b g (f p) d")


def _compute_dtype(network: WorldTransformer) -> torch.dtype:
    """The type keys and values come in: autocast's where that is on."""
    weight = network.latent_in.weight
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
