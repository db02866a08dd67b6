"""Who attends to whom. Each class here is a way to show the history to the same transformer block.

A kernel takes queries [b f p a d] and keys and values [b f p g d] that already carry their positions,
and returns [b f p a d].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from worldmodel.frame_attention import FEWEST_TOKENS, attend_frames, can_attend
from worldmodel.kv_cache import CacheConfig, KVCache

# Tiles of the fused kernel and its backward pass for heads of up to 64 channels, measured on an H100
# (docs/results/training-log.md). For wider heads PyTorch's own choice is taken.
NARROW = 64
TILES: Any = {
    "fwd_BLOCK_M": 64,
    "fwd_BLOCK_N": 64,
    "fwd_num_warps": 4,
    "bwd_BLOCK_M1": 64,
    "bwd_BLOCK_N1": 64,
    "bwd_BLOCK_M2": 64,
    "bwd_BLOCK_N2": 64,
    "bwd_num_warps": 4,
    "bwd_num_stages": 3,
}

# Kernels of `mix_on_gpu`, the fastest first: cuDNN's is for long queries, as measured on an H100.
MANY_QUERIES = 1024
CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
FLASH_FIRST = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

# Of `MixInParts`
MOST_PARTS = 8
LEAST_PART = 600  # keys: shorter parts are not worth joining
JOINING = 0.02

TILE = 128  # tokens on each side of what a mask calls empty, full or mixed

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def mix_fused(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Queries [b g n d] over keys and values [b g k d], with `bias` [k] or [n k] added to the scores."""
    mask = None if bias is None else torch.atleast_2d(bias)[None, None]
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def mix_on_gpu(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """`mix_fused` with the kernel that a rule names: a measured choice would differ from run to run."""
    order = CUDNN_FIRST if queries.shape[2] >= MANY_QUERIES else FLASH_FIRST
    with sdpa_kernel(order, set_priority=True):
        return mix_fused(queries, keys, values, bias)


def cudnn_part(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What queries [s h n d] mix, and the logarithm of their scores' sum, float32 [s h n 1]."""
    op = torch.ops.aten._scaled_dot_product_cudnn_attention
    mixed, sums, *_ = op(queries, keys, values, None, True)
    return mixed, sums.reshape(*mixed.shape[:-1], 1)


def join_parts(mixed: Tensor, sums: Tensor) -> Tensor:
    """[s h n d] and the logarithms of the sums of scores [s h n 1] as one attention [1 h n d].

    Each part is a softmax of its own keys, so it counts as much as their share of all scores (Milakov &
    Gimelshein 2018, arXiv 1805.02867; split over keys as in Flash-Decoding, Dao et al. 2023).
    """
    return (mixed.float() * sums.softmax(0)).sum(0, keepdim=True).to(mixed.dtype)


@dataclass(frozen=True)
class MixInParts:
    """`mix_on_gpu` of one clip, with long memories cut into parts that the processors share evenly.

    A kernel gives each of them `TILE` queries of a head. The 1560 of a latent of Wan make 156 such
    tiles, of which 132 processors do 132 and then 24: in five parts they are 780, and all work.
    """

    processors: int
    join: Callable[[Tensor, Tensor], Tensor] = join_parts
    part: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = cudnn_part

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        batch, heads, rows, _ = queries.shape
        tiles = heads * -(-rows // TILE)
        parts = even_parts(tiles, keys.shape[2], self.processors)
        if parts == 1 or batch != 1 or bias is not None or rows < MANY_QUERIES:
            return mix_on_gpu(queries, keys, values, bias)
        k, v = (x[0].unflatten(1, (parts, -1)).transpose(0, 1) for x in (keys, values))
        return self.join(*self.part(queries.expand(parts, -1, -1, -1), k, v))


def even_parts(tiles: int, keys: int, processors: int) -> int:
    """Into how many parts the keys are cut so that `tiles` of each take the least time.

    Counted in rounds of all processors; every part costs `JOINING` of one round to join.
    """

    def rounds(parts: int) -> float:
        return -(-tiles * parts // processors) / parts + JOINING * (parts > 1) * parts

    longest = min(MOST_PARTS, keys // LEAST_PART)
    return min((n for n in range(1, longest + 1) if keys % n == 0), key=rounds, default=1)


def mix_by_matmul(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """`mix_fused` with the scores in memory: on CPUs, where they fit the cache, twice as fast."""
    q, k, v = queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    added = q.new_zeros(1) if bias is None else bias
    scores = torch.baddbmm(added, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).unflatten(0, queries.shape[:2])


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Bidirectional: every frame of the clip sees every other."""
    return _frames(_dense(_sequence(q), _sequence(k), _sequence(v), None), q)


class TeacherForcing:
    """Causal training on [clean | noisy] copies of a clip, in one pass.

    Clean frame i sees clean frames up to itself; noisy frame i sees itself and the clean frames before
    it. Both see at most the last `window_frames` (and the sinks), exactly as the cache will hold them.
    With `block_frames` the frames of a block see each other, and of the others what its first one sees.
    """

    def __init__(
        self,
        frames: int,
        tokens: int,
        cache: CacheConfig,
        device: torch.device,
        block_frames: int = 1,
    ) -> None:
        self.mask: FrameMask
        index = torch.arange(2 * frames, device=device)
        seen = _teacher_forced(index[:, None], index[None], frames, cache, block_frames)
        self.mask = mask_of_frames(seen, tokens)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.mask
        if isinstance(mask, LargeFrames):
            if can_attend(q, k):
                return attend_frames(q, k, v, mask.seen)
            mask = mask.tiles
        queries, keys, values = _sequence(q), _sequence(k), _sequence(v)
        if isinstance(mask, Tensor):
            return _frames(_dense(queries, keys, values, mask), q)
        tiles = TILES if q.shape[-1] <= NARROW else None
        mixed: Any = flex_attention(
            queries, keys, values, block_mask=mask, enable_gqa=True, kernel_options=tiles
        )
        return _frames(mixed, q)


def _teacher_forced(
    query: Tensor, key: Tensor, frames: int, cache: CacheConfig, block_frames: int
) -> Tensor:
    """Which of the frames 0..2f-1, clean ones and then noisy ones, see which."""
    query_noisy, key_noisy = query >= frames, key >= frames
    query_block, key_block = query % frames // block_frames, key % frames // block_frames
    newest = (query_block + (~query_noisy).long()) * block_frames - 1
    itself = query_noisy & key_noisy & (key_block == query_block)
    return (~key_noisy & cache.holds(newest, key % frames)) | itself


@dataclass(frozen=True, slots=True)
class LargeFrames:
    """Frames that `attend_frames` is for; tiles serve heads and types that it does not take."""

    seen: Tensor  # bool [queries keys], on the CPU
    tiles: BlockMask


FrameMask = LargeFrames | BlockMask | Tensor


def mask_of_frames(seen: Tensor, tokens: int) -> FrameMask:
    """`seen` [queries keys] of frames as a mask of their tokens: of a GPU's kernels, else all pairs."""
    if seen.is_cuda:
        tiles = tiles_of_frames(seen, tokens)
        return LargeFrames(seen.cpu(), tiles) if tokens >= FEWEST_TOKENS else tiles
    return seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


def tiles_of_frames(seen: Tensor, tokens: int) -> BlockMask:
    """The same for the fused kernel, from how many tokens of each frame lie in each tile.

    PyTorch's `create_block_mask` asks for every pair of tokens: 4e9 for 20 frames of Wan.
    """

    def allowed(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        return seen[query // tokens, key // tokens]

    rows, columns = (_tokens_in_tiles(count, tokens, seen.device) for count in seen.shape)
    pairs = rows @ seen.double() @ columns.T
    full = pairs == TILE * TILE
    lengths = seen.shape[0] * tokens, seen.shape[1] * tokens
    some = _listed((pairs > 0) & ~full)
    return BlockMask.from_kv_blocks(*some, *_listed(full), TILE, allowed, lengths)


def _tokens_in_tiles(frames: int, tokens: int, device: torch.device) -> Tensor:
    """[tiles f]"""
    frame = torch.arange(frames, device=device) * tokens
    tile = torch.arange(0, frames * tokens, TILE, device=device)[:, None]
    shared = torch.minimum(tile + TILE, frame + tokens) - torch.maximum(tile, frame)
    return shared.clamp(min=0).double()


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of every row, and which ones first: [1 1 rows], [1 1 rows columns]."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1).int()[None, None], order.int()[None, None]


class Cached:
    """The frames of a block attend to each other and to the cache; the memory stays as it is."""

    def __init__(
        self, cache: KVCache, layer: int, mix: Mix = mix_fused, held: int | None = None
    ) -> None:
        """`held`: how many slots are filled; None asks the device."""
        self.cache, self.layer, self.mix, self.held = cache, layer, mix, held

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.write_own(self.layer, cache_layout(k), cache_layout(v), self.held)
        return attend_grouped(self.mix, q, *self.cache.seen(self.layer, self.held))


class Remembering:
    """One frame attends to itself and to a memory that was handed in; nothing is written.

    `own` is what the frame would leave in memory. For compilers of pure functions. To commit a frame,
    hide its slot by `bias`: what `Committing` sees, as the order of slots does not matter.
    """

    own: tuple[Tensor, Tensor]  # keys and values [b g p d] of the frame

    def __init__(self, keys: Tensor, values: Tensor, bias: Tensor, mix: Mix = mix_fused) -> None:
        """Memory [b g k d] with `bias` [k] added to its scores."""
        self.keys, self.values, self.bias, self.mix = keys, values, bias, mix

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own_keys, own_values = self.own = cache_layout(k), cache_layout(v)
        keys = torch.cat([self.keys.to(k.dtype), own_keys], dim=2)
        values = torch.cat([self.values.to(v.dtype), own_values], dim=2)
        seen = torch.zeros(k.shape[2], dtype=k.dtype, device=k.device)
        return attend_grouped(self.mix, q, keys, values, torch.cat([self.bias.to(k.dtype), seen]))

    def keep(self, k: Tensor, v: Tensor) -> None:
        """Of a last layer that only commits: nobody asks what it attends to."""
        self.own = cache_layout(k), cache_layout(v)


class Committing:
    """The clean frames of a block are written into their slots and attend to what is now there.

    The slots of the oldest frames are overwritten first, so a frame sees `window_frames` frames with
    its own block: what `TeacherForcing` shows to a clean frame.
    """

    def __init__(
        self,
        cache: KVCache,
        layer: int,
        slot: Tensor,
        mix: Mix = mix_fused,
        held: int | None = None,
    ) -> None:
        """`held`: how many slots are filled by then; None asks the device."""
        self.cache, self.layer, self.slot = cache, layer, slot
        self.mix, self.held = mix, held

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.write(k, v)
        return attend_grouped(self.mix, q, *self.cache.remembered(self.layer, self.held))

    def write(self, k: Tensor, v: Tensor) -> None:
        self.cache.write(self.layer, cache_layout(k), cache_layout(v), self.slot)


class Packing:
    """One pass over finished frames and as many new ones: the former are committed, the latter made.

    Each half sees what it would in a pass of its own. So the new frames see the finished ones in memory.
    In the last layer nobody asks what the finished ones attend to: zeros.
    """

    def __init__(
        self,
        cache: KVCache,
        layer: int,
        slot: Tensor,
        mix: Mix = mix_fused,
        held: int | None = None,
        *,
        last: bool = False,
    ) -> None:
        """`held`: how many slots are filled, the finished frames' included; None asks the device."""
        self.commit = Committing(cache, layer, slot, mix, held)
        self.make = Cached(cache, layer, mix, held)
        self.last = last

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        finished, new = zip(*(x.chunk(2, dim=1) for x in (q, k, v)), strict=True)
        if self.last:
            self.commit.write(*finished[1:])
            made = self.make(*new)
            return torch.cat([torch.zeros_like(made), made], dim=1)
        return torch.cat([self.commit(*finished), self.make(*new)], dim=1)


class CommittingAlone:
    """A clean frame is written into its slot and attends to itself only, as the first of a world does.

    So what it leaves does not depend on when it is committed.
    """

    def __init__(self, cache: KVCache, layer: int, slot: Tensor, mix: Mix = mix_fused) -> None:
        self.cache, self.layer, self.slot, self.mix = cache, layer, slot, mix

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.write(k, v)
        return attend_grouped(self.mix, q, cache_layout(k), cache_layout(v), None)

    def write(self, k: Tensor, v: Tensor) -> None:
        self.cache.write(self.layer, cache_layout(k), cache_layout(v), self.slot)


def attend_grouped(
    mix: Mix,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    attend: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Query heads that share keys are stacked into rows, so keys are read once per group.

    `attend`: what takes the place of `mix` if there are `MANY_QUERIES`.
    """
    groups = keys.shape[1]
    queries = rearrange(q, "b f p (g r) d -> b g (r f p) d", g=groups).to(keys.dtype)
    if attend is not None and queries.shape[2] >= MANY_QUERIES:
        mixed = attend(queries)
    else:
        mixed = mix(queries, keys, values, bias)
    return rearrange(mixed, "b g (r f p) d -> b f p (g r) d", f=q.shape[1], p=q.shape[2])


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )


def _sequence(x: Tensor) -> Tensor:
    return rearrange(x, "b f p a d -> b a (f p) d")


def _frames(x: Tensor, like: Tensor) -> Tensor:
    return rearrange(x, "b a (f p) d -> b f p a d", f=like.shape[1])


def cache_layout(x: Tensor) -> Tensor:
    return rearrange(x, "b f p g d -> b g (f p) d")
