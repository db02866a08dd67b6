"""The fused kernel's mask is made of frames, and is the one that asks every pair of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from worldmodel.attention import TeacherForcing, tiles_of_frames
from worldmodel.kv_cache import CacheConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [28, 128, 200, 390])
@pytest.mark.parametrize("block_frames", [1, 2])
def test_tiles_from_frames_are_those_from_pairs_of_tokens(tokens: int, block_frames: int) -> None:
    cache = CacheConfig(sink_frames=1, window_frames=3)
    table = TeacherForcing(4, 1, cache, CPU, block_frames).mask
    assert isinstance(table, Tensor)

    def allowed(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        return table[query // tokens, key // tokens]

    length = 8 * tokens
    theirs = create_block_mask(allowed, None, None, length, length, "cpu")
    ours = tiles_of_frames(table, tokens)
    assert ours.shape == theirs.shape
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_whole_wan_clip_needs_no_table_of_pairs() -> None:
    cache = CacheConfig(sink_frames=0, window_frames=20)
    table = TeacherForcing(20, 1, cache, CPU).mask
    assert isinstance(table, Tensor)
    tiles = tiles_of_frames(table, 1560)  # 3.9e9 pairs
    share = (tiles.kv_num_blocks.sum() + tiles.full_kv_num_blocks.sum()) / 488**2
    assert 420 / 1600 < float(share) < 1.2 * 420 / 1600
