"""The kernels of `worldmodel/fp8_attention.py` in triton's interpreter, held against PyTorch.

Run with TRITON_INTERPRET=1. The interpreter rounds to e4m3 in a way of its own (a carry into the
exponent is lost), so inputs are rounded before, and weights of the mix differ by a little more.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from worldmodel import fp8_attention
from worldmodel.attention import join_parts
from worldmodel.eight_bits import FLOAT8, PlainKernels, to_float8


def put(frames: int, tokens: int) -> None:
    """Frames of any length into slots in any order, from tensors of any layout."""
    heads, width, slots = 2, 32, 3
    columns = -(-slots * tokens // 16) * 16
    found, wanted = (
        (
            torch.zeros(1, heads, slots * tokens, width, dtype=FLOAT8),
            torch.zeros(1, heads, width, columns, dtype=FLOAT8),
        )
        for _ in range(2)
    )
    keys = to_float8(300 * torch.randn(1, frames * tokens, heads, width)).half().transpose(1, 2)
    values = to_float8(torch.randn(1, heads, frames * tokens, width)).half()
    where = torch.tensor([2, 0, 1])[:frames]
    fp8_attention.TritonKernels(4, join_parts).put(*found, keys, values, where)
    PlainKernels().put(*wanted, keys, values, where)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.float(), theirs.float()), "put"


def attend(rows: int, held: int, parts: int) -> None:
    """What lies behind the keys that are held is no number, and is not seen."""
    heads, width, room = 2, 32, held + 50
    keys, values = torch.randn(heads, room, width), torch.randn(heads, width, room // 16 * 16 + 16)
    keys[:, held:], values[..., held:] = float("nan"), float("nan")
    q, k, v = (to_float8(x) for x in (3 * torch.randn(rows, heads, width), keys, values))
    mixed, sums = fp8_attention.attend_fp8(q, k, v, held, parts, torch.float16)
    seen, of = k[:, :held].float(), v[..., :held].float().transpose(1, 2)
    scores = q.float().transpose(0, 1) @ seen.transpose(1, 2) * width**-0.5
    wanted, found = scores.softmax(-1) @ of, join_parts(mixed, sums)[0].float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.08, (rows, held, parts)
    torch.testing.assert_close(sums[..., 0].logsumexp(0), scores.logsumexp(-1))


def main() -> None:
    torch.manual_seed(0)
    torch.cuda.device_of = lambda _tensor: nullcontext()  # type: ignore[assignment, misc]
    put(frames=1, tokens=64)
    put(frames=3, tokens=41)
    for rows, held, parts in ((70, 200, 1), (64, 128, 1), (65, 640, 5), (64, 129, 2), (3, 333, 2)):
        attend(rows, held, parts)


if __name__ == "__main__":
    main()
