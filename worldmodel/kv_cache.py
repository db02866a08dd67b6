"""A fixed-address ring of keys and values: a few first frames that stay, then the newest ones.

All buffers are allocated once and written in place, and what is valid is computed on the device, so
shapes are static from the first frame on and a captured graph can be replayed for ever. Positions live
inside the cached keys (rotary and projective), so the order of the slots does not matter. A shorter
window is a shorter ring in the first slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

REWRITTEN_BYTES = 64 * 2**20  # of a layer's keys at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    sink_frames: int  # first frames of a world that are never forgotten
    window_frames: int  # newest frames

    def __post_init__(self) -> None:
        if self.sink_frames < 0 or self.window_frames < 1:
            raise ValueError(
                f"sink_frames must be >= 0 and window_frames >= 1, got {self.sink_frames}"
                f" and {self.window_frames}"
            )

    @property
    def slots(self) -> int:
        return self.sink_frames + self.window_frames

    def widened(self, more: int) -> CacheConfig:
        """With `more` slots, which then lie behind those of a ring of this one."""
        return replace(self, window_frames=self.window_frames + more)

    def slot(self, frame: int) -> int:
        """Where frame number `frame` of a world is kept."""
        return Ring(self, self.sink_frames).slot(frame)

    def holds(self, newest: Tensor | int, key: Tensor) -> Tensor:
        """Whether frames `key` are in memory when frame `newest` was the last one written to it."""
        recent = key > newest - self.window_frames
        return (recent | (key < self.sink_frames)) & (key <= newest)


@dataclass(frozen=True, slots=True)
class Ring:
    """In which slot a frame lies: the sinks in the first ones, then a ring that frame `first` began."""

    config: CacheConfig
    first: int

    def slot(self, frame: int) -> int:
        sinks = self.config.sink_frames
        return frame if frame < sinks else sinks + (frame - self.first) % self.config.window_frames

    def filled(self, frames: int) -> int:
        """How many slots are, after so many frames of a world."""
        sinks = self.config.sink_frames
        return frames if frames < sinks else min(sinks + frames - self.first, self.config.slots)

    def resized(self, window_frames: int, frames: int) -> tuple[Ring, list[int]]:
        """The ring of another window once a world has `frames` frames, and the slots of this ring whose
        frames stay, in their new order: from slot 0 on, without a gap.
        """
        remembered = min(window_frames, self.config.window_frames)
        oldest = max(self.first, frames - remembered)
        sinks = range(min(frames, self.config.sink_frames))
        kept = [self.slot(frame) for frame in (*sinks, *range(oldest, frames))]
        return Ring(replace(self.config, window_frames=window_frames), oldest), kept


def of_slots(
    state: dict[str, Tensor], first: int, slots: int, tokens_per_frame: int
) -> dict[str, Tensor]:
    """A `KVCache.state` for a cache of `slots` slots, of which only the `first` ones are taken over."""
    kept, more = first * tokens_per_frame, (slots - first) * tokens_per_frame
    keys, values = (
        torch.cat(
            [x := state[name][..., :kept, :], x.new_zeros(*x.shape[:-2], more, x.shape[-1])], -2
        )
        for name in ("keys", "values")
    )
    return {"keys": keys, "values": values, "filled": state["filled"].clamp(max=first)}


class Memory(NamedTuple):
    """What frames attend to in a layer."""

    keys: Tensor  # [b g k d]
    values: Tensor
    bias: Tensor | None  # [k], added to the scores
    attend: Callable[[Tensor], Tensor] | None = None  # a faster way for many queries [b g n d]


class KVCache:
    """Keys and values of the frames in memory, for every layer.

    More slots at the end hold the `block_frames` frames that are being made together, so that what a
    layer remembers and its own frames are one tensor and nothing has to be joined. With 0 the memory of
    a layer is contiguous, for functions that take it as an input.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        tokens_per_frame: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
        block_frames: int = 1,
    ) -> None:
        """
        Raises:
            ValueError: if a block of frames is longer than the window that must hold it.
        """
        if block_frames > config.window_frames:
            raise ValueError(
                f"cache.window_frames {config.window_frames} must hold a block of {block_frames} frames"
            )
        self.config = config
        self.tokens_per_frame = tokens_per_frame
        remembered = config.slots * tokens_per_frame
        own = block_frames * tokens_per_frame
        self._own_tokens = own
        shape = (layers, batch, kv_heads, remembered + own, head_width)
        self.all_keys = torch.zeros(shape, dtype=dtype, device=device)  # [layers b g slots*p+n*p d]
        self.all_values = torch.zeros(shape, dtype=dtype, device=device)
        self.keys = self.all_keys[..., :remembered, :]  # without the frames that are being made
        self.values = self.all_values[..., :remembered, :]
        self.filled = torch.zeros(1, dtype=torch.long, device=device)  # slots written so far
        self.all_bias = torch.zeros(shape[3], dtype=dtype, device=device)  # added to all scores
        self.bias = self.all_bias[:remembered]
        self._slot_of_token = torch.arange(remembered, device=device) // tokens_per_frame
        self._token = torch.arange(tokens_per_frame, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget everything; old values stay in memory but are masked out."""
        self.filled.zero_()
        self._hide_empty_slots()

    def valid(self) -> Tensor:
        """Which cached tokens may be attended to: bool [slots*p], computed on the device."""
        return self._slot_of_token < self.filled

    def write(self, layer: int, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        """Put the keys and values [b g n*p d] of n frames into `slot` (a tensor of n indices)."""
        self._frames(self.keys[layer]).index_copy_(2, slot, self._frames(keys.to(self.keys.dtype)))
        self._frames(self.values[layer]).index_copy_(
            2, slot, self._frames(values.to(self.values.dtype))
        )

    def write_own(self, layer: int, keys: Tensor, values: Tensor, held: int | None = None) -> None:
        """Put the keys and values [b g n*p d] of the frames being made beside the memory.

        `held`: how many slots are filled. Then they follow those, and all that is to be seen lies in a
        row (`seen`). None: at the very end, for those who hide empty slots by `all_bias`.
        """
        start, stop = self._own(held)
        self.all_keys[layer, :, :, start:stop].copy_(keys)
        self.all_values[layer, :, :, start:stop].copy_(values)

    def seen(self, layer: int, held: int | None) -> Memory:
        """What frames being made attend to: all memory, and themselves."""
        if held is None:
            return Memory(self.all_keys[layer], self.all_values[layer], self.all_bias)
        _, stop = self._own(held)
        return Memory(self.all_keys[layer, :, :, :stop], self.all_values[layer, :, :, :stop], None)

    def remembered(self, layer: int, held: int | None) -> Memory:
        """The memory alone."""
        if held is None:
            return Memory(self.keys[layer], self.values[layer], self.bias)
        stop = held * self.tokens_per_frame
        return Memory(self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop], None)

    def keep_own(self, slot: Tensor, held: int | None = None) -> None:
        """Put what `write_own` wrote last, of all layers, into `slot`."""
        start, stop = self._own(held)
        keys, values = self.all_keys[..., start:stop, :], self.all_values[..., start:stop, :]
        if held is not None:  # it may lie in the slot already
            keys, values = keys.clone(), values.clone()
        self.write_layers(keys, values, slot)

    def write_layers(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        """Put the keys and values [layers b g p d] of frames into `slot`, for all layers."""
        self._frames(self.keys).index_copy_(3, slot, self._frames(keys.to(self.keys.dtype)))
        self._frames(self.values).index_copy_(3, slot, self._frames(values.to(self.values.dtype)))

    def bias_without(self, slot: Tensor) -> Tensor:
        """`bias` that hides `slot` as well: [slots*p]."""
        tokens = self._tokens(slot)
        return self.bias.index_fill(0, tokens, float("-inf"))

    def mark_filled(self, slot: Tensor) -> None:
        """Make `slot` (and all before it) valid; called before the layers of a commit run."""
        self.filled.copy_(torch.maximum(self.filled, slot.max() + 1))
        self._hide_empty_slots()

    def set_filled(self, slots: int) -> None:
        """`mark_filled` where the number is known: fewer kernels."""
        self.filled.fill_(slots)
        tokens = slots * self.tokens_per_frame
        self.bias[:tokens].zero_()
        self.bias[tokens:].fill_(float("-inf"))

    def move(self, source: int, target: int) -> None:
        """Put what lies in slot `source` into slot `target` as well."""
        for content in (self.keys, self.values):
            frames = self._frames(content)
            frames[..., target, :, :].copy_(frames[..., source, :, :])

    def gather(self, kept: Sequence[int]) -> None:
        """Move the frames in slots `kept` to the first slots, in that order; forget the others."""
        slots = torch.tensor(kept, dtype=torch.long, device=self._token.device)
        tokens = self._tokens(slots)
        for content in (self.keys, self.values):
            content[..., : len(tokens), :].copy_(content[..., tokens, :])
        self.set_filled(len(kept))

    def map(
        self, on_keys: Callable[[Tensor], Tensor], on_values: Callable[[Tensor], Tensor]
    ) -> None:
        """Rewrite everything in place, for a new anchor or origin of time.

        Some frames of a layer at a time, [b g k d]: whoever rewrites them has several copies of them.
        """
        frame = self.keys[0].nbytes // self.config.slots
        tokens = max(1, REWRITTEN_BYTES // frame) * self.tokens_per_frame
        for content, rewritten in ((self.keys, on_keys), (self.values, on_values)):
            for layer in content:
                for frames in layer.split(tokens, dim=-2):
                    frames.copy_(rewritten(frames))

    def map_keys(self, on_keys: Callable[[Tensor], Tensor], slots: range) -> None:
        """Rewrite the keys of some slots in place, those of all layers at once [layers*b g k d]."""
        p = self.tokens_per_frame
        keys = self.keys[..., slots.start * p : slots.stop * p, :].flatten(0, 1)
        keys.copy_(on_keys(keys))

    def state(self) -> dict[str, Tensor]:
        """A copy of the contents."""
        return {
            "keys": self.keys.clone(),
            "values": self.values.clone(),
            "filled": self.filled.clone(),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the contents of `state`, in place.

        Raises:
            ValueError: if it comes from a cache of another shape.
        """
        if state["keys"].shape != self.keys.shape:
            raise ValueError(
                f"cached state of shape {tuple(state['keys'].shape)} does not fit a cache of"
                f" {tuple(self.keys.shape)}"
            )
        for name in ("keys", "values", "filled"):
            getattr(self, name).copy_(state[name])
        self._hide_empty_slots()

    def _frames(self, x: Tensor) -> Tensor:
        """[... n*p d] as [... n p d]."""
        return x.unflatten(-2, (-1, self.tokens_per_frame))

    def _own(self, held: int | None) -> tuple[int, int]:
        start = self.keys.shape[3] if held is None else held * self.tokens_per_frame
        return start, start + self._own_tokens

    def _tokens(self, slot: Tensor) -> Tensor:
        return (slot[:, None] * self.tokens_per_frame + self._token).flatten()

    def _hide_empty_slots(self) -> None:
        """Once for all layers and steps that follow, in place: captured graphs read it."""
        self.bias.zero_().masked_fill_(~self.valid(), float("-inf"))
