"""Attention by a mask of whole frames as a few dense attentions, whose kernels are a GPU's fastest.

Such a mask is a few rectangles of queries and keys (`pieces_of`). Each gives what its keys give and the
logarithms of the sums of their scores, by which pieces of the same queries are joined (Milakov &
Gimelshein 2018, arXiv 1805.02867). Backwards every piece stands alone, as scores follow from the sum
over all pieces (FlashAttention-2, arXiv 2307.08691): inputs, result and sums are all that is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

Seen = tuple[tuple[bool, ...], ...]  # of every query frame: which key frames it sees

HALF = (torch.bfloat16, torch.float16)  # what cuDNN's attention computes in
WIDEST = 128  # channels of a head that its backward pass takes
FEWEST_TOKENS = 1024  # of a frame; smaller ones fill no GPU


@dataclass(frozen=True, slots=True)
class Piece:
    """So many rows, in each of which n query frames see k key frames: all of them, row after row."""

    rows: int
    queries: tuple[int, ...]  # rows * n
    keys: tuple[int, ...]  # rows * k

    @property
    def keys_seen(self) -> int:
        return len(self.keys) // self.rows

    def takes(self, other: Piece) -> bool:
        """Whether `other` may be one more row: as large, and no frame is in both."""
        alike = (len(self.queries), len(self.keys)) == (
            self.rows * len(other.queries),
            self.rows * len(other.keys),
        )
        shared = {*self.queries} & {*other.queries} or {*self.keys} & {*other.keys}
        return alike and not shared

    def with_row(self, other: Piece) -> Piece:
        return Piece(self.rows + 1, self.queries + other.queries, self.keys + other.keys)


@lru_cache(maxsize=256)
def pieces_of(seen: Seen) -> tuple[Piece, ...]:
    """Frames that see the same run of frames are a piece; equal pieces that share none are one.

    Of teacher forcing: clean frame i and noisy frame i + 1 see the clean frames up to i; what noisy
    frames see of themselves is one piece.

    Raises:
        ValueError: if a frame sees none.
    """
    seeing: dict[range, list[int]] = {}
    for query, row in enumerate(seen):
        if not any(row):
            raise ValueError(f"frame {query} of the mask sees no frame")
        for run in runs_of(key for key, sees in enumerate(row) if sees):
            seeing.setdefault(run, []).append(query)
    pieces: list[Piece] = []
    for run, queries in seeing.items():
        new = Piece(1, tuple(queries), tuple(run))
        for index, piece in enumerate(pieces):
            if piece.takes(new):
                pieces[index] = piece.with_row(new)
                break
        else:
            pieces.append(new)
    # the most keys first: then few runs of frames are begun in part (`runs_of`)
    return tuple(sorted(pieces, key=lambda piece: -piece.keys_seen))


def runs_of(frames: Iterable[int], begun: Collection[int] = ()) -> list[range]:
    """Neighbours as ranges, in the order given; of each all frames are in `begun`, or none."""
    listed = list(frames)
    cuts = [
        place
        for place, (last, here) in enumerate(pairwise(listed), 1)
        if here != last + 1 or (here in begun) != (last in begun)
    ]
    edges = pairwise([0, *cuts, len(listed)])
    return [range(listed[start], listed[stop - 1] + 1) for start, stop in edges]


def can_attend(q: Tensor, k: Tensor) -> bool:
    """Whether `attend_frames` is the way for queries [b f p a d] and keys [b g p h d]."""
    if q.shape[3] != k.shape[3] or q.shape[2] < FEWEST_TOKENS:
        return False
    return not q.is_cuda or (q.dtype in HALF and q.shape[4] <= WIDEST)


def attend_frames(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Queries [b f p a d] over the keys and values [b g p a d] of the frames that each frame sees.

    `seen` is bool [f g] on the CPU: a table, not numbers, so that no compiler takes another one for
    another case, and nobody waits for a GPU to read it.
    """
    mixed: Tensor = _attend(q, k, v, seen)[0]
    return mixed


@torch.library.custom_op(
    "worldmodel::attend_frames",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor seen) -> (Tensor, Tensor)",
)
def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """[b f p a d], and the logarithms of the sums of scores [b f a p]."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    mixed, sums = _results(q)
    begun: set[int] = set()
    for piece in _pieces(seen):
        keys, values = (_taken(x, piece.keys, piece.rows) for x in (k, v))
        part, of_part = _dense(_taken(q, piece.queries, piece.rows), keys, values)
        part = _as_frames(part, piece.rows, q.shape[2])
        of_part = rearrange(of_part, "(b m) a (n p) -> b (m n) a p", m=piece.rows, p=q.shape[2])
        for run, of in _runs_within(piece.queries, begun):
            if run.start in begun:
                _join(mixed[:, run], sums[:, run], part[:, of], of_part[:, of])
            else:
                mixed[:, run], sums[:, run] = part[:, of], of_part[:, of]
        begun.update(piece.queries)
    return mixed, sums


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _results(q)


@torch.library.custom_op(
    "worldmodel::attend_frames_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor mixed, Tensor sums, Tensor seen)"
    " -> (Tensor, Tensor, Tensor)",
)
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, sums: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values from that of what was mixed."""
    grad, q, k, v = (x.contiguous() for x in (grad, q, k, v))
    # a query is in two pieces or three, a key in as many as frames see it
    totals = _Total(q, q.dtype), _Total(k, torch.float32), _Total(v, torch.float32)
    for piece in _pieces(seen):
        queries, result, of_result = (
            _taken(x, piece.queries, piece.rows) for x in (q, mixed, grad)
        )
        keys, values = (_taken(x, piece.keys, piece.rows) for x in (k, v))
        of_piece = _sums_taken(sums, piece.queries, piece.rows)
        parts = _dense_backward(of_result, queries, keys, values, result, of_piece)
        places = piece.queries, piece.keys, piece.keys
        for total, part, frames in zip(totals, parts, places, strict=True):
            total.add(_as_frames(part, piece.rows, q.shape[2]), frames)
    of_q, of_k, of_v = (total.finished(x.dtype) for total, x in zip(totals, (q, k, v), strict=True))
    return of_q, of_k, of_v


