"""Rotary positions over time, height and width, in rotate-half layout.

Source: RoFormer (arXiv 2104.09864), split over three axes as in video transformers. Scores depend on
differences of positions only, so time may be counted from any origin (`shift_time`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig:
    time_pairs: int  # pairs of channels given to each axis, slowest frequency last
    height_pairs: int
    width_pairs: int
    time_base: float
    space_base: float

    @property
    def pairs(self) -> int:
        return self.time_pairs + self.height_pairs + self.width_pairs


def frequencies(pairs: int, base: float) -> Tensor:
    """Radians per position, falling from 1 towards 1 / base."""
    return base ** (-torch.arange(pairs, dtype=torch.float32) / max(pairs, 1))


def space_angles(config: RotaryConfig, grid: tuple[int, int]) -> Tensor:
    """Angles [p, height_pairs + width_pairs] of the tokens of one frame, row by row."""
    height, width = grid
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    fy = frequencies(config.height_pairs, config.space_base)
    fx = frequencies(config.width_pairs, config.space_base)
    return torch.cat([y.reshape(-1, 1) * fy, x.reshape(-1, 1) * fx], dim=-1)


def angles(time: Tensor, time_frequencies: Tensor, space: Tensor) -> Tensor:
    """Angles [b f p pairs] of frames at `time` [b f] (in frames)."""
    b, f = time.shape
    temporal = time.float()[:, :, None, None] * time_frequencies
    return torch.cat([temporal.expand(b, f, len(space), -1), space.expand(b, f, -1, -1)], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [b f p a d] by angles given as cos, sin [b f p d/2]."""
    cos, sin = cos[:, :, :, None], sin[:, :, :, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def rotate_rolled(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """`rotate` in three kernels instead of seven where nothing fuses them; see `rolled`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def rolled(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The tables [b f p 1 d] of `rotate_rolled` for cos, sin [b f p d/2]."""
    twice, signed = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return twice[:, :, :, None], signed[:, :, :, None]


def shift_time(keys: Tensor, frames: float, time_frequencies: Tensor) -> Tensor:
    """Move cached keys [... d] by `frames` on the time axis, as if they had been rotated there."""
    half = keys.shape[-1] // 2
    turn = torch.zeros(half, device=keys.device)
    turn[: len(time_frequencies)] = frames * time_frequencies.to(keys.device)
    first, second = keys.float().chunk(2, dim=-1)
    cos, sin = turn.cos(), turn.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
