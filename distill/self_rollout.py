"""The student's own rollout, differentiable at one denoising step of every frame.

It is played first, frame after frame and without gradients, as fast as the player plays. That leaves the
noisy latents every exit step saw, and what was remembered of every frame. Nothing remembered has a
gradient, so the exit steps of all frames are then one pass of the network, which has: the same frames
and the same gradients as a rollout that is differentiable on the way (a test holds it to one).
Source: Self Forcing (arXiv 2506.08009) and Causal Forcing++ (arXiv 2605.15141), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from distill.histories import Beside
from distill.networks import Transformer, device_of, make_transformer
from distill.sharding import whole
from worldmodel import flow
from worldmodel.attention import Attend, attend_grouped, cache_layout, mask_of_frames, mix_fused
from worldmodel.compiled import compile_regions
from worldmodel.cuda_graph import CudaGraph
from worldmodel.kv_cache import CacheConfig
from worldmodel.runtime import prepare
from worldmodel.sampler import Commit
from worldmodel.transformer import Geometry, words_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one rollout is sampled; the same on all processes, so that none waits for another."""

    levels: Sequence[float]  # noise levels of a frame, from 1 to 0
    exit_step: int  # the denoising step that gradients flow through
    first_levels: Sequence[float] = (1.0, 0.0)  # the same for a first frame that nobody gave
    first_exit_step: int = 0
    commit: Commit = "clean"  # who writes the memory: a pass of its own, or the last denoising step
    block_frames: int = 1  # frames that are made together and see each other
    gradient_from: int = 0  # frames before this one are made as in play: all steps, no gradient


def self_rollout(
    student: nn.Module,
    player: Player,
    geometry: Geometry,
    words: Tensor,
    known: Tensor,
    plan: Plan,
    random: torch.Generator,
) -> Tensor:
    """Latents [b f p c]: the frames of `known` [b f0 p c] (f0 may be 0), then the student's own.

    Every generated frame is the student's x0 at the exit step, with a gradient through that step only.
    Frames are remembered without gradient: clean, or, if the last denoising step writes the memory, as
    that step leaves them; the steps after the exit then run too, as they will in play.
    """
    played = player.play(geometry, words, known, plan, random)
    if not torch.is_grad_enabled():
        return played.latents
    frames = geometry.matrix.shape[1]
    first = _first_trained(known.shape[1], frames, plan)
    kernels = player.exit_kernels(known.shape[1], first, frames, plan)
    exits, levels = (x[:, first - known.shape[1] :] for x in (played.exits, played.levels))
    asked = words_at(words, first, frames)
    velocity = student(exits, levels, asked, geometry.frames(first, frames), kernels)
    made = flow.x0_from_velocity(exits, velocity, levels)
    return torch.cat([played.latents[:, :first], made], dim=1)


def _first_trained(known: int, frames: int, plan: Plan) -> int:
    """The frame that the first block with a gradient begins with."""
    generated = _blocks(known, frames, plan.block_frames)
    return next(start for start, stop in generated if stop > max(known, plan.gradient_from))


@dataclass(frozen=True, slots=True)
class Played:
    """What a rollout leaves."""

    latents: Tensor  # [b f p c]: the known frames, then x0 at the exit step of every other
    exits: Tensor  # [b n p c]: the noisy latents that the exit steps of the n generated frames saw
    levels: Tensor  # [b n], their noise levels


