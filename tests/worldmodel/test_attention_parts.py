"""Attention to a memory that is cut into parts is attention to the whole."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from worldmodel.attention import MixInParts, even_parts, join_parts, mix_fused, mix_on_gpu


def _part(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return scores.softmax(-1) @ values, scores.logsumexp(-1, keepdim=True)


def test_parts_joined_are_the_attention_to_all_keys() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1, 3, n, 16) for n in (1100, 6000, 6000))
    parts: list[int] = []

    def seen(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        parts.append(len(k))
        return _part(q, k, v)

    mixed = MixInParts(processors=24, part=seen)(queries, 3 * keys, values, None)
    assert parts == [8]  # 27 tiles would leave 21 of 24 processors idle at the end; 216 leave none
    torch.testing.assert_close(mixed, mix_fused(queries, 3 * keys, values, None))


def test_parts_that_see_nothing_alike_count_by_their_scores() -> None:
    mixed = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    sums = torch.tensor([0.0, math.log(3.0)]).reshape(2, 1, 1, 1)
    assert join_parts(mixed, sums).item() == pytest.approx((1.0 + 3 * 5.0) / 4)


@pytest.mark.parametrize(("latents", "parts"), [(1, 2), (2, 5), (6, 5), (21, 5)])
def test_a_frame_of_wan_keeps_all_processors_of_an_h100_busy(latents: int, parts: int) -> None:
    assert even_parts(12 * 13, latents * 1560, 132) == parts


@pytest.mark.parametrize("keys", [1024, 5000, 7919])
def test_tiles_that_fit_the_processors_stay_whole(keys: int) -> None:
    assert even_parts(128, keys, 128) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [12, 24])
def test_on_a_gpu_parts_are_the_whole_within_bfloat16(heads: int) -> None:
    torch.manual_seed(0)
    draw = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    room = draw(2, 1, heads, 7 * 1560, 128)  # a cache that is not full: rows lie apart
    queries, (keys, values) = draw(1, heads, 1560, 128), room[..., : 6 * 1560, :]
    whole = mix_on_gpu(queries, keys, values, None).float()
    found = MixInParts(132)(queries, keys, values, None).float()
    assert float((found - whole).norm() / whole.norm()) < 0.01
