"""The student's own rollout, differentiable at one denoising step of every frame.

Training cannot use the ring cache of play: gradients need keys and values that nobody overwrites. Here
the memory is a list of frames. What a frame may see is the same, which a test proves.
Source: Self Forcing (arXiv 2506.08009) and Causal Forcing++ (arXiv 2605.15141), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel import flow
from worldmodel.attention import Attend, attend_all
from worldmodel.kv_cache import CacheConfig
from worldmodel.transformer import Geometry


class Memory:
    """Keys and values of the frames so far, per layer, without gradients."""

    def __init__(self, config: CacheConfig, layers: int) -> None:
        self.config = config
        self._frames: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]

    def reading(self) -> list[Attend]:
        """Kernels with which a frame sees the memory and itself."""
        return [_Beside(self._visible(layer)) for layer in self._frames]

    def writing(self) -> list[Attend]:
        """Kernels that remember the frame, which sees what the memory holds with it."""
        return [_Into(layer, self) for layer in self._frames]

    def _visible(self, layer: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        sinks, window = self.config.sink_frames, self.config.window_frames
        return [*layer[:sinks], *layer[sinks:][-window:]]


@dataclass(frozen=True)
class _Beside:
    past: Sequence[tuple[Tensor, Tensor]]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = torch.cat([*(key for key, _ in self.past), k], dim=2)
        values = torch.cat([*(value for _, value in self.past), v], dim=2)
        return attend_all(q, keys, values)


@dataclass(frozen=True)
class _Into:
    layer: list[tuple[Tensor, Tensor]]
    memory: Memory

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.layer.append((k, v))
        *past, _ = self.memory._visible(self.layer)
        return _Beside(past)(q, k, v)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one rollout is sampled; the same on all processes, so that none waits for another."""

    levels: Sequence[float]  # noise levels of a frame, from 1 to 0
    exit_step: int  # the denoising step that gradients flow through; later ones are not run


def self_rollout(
    student: nn.Module,
    geometry: Geometry,
    words: Tensor,
    known: Tensor,
    cache: CacheConfig,
    plan: Plan,
    random: torch.Generator,
) -> Tensor:
    """Latents [b f p c]: the frames of `known` [b f0 p c], then the student's own.

    Every generated frame is the student's x0 at the exit step, with a gradient through that step only.
    Frames are remembered clean and without gradient.
    """
    frames: list[Tensor] = []
    memory = Memory(cache, len(_blocks(student)))
    for index in range(geometry.matrix.shape[1]):
        place = geometry.frame(index)
        if index < known.shape[1]:
            latent = known[:, index : index + 1]
        else:
            latent = _denoised(student, place, words, known[:, :1], memory, plan, random)
        frames.append(latent)
        with torch.no_grad():
            zero = torch.zeros(latent.shape[:2], device=latent.device)
            student(latent.detach(), zero, words, place, memory.writing())
    return torch.cat(frames, dim=1)


def _denoised(
    student: nn.Module,
    place: Geometry,
    words: Tensor,
    like: Tensor,
    memory: Memory,
    plan: Plan,
    random: torch.Generator,
) -> Tensor:
    latent = torch.randn(like.shape, generator=random, device=like.device)
    kernels = memory.reading()
    for step in range(plan.exit_step + 1):
        sigma = torch.full(like.shape[:2], plan.levels[step], device=like.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and step == plan.exit_step):
            velocity = student(latent, sigma, words, place, kernels)
            x0 = flow.x0_from_velocity(latent, velocity, sigma)
        if step < plan.exit_step:
            noise = torch.randn(like.shape, generator=random, device=like.device)
            latent = flow.interpolate(x0, noise, torch.full_like(sigma, plan.levels[step + 1]))
    return x0


def _blocks(student: nn.Module) -> Sequence[nn.Module]:
    plain = student.module if isinstance(student, nn.parallel.DistributedDataParallel) else student
    blocks: Sequence[nn.Module] = plain.blocks  # type: ignore[assignment]
    return blocks