class Player:
    """Plays clips with the student's weights and remembers every frame, without gradients.

    On a GPU a pass over each frame is a captured graph of its own: it reads what that frame sees and
    nothing else, and new frames lie where they will be remembered.
    """

    def __init__(
        self,
        student: Transformer,
        cache: CacheConfig,
        *,
        clips: int,
        frames: int,
        compiled: bool = False,
    ) -> None:
        """At most `frames` a clip. `compiled`: what lies between attention calls."""
        device, model = device_of(student), student.config
        self._student, self._cache, self._frames = student, cache, frames
        self._device, self._tokens = device, model.tokens_per_frame
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with device:
            self._network: Transformer = prepare(make_transformer(model), device, dtype)
        if compiled:
            compile_regions(self._network)
        shape = (model.layers, clips, model.kv_heads, frames * self._tokens, model.head_width)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)  # [layers b g f*p d]
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._graphs: dict[tuple[str, int, int], CudaGraph[Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._masks: dict[tuple[int, ...], list[Attend]] = {}

    def fits(self, clips: int, frames: int) -> bool:
        """Whether it was made for so many clips of so many frames."""
        return (clips, frames) == (self._keys.shape[1], self._frames)

    @torch.no_grad()
    def play(
        self,
        geometry: Geometry,
        words: Tensor,
        known: Tensor,
        plan: Plan,
        random: torch.Generator,
    ) -> Played:
        for ours, theirs in zip(
            self._network.parameters(), self._student.parameters(), strict=True
        ):
            ours.copy_(whole(theirs))
        latents, exits, levels = [known], [], []
        frames = geometry.matrix.shape[1]
        with torch.autocast(self._device.type, enabled=False):
            self._remember_known(known, words, geometry)
            for start, stop in _blocks(known.shape[1], frames, plan.block_frames):
                place, asked = geometry.frames(start, stop).tensors(), words_at(words, start, stop)
                shape = (len(known), stop - start, *known.shape[2:])
                block = self._block(shape, asked, place, start, plan, random)
                latents.append(block.latents)
                exits.append(block.exits)
                levels.append(block.levels)
        return Played(torch.cat(latents, 1), torch.cat(exits, 1), torch.cat(levels, 1))

    def exit_kernels(self, known: int, first: int, stop: int, plan: Plan) -> list[Attend]:
        """With which the frames from `first` to `stop` see, all at once, what each saw when made."""
        case = (known, first, stop, plan.block_frames)
        if case not in self._masks:
            frames, new = self._frames, stop - first
            sees = torch.zeros(new, frames + new, dtype=torch.bool)  # columns: remembered, then new
            for start, end in _blocks(known, stop, plan.block_frames):
                if start >= first:
                    rows = slice(start - first, end - first)
                    sees[rows, :frames] = self._cache.holds(start - 1, torch.arange(frames))
                    sees[rows, frames + start - first : frames + end - first] = True
            # a table, not numbers: a compiler would take each for another case
            mask = mask_of_frames(sees.to(self._device), self._tokens)
            self._masks[case] = [
                Beside(_frame_layout(keys, frames), _frame_layout(values, frames), mask)
                for keys, values in zip(self._keys, self._values, strict=True)
            ]
        return self._masks[case]

    def _block(
        self,
        shape: tuple[int, ...],
        words: Tensor,
        place: tuple[Tensor, ...],
        start: int,
        plan: Plan,
        random: torch.Generator,
    ) -> Played:
        """Make and remember frames of latents `shape` [b n p c]."""
        own = plan.commit == "own"
        levels, exit_step = plan.levels, plan.exit_step
        if start == 0:
            levels, exit_step = plan.first_levels, plan.first_exit_step
        if start + shape[1] <= plan.gradient_from:
            exit_step = len(levels) - 2
        last = len(levels) - 2 if own else exit_step

        def noise() -> Tensor:
            return torch.randn(shape, generator=random, device=self._device)

        latent = noise()
        for step in range(last + 1):
            sigma = latent.new_full(shape[:2], levels[step])
            x0 = self._x0(latent, sigma, words, place, start)
            if step == exit_step:
                block = Played(x0, latent, sigma)
            if step < last:
                latent = flow.interpolate(x0, noise(), latent.new_full(shape[:2], levels[step + 1]))
        if not own:  # else the last step's own keys and values lie there already
            self._run("commit", self._commit, start, (block.latents, words, *place))
        return block

    def _x0(
        self,
        latent: Tensor,
        sigma: Tensor,
        words: Tensor,
        place: tuple[Tensor, ...],
        start: int,
    ) -> Tensor:
        inputs = (latent, sigma, words, *place)
        return self._run("denoise", self._denoise, start, inputs).clone()

    def _remember_known(self, known: Tensor, words: Tensor, geometry: Geometry) -> None:
        """Frames [b k p c] that are there from the start, in one pass: each sees those up to it."""
        count = known.shape[1]
        if count:
            place, asked = geometry.frames(0, count).tensors(), words_at(words, 0, count)
            self._run("known", self._commit_in_turn, 0, (known, asked, *place))

    def _denoise(
        self, start: int, latent: Tensor, sigma: Tensor, words: Tensor, *place: Tensor
    ) -> Tensor:
        """x0 of latent [b n p c]; frames see each other and the memory when `start` frames are there."""
        stop = start + latent.shape[1]
        seen = [*self._held(start), *range(start, stop)]
        kernels = self._kernels(start, stop, seen)
        places = self._network.places(Geometry(*place))
        velocity = self._network(latent, sigma, words, places, kernels)
        return flow.x0_from_velocity(latent, velocity, sigma)

    def _commit(self, start: int, latent: Tensor, words: Tensor, *place: Tensor) -> Tensor:
        """Write frames [b n p c] into the memory; they see what it then holds."""
        stop = start + latent.shape[1]
        return self._write(self._kernels(start, stop, self._held(stop)), latent, words, place)

    def _commit_in_turn(self, start: int, latent: Tensor, words: Tensor, *place: Tensor) -> Tensor:
        """The same, but each sees what the memory holds when it is the newest."""
        stop = start + latent.shape[1]
        frame = torch.arange(start, stop, device=self._device)
        holds = self._cache.holds(frame[:, None], torch.arange(stop, device=self._device))
        hidden = ~holds.repeat_interleave(self._tokens, 0).repeat_interleave(self._tokens, 1)
        bias = torch.zeros(hidden.shape, dtype=self._keys.dtype, device=self._device)
        bias.masked_fill_(hidden, float("-inf"))
        kernels = self._kernels(start, stop, range(stop), bias)
        return self._write(kernels, latent, words, place)

    def _write(
        self,
        kernels: Sequence[_Memory],
        latent: Tensor,
        words: Tensor,
        place: tuple[Tensor, ...],
    ) -> Tensor:
        *seeing, last = kernels
        zero, places = latent.new_zeros(latent.shape[:2]), self._network.places(Geometry(*place))
        last.write(*self._network.last_keys_values(latent, zero, words, places, seeing))
        return latent

    def _held(self, count: int) -> list[int]:
        """The frames in memory when `count` have been made."""
        every = torch.arange(count)
        held: list[int] = every[self._cache.holds(count - 1, every)].tolist()
        return held

    def _kernels(
        self, start: int, stop: int, seen: Sequence[int], bias: Tensor | None = None
    ) -> list[_Memory]:
        """For each layer: frames from `start` to `stop` see frames `seen`, in which those are."""
        tokens, here = self._tokens, slice(start * self._tokens, stop * self._tokens)
        runs = [slice(first * tokens, end * tokens) for first, end in _runs(seen)]
        return [
            _Memory(keys, values, here, runs, bias)
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def _run(
        self,
        name: str,
        function: Callable[..., Tensor],
        start: int,
        inputs: tuple[Tensor, ...],
    ) -> Tensor:
        if self._device.type != "cuda":
            return function(start, *inputs)
        key = (name, start, inputs[0].shape[1])
        if key not in self._graphs:
            # what one leaves is taken before another runs, so they share their memory
            self._graphs[key] = CudaGraph(partial(function, start), inputs, pool=self._pool)
        return self._graphs[key](*inputs)


def _blocks(known: int, frames: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last frame (exclusive) of all that are made together, after the known ones."""
    return ((start, min(start + size, frames)) for start in range(known, frames, size))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as ranges without gaps: first and last (exclusive) of each."""
    edges = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    bounds = pairwise([0, *edges, len(numbers)])
    return [(numbers[first], numbers[end - 1] + 1) for first, end in bounds]


@dataclass(frozen=True, slots=True)
class _Memory:
    """New frames are put into the memory of a layer and attend to what is `seen` of it."""

    keys: Tensor  # [b g f*p d]
    values: Tensor
    here: slice  # where the new frames belong
    seen: Sequence[slice]
    bias: Tensor | None  # [n*p s], where new frames do not see the same of all s that is seen

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.write(k, v)
        keys, values = (_parts(memory, self.seen) for memory in (self.keys, self.values))
        sharing = q.shape[3] // k.shape[3]
        bias = None if self.bias is None else self.bias.repeat(sharing, 1)
        return attend_grouped(mix_fused, q, keys, values, bias)

    def write(self, k: Tensor, v: Tensor) -> None:
        self.keys[:, :, self.here].copy_(cache_layout(k))
        self.values[:, :, self.here].copy_(cache_layout(v))


def _parts(memory: Tensor, slices: Sequence[slice]) -> Tensor:
    parts = [memory[:, :, part] for part in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _frame_layout(x: Tensor, frames: int) -> Tensor:
    return rearrange(x, "b g (f p) d -> b f p g d", f=frames)
