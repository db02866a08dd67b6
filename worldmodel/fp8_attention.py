"""Attention in 8-bit floats on Hopper: scores and their mix of values by its 8-bit tensor cores.

A tile of queries stays, blocks of keys and values pass by, and the softmax goes along (FlashAttention,
Dao et al. 2022, arXiv 2205.14135). Weights of the mix lie between 0 and 1: they are scaled to 256 before
they are rounded, so that e4m3 keeps three bits of all above 2^-14 of the largest so far. What an 8-bit
product multiplies must lie along its rows, so values come transposed.

Keys and values are loaded as tiles (TMA). Their descriptors are made on the host and are part of a
launch, as other numbers are: a captured graph keeps them with the addresses they name. So replays are
safe where a cache stays where it is. Beyond its end a descriptor reads zeros, so what lies in memory
after the values that are held is never multiplied, whatever it is.

Blocks, warps and stages were chosen on an H100 for heads of 128 channels. Needs triton.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from worldmodel.eight_bits import BLOCK, LARGEST, block_part, even_blocks, to_float8

QUERIES, KEYS = 64, BLOCK  # of a tile
WARPS, STAGES = 4, 3
TOKENS = 64  # that one program of `put` rounds

_LARGEST = tl.constexpr(LARGEST)
_LOG2_E = 1.4426950408889634
_LN_2 = tl.constexpr(0.6931471805599453)
_BITS = tl.constexpr(8.0)  # weights of the mix are scaled by 2^8


@triton.jit
def _round(x):
    x = tl.minimum(tl.maximum(x.to(tl.float32), -_LARGEST), _LARGEST)
    return x.to(tl.float8e4nv)


@triton.jit
def _pass(
    mixed, total, top, q, keys, values, row, column, start, held, scale,
    KEYS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One block of keys passes by: what is mixed, the sum of weights, and the largest score so far."""
    scores = tl.dot(q, keys.load([row + start, 0]).T)
    if LAST:  # rows of the next head follow
        scores = tl.where((start + tl.arange(0, KEYS))[None, :] < held, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1) * scale)
    weights = tl.math.exp2(scores * scale - (higher - _BITS)[:, None])
    faded = tl.math.exp2(top - higher)
    total = total * faded + tl.sum(weights, 1)
    mixed = mixed * faded[:, None]
    mixed = tl.dot(weights.to(tl.float8e4nv), values.load([column, start]).T, mixed)
    return mixed, total, higher


