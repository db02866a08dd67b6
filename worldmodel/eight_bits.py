"""Keys and values in 8-bit floats beside those of the cache, for attention in 8 bits.

The cache's own stay the truth, in its type: moving the anchor multiplies all of them again and again,
and rounding to three bits each time would add up. What is rounded here is always rounded once, from
them. Plainly, to float8_e4m3fn: a float keeps its three bits from 2^-6 to 448 at any scale, so a scale
would only shift that range, and it is where keys and values are. Keys are RMS-normalised with gains
around 1 (and turned by rotations and by poses near the anchor), values are those of a normalised input.
What is beyond becomes +-448; what is below 2^-6 keeps steps of 2^-9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worldmodel.kv_cache import CacheConfig, KVCache, Memory

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
BLOCK = 128  # keys that are attended to at once
ALIGNED = 16  # tokens from one row of values to the next come in so many: TMA asks for 16 bytes

# Of `even_blocks`, fitted to times of an H100 with heads of 128 channels
TOGETHER = 2  # tiles on a processor at the same time
ALONE = 0.75  # of the time of two tiles that one takes
BEGINNING = 270  # keys that could be attended to while a tile begins
JOINING = 165  # and while a part is joined
MOST_PARTS = 5


def to_float8(x: Tensor) -> Tensor:
    """Rounded to e4m3, which knows no infinity: what is too large becomes the largest."""
    return x.clamp(-LARGEST, LARGEST).to(FLOAT8)


class Kernels(Protocol):
    """What is done with the 8-bit keys [b g k d] and values [b g d k+] of one layer."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
        """Queries [b g n d], of the cache's type, over the first `held` keys."""
        ...

    def put(
        self, to_keys: Tensor, to_values: Tensor, keys: Tensor, values: Tensor, slots: Tensor
    ) -> None:
        """Round the keys and values [b g n*p d] of n frames into `slots` (a tensor of n indices)."""
        ...


class PlainKernels:
    """The same maths in PyTorch, anywhere: what others are held against."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
        q, k, v = to_float8(queries).float(), keys.float(), values.float().transpose(2, 3)
        mixed = scaled_dot_product_attention(q, k[:, :, :held], v[:, :, :held])
        return mixed.to(queries.dtype)

    def put(
        self, to_keys: Tensor, to_values: Tensor, keys: Tensor, values: Tensor, slots: Tensor
    ) -> None:
        tokens = keys.shape[2] // len(slots)
        token = torch.arange(tokens, device=slots.device)
        where = (slots[:, None] * tokens + token).flatten()
        _bytes(to_keys).index_copy_(2, where, _bytes(to_float8(keys)))
        _bytes(to_values).index_copy_(3, where, _bytes(to_float8(values).transpose(2, 3)))


class EightBitCache(KVCache):
    """A `KVCache` with the same in 8 bits beside it: whatever is written is rounded there at once."""

    def __init__(self, config: CacheConfig, *, kernels: Kernels, **shape: Any) -> None:
        """`kernels`, and what `KVCache` takes."""
        super().__init__(config, **shape)
        layers, batch, heads, tokens, width = self.all_keys.shape
        columns = -(-tokens // ALIGNED) * ALIGNED
        new = partial(torch.zeros, dtype=FLOAT8, device=self.all_keys.device)
        self.small_keys = new(layers, batch, heads, tokens, width)  # as `all_keys`
        self.small_values = new(layers, batch, heads, width, columns)
        self._kernels = kernels
        self._slots = torch.arange(tokens // self.tokens_per_frame, device=self.all_keys.device)

    def seen(self, layer: int, held: int | None) -> Memory:
        return self._with_small(layer, held, super().seen(layer, held))

    def remembered(self, layer: int, held: int | None) -> Memory:
        return self._with_small(layer, held, super().remembered(layer, held))

    def write(self, layer: int, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().write(layer, keys, values, slot)
        self._round(layer, keys, values, slot)

    def write_own(self, layer: int, keys: Tensor, values: Tensor, held: int | None = None) -> None:
        super().write_own(layer, keys, values, held)
        start, stop = (tokens // self.tokens_per_frame for tokens in self._own(held))
        self._round(layer, keys, values, self._slots[start:stop])

    def write_layers(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().write_layers(keys, values, slot)
        for layer, new in enumerate(zip(keys, values, strict=True)):
            self._round(layer, *new, slot)

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        self._round_slots(range(target, target + 1))

    def gather(self, kept: Sequence[int]) -> None:
        super().gather(kept)
        self._round_slots(range(len(kept)))

    def map(
        self, on_keys: Callable[[Tensor], Tensor], on_values: Callable[[Tensor], Tensor]
    ) -> None:
        super().map(on_keys, on_values)
        self._round_slots(range(self.config.slots))

    def map_keys(self, on_keys: Callable[[Tensor], Tensor], slots: range) -> None:
        super().map_keys(on_keys, slots)
        self._round_slots(slots)

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._round_slots(range(self.config.slots))

    def _round_slots(self, slots: range) -> None:
        """From what lies in them."""
        if not slots:
            return
        p, where = self.tokens_per_frame, self._slots[slots.start : slots.stop]
        tokens = slice(slots.start * p, slots.stop * p)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            self._round(layer, keys[:, :, tokens], values[:, :, tokens], where)

    def _round(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """From the type of the cache: the two never differ by more than one rounding."""
        dtype = self.all_keys.dtype
        to = self.small_keys[layer], self.small_values[layer]
        self._kernels.put(*to, keys.to(dtype), values.to(dtype), slots)

    def _with_small(self, layer: int, held: int | None, memory: Memory) -> Memory:
        if held is None:  # empty slots are hidden by a bias, which these kernels do not add
            return memory
        attend = partial(
            self._kernels.attend,
            keys=self.small_keys[layer],
            values=self.small_values[layer],
            held=memory.keys.shape[2],
        )
        return memory._replace(attend=attend)


def even_blocks(tiles: int, keys: int, processors: int) -> int:
    """Into how many parts of whole blocks the keys are cut so that `tiles` of each take the least time.

    All processors take `TOGETHER` tiles at a time. Where each gets at most one in the end, that takes
    `ALONE` of a round.
    """

    def cost(parts: int) -> float:
        rounds, left = divmod(tiles * parts, TOGETHER * processors)
        last = 0.0 if not left else ALONE if left <= processors else 1.0
        joining = JOINING * parts if parts > 1 else 0
        return (rounds + last) * (BEGINNING + block_part(keys, parts)) + joining

    possible = (n for n in range(1, MOST_PARTS + 1) if (n - 1) * block_part(keys, n) < keys)
    return min(possible, key=cost)


def block_part(keys: int, parts: int) -> int:
    """How many keys each part gets, but the last, which takes what is left: whole blocks."""
    return -(-keys // (parts * BLOCK)) * BLOCK


def _bytes(x: Tensor) -> Tensor:
    """PyTorch copies no 8-bit floats to places that a tensor names."""
    return x.view(torch.uint8)
