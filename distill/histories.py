"""Noisy frames before a student's own: what play never shows, and what two baselines train with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from worldmodel.attention import TeacherForcing
from worldmodel.kv_cache import CacheConfig


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
        block_tokens: int = 128,
    ) -> None:
        """`block_tokens`: the granularity at which a GPU skips what is masked out."""
        allowed, length = _causal_rule(tokens, cache), frames * tokens
        if device.type == "cuda":
            self.mask = create_block_mask(
                allowed, None, None, length, length, str(device), BLOCK_SIZE=block_tokens
            )
        else:
            index = torch.arange(length, device=device)
            self.mask = allowed(0, 0, index[:, None], index[None])


def _causal_rule(tokens: int, cache: CacheConfig) -> Callable[..., Tensor]:
    def allowed(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        query_frame, key_frame = query // tokens, key // tokens
        recent = key_frame >= query_frame - cache.window_frames
        return (recent | (key_frame < cache.sink_frames)) & (key_frame <= query_frame)

    return allowed