@triton.jit(do_not_specialize=["rows", "held", "key_rows", "part", "scale"])
def _attend(
    queries, keys, values, mixed_at, sums_at, rows, held, key_rows, part, scale,
    WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (tile of queries, head, part): `part` keys, or what is left of `held`."""
    head, piece = tl.program_id(1), tl.program_id(2)
    n = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    d = tl.arange(0, WIDTH)
    q = queries.load([tl.program_id(0) * QUERIES, head * WIDTH])
    row, column = head * key_rows, head * WIDTH
    first = piece * part
    stop = tl.minimum(first + part, held)
    whole = first + (stop - first) // KEYS * KEYS
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in tl.range(first, whole, KEYS, num_stages=STAGES):
        mixed, total, top = _pass(
            mixed, total, top, q, keys, values, row, column, start, held, scale, KEYS, False
        )  # fmt: skip
    if whole < stop:
        mixed, total, top = _pass(
            mixed, total, top, q, keys, values, row, column, whole, held, scale, KEYS, True
        )  # fmt: skip
    mixed = mixed / total[:, None]
    heads = tl.num_programs(1)
    place = mixed_at + ((piece * rows + n) * heads + head)[:, None] * WIDTH + d[None, :]
    tl.store(place, mixed.to(mixed_at.dtype.element_ty), mask=n[:, None] < rows)
    sums = (top + tl.math.log2(total) - _BITS) * _LN_2
    tl.store(sums_at + (piece * heads + head) * rows + n, sums, mask=n < rows)


@triton.jit(do_not_specialize_on_alignment=["slots"])
def _put(
    to_keys, to_values, keys, values, slots, to_rows, to_columns, key_head, key_row, key_channel,
    value_head, value_row, value_channel, tokens, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Program (tile of tokens, head, frame)."""
    head, frame = tl.program_id(1), tl.program_id(2)
    n = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    d = tl.arange(0, WIDTH)
    there = n < tokens
    source = frame * tokens + n
    target = tl.load(slots + frame) * tokens + n
    place = keys + head * key_head + source[:, None] * key_row + d[None, :] * key_channel
    rounded = _round(tl.load(place, mask=there[:, None], other=0.0))
    place = to_keys + (head * to_rows + target)[:, None] * WIDTH + d[None, :]
    tl.store(place, rounded, mask=there[:, None])
    place = values + head * value_head + source[:, None] * value_row + d[None, :] * value_channel
    rounded = _round(tl.load(place, mask=there[:, None], other=0.0))
    place = to_values + (head * WIDTH + d)[:, None] * to_columns + target[None, :]
    tl.store(place, rounded.T, mask=there[None, :])


def attend_fp8(
    queries: Tensor, keys: Tensor, values: Tensor, held: int, parts: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Queries [n h d] over the first `held` of keys [h k d] and values [h d k], cut into parts.

    All are float8_e4m3fn and contiguous, and rows of values begin at multiples of 16 bytes. Parts are as
    `block_part` says. Returns what each part mixes, of `dtype` [parts h n d], and the logarithms of the
    sums of its scores, float32 [parts h n 1]: for `attention.join_parts`.
    """
    rows, heads, width = queries.shape
    part = block_part(held, parts)
    assert (parts - 1) * part < held <= keys.shape[1], "each part has keys"
    assert queries.is_contiguous() and keys.is_contiguous() and values.is_contiguous()
    mixed = torch.empty(parts, rows, heads, width, dtype=dtype, device=queries.device)
    sums = torch.empty(parts, heads, rows, 1, device=queries.device)
    columns, key_rows = values.shape[2], keys.shape[1]
    blocks = (
        TensorDescriptor(queries, [rows, heads * width], [heads * width, 1], [QUERIES, width]),
        TensorDescriptor(keys, [heads * key_rows, width], [width, 1], [KEYS, width]),
        TensorDescriptor(values, [heads * width, held], [columns, 1], [width, KEYS]),
    )
    grid = -(-rows // QUERIES), heads, parts
    launch: Any = _attend[grid]
    with torch.cuda.device_of(queries):
        launch(
            *blocks, mixed, sums, rows, held, key_rows, part, width**-0.5 * _LOG2_E,
            WIDTH=width, QUERIES=QUERIES, KEYS=KEYS, STAGES=STAGES,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return mixed.transpose(1, 2), sums


@dataclass(frozen=True)
class TritonKernels:
    """`eight_bits.Kernels` of one clip."""

    processors: int
    join: Callable[[Tensor, Tensor], Tensor]
    round: Callable[[Tensor], Tensor] = to_float8

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
        tiles = queries.shape[1] * -(-queries.shape[2] // QUERIES)
        parts = even_blocks(tiles, held, self.processors)
        rounded = self.round(queries[0].transpose(0, 1).contiguous())  # they mostly come like that
        mixed, sums = attend_fp8(rounded, keys[0], values[0], held, parts, queries.dtype)
        return mixed if parts == 1 else self.join(mixed, sums)

    def put(
        self, to_keys: Tensor, to_values: Tensor, keys: Tensor, values: Tensor, slots: Tensor
    ) -> None:
        _, heads, rows, width = keys.shape
        tokens = rows // len(slots)
        grid = -(-tokens // TOKENS), heads, len(slots)
        strides = *keys.stride()[1:], *values.stride()[1:]
        launch: Any = _put[grid]
        with torch.cuda.device_of(keys):
            launch(
                to_keys, to_values, keys, values, slots, to_keys.shape[2], to_values.shape[3], *strides,
                tokens, WIDTH=width, TOKENS=TOKENS, num_warps=WARPS,
            )  # fmt: skip