@_attend_backward.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixed: Tensor,  # noqa: ARG001
    sums: Tensor,  # noqa: ARG001
    seen: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, seen = inputs
    ctx.save_for_backward(q, k, v, *output, seen)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    of_q, of_k, of_v = _attend_backward(grad, *ctx.saved_tensors)
    return of_q, of_k, of_v, None


_attend.register_autograd(_gradients, setup_context=_keep)


class _Total:
    """The sum of parts of frames [b f p a d]."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._sum = like.new_empty(like.shape, dtype=dtype)
        self._begun: set[int] = set()

    def add(self, part: Tensor, frames: Sequence[int]) -> None:
        for run, of in _runs_within(frames, self._begun):
            if run.start in self._begun:
                self._sum[:, run] += part[:, of]
            else:  # spares filling it with zeros
                self._sum[:, run] = part[:, of]
        self._begun.update(frames)

    def finished(self, dtype: torch.dtype) -> Tensor:
        for frame in {*range(self._sum.shape[1])} - self._begun:
            self._sum[:, frame] = 0
        return self._sum.to(dtype)


def _join(mixed: Tensor, sums: Tensor, part: Tensor, of_part: Tensor) -> None:
    """Mix a part [b f p a d] with sums [b f a p] into what other keys of its queries gave."""
    share = rearrange((of_part - sums).sigmoid(), "b f a p -> b f p a 1")
    mixed.lerp_(part, share.to(mixed.dtype))
    sums.copy_(torch.logaddexp(sums, of_part))


def _dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What queries [s a n d] mix of all keys [s a k d], and their sums' logarithms, float32 [s a n]."""
    if q.is_cuda:
        mixed, sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
        return mixed, sums.reshape(mixed.shape[:-1])
    mixed, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return mixed, sums


def _dense_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    known, nothing_dropped = (grad, q, k, v, mixed), (0.0, False)
    found: tuple[Tensor, Tensor, Tensor]
    if q.is_cuda:
        unused = torch.zeros((), dtype=torch.long, device=q.device)  # seed and place of dropout
        plain = (None, None, None, q.shape[2], k.shape[2])  # no bias, and all rows are as long
        op = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
        found = op(*known, sums.unsqueeze(-1), unused, unused, *plain, *nothing_dropped)
    else:
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = op(*known, sums, *nothing_dropped)
    return found


def _results(q: Tensor) -> tuple[Tensor, Tensor]:
    batch, frames, tokens, heads, _ = q.shape
    sums = q.new_empty((batch, frames, heads, tokens), dtype=torch.float32)
    return q.new_empty(q.shape), sums


def _pieces(seen: Tensor) -> tuple[Piece, ...]:
    return pieces_of(tuple(tuple(row) for row in seen.tolist()))


def _runs_within(frames: Sequence[int], begun: Collection[int]) -> list[tuple[slice, slice]]:
    """Neighbouring frames, and where they are among `frames`."""
    found, first = [], 0
    for run in runs_of(frames, begun):
        found.append((slice(run.start, run.stop), slice(first, first + len(run))))
        first += len(run)
    return found


def _taken(x: Tensor, frames: Sequence[int], rows: int) -> Tensor:
    """Frames of [b f p a d] as [b*rows a n*p d]; neighbours are a view."""
    return rearrange(_chosen(x, frames), "b (m n) p a d -> (b m) a (n p) d", m=rows)


def _sums_taken(sums: Tensor, frames: Sequence[int], rows: int) -> Tensor:
    """The same of sums [b f a p]: [b*rows a n*p]."""
    taken = rearrange(_chosen(sums, frames), "b (m n) a p -> (b m) a (n p)", m=rows)
    return taken.contiguous()


def _chosen(x: Tensor, frames: Sequence[int]) -> Tensor:
    runs = [x[:, run.start : run.stop] for run in runs_of(frames)]
    return runs[0] if len(runs) == 1 else torch.cat(runs, 1)


def _as_frames(x: Tensor, rows: int, tokens: int) -> Tensor:
    """[b*rows a n*p d] as frames [b f p a d]."""
    return rearrange(x, "(b m) a (n p) d -> b (m n) p a d", m=rows, p=tokens)
