"""The world transformer: noisy latents and camera poses in, velocities out.

A diffusion transformer (Peebles & Xie, arXiv 2212.09748) over the tokens of one or many frames, with a
noise level per frame. Half of every head carries the projective position of its frame's camera
(`prope.py`), the other half rotary time, height and width (`rope.py`). How frames see each other is not
decided here: the caller passes one attention kernel per layer (`attention.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel import prope, rope
from worldmodel.attention import Attend
from worldmodel.prompts import completed, named_with_nearest, prompt_parts, unknown_parts
from worldmodel.rope import RotaryConfig

TIME_FREQUENCIES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    latent_channels: int
    grid: tuple[int, int]  # rows and columns of latent tokens
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_ratio: int
    rotary: RotaryConfig
    metres_per_unit: float  # translations are divided by this before they enter attention
    vocabulary: tuple[str, ...]  # words a prompt may hold

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of heads {self.heads}, and heads a multiple"
                f" of kv_heads {self.kv_heads}"
            )
        if 4 * self.rotary.pairs != self.head_width:
            raise ValueError(
                f"{self.rotary.pairs} rotary pairs fill {4 * self.rotary.pairs} channels (half of"
                f" them projective), but a head is {self.head_width} wide"
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]


class Places(Protocol):
    """Puts the positions of frames into queries, keys and values [b f p a d], float32."""

    def queries(self, q: Tensor) -> Tensor: ...

    def keys(self, k: Tensor) -> Tensor: ...

    def values(self, v: Tensor) -> Tensor: ...

    def outputs(self, mixed: Tensor) -> Tensor:
        """Takes mixed values back into the frame of reference of the query."""
        ...


@dataclass(slots=True)
class Geometry:
    """Where every frame of a batch was seen from: `Places` as maths that compilers fuse."""

    matrix: Tensor  # [b f 4 4] float32, P
    inverse: Tensor  # [b f 4 4] float32, P^-1
    cos: Tensor  # [b f p pairs] float32
    sin: Tensor

    def twice(self) -> Geometry:
        """For a clip laid out as [clean | noisy]: both copies share their places."""
        return Geometry(*(torch.cat([x, x], dim=1) for x in self.tensors()))

    def frame(self, index: int) -> Geometry:
        """The place of one frame of the batch."""
        return self.frames(index, index + 1)

    def frames(self, start: int, stop: int) -> Geometry:
        """The places of some frames of the batch."""
        return Geometry(*(x[:, start:stop] for x in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.matrix, self.inverse, self.cos, self.sin

    def queries(self, q: Tensor) -> Tensor:
        return self._place(q, self.matrix.transpose(-1, -2))

    def keys(self, k: Tensor) -> Tensor:
        return self._place(k, self.inverse)

    def values(self, v: Tensor) -> Tensor:
        return self._project(v, self.inverse)

    def outputs(self, mixed: Tensor) -> Tensor:
        return self._project(mixed, self.matrix)

    def _place(self, x: Tensor, matrix: Tensor) -> Tensor:
        projective, rotary = x.chunk(2, dim=-1)
        turned = rope.rotate(rotary, self.cos, self.sin)
        return torch.cat([prope.transform(matrix, projective), turned], dim=-1)

    def _project(self, x: Tensor, matrix: Tensor) -> Tensor:
        projective, plain = x.chunk(2, dim=-1)
        return torch.cat([prope.transform(matrix, projective), plain], dim=-1)


class EagerPlaces:
    """`Places` of few kernels, for running without a compiler; built once for all layers."""

    def __init__(self, geometry: Geometry) -> None:
        width = 2 * geometry.cos.shape[-1]
        self._query = prope.as_matmul(geometry.matrix.transpose(-1, -2), width)
        self._key = prope.as_matmul(geometry.inverse, width)
        self._output = prope.as_matmul(geometry.matrix, width)
        self._cos, self._sin = rope.rolled(geometry.cos, geometry.sin)

    def queries(self, q: Tensor) -> Tensor:
        return self._place(q, self._query)

    def keys(self, k: Tensor) -> Tensor:
        return self._place(k, self._key)

    def values(self, v: Tensor) -> Tensor:
        return self._project(v, self._key)

    def outputs(self, mixed: Tensor) -> Tensor:
        return self._project(mixed, self._output)

    def _place(self, x: Tensor, matrix: Tensor) -> Tensor:
        projective, rotary = x.chunk(2, dim=-1)
        turned = rope.rotate_rolled(rotary, self._cos, self._sin)
        return torch.cat([projective @ matrix[:, :, None], turned], dim=-1)

    def _project(self, x: Tensor, matrix: Tensor) -> Tensor:
        projective, plain = x.chunk(2, dim=-1)
        return torch.cat([projective @ matrix[:, :, None], plain], dim=-1)


class Block(nn.Module):
    """Self-attention and MLP, each modulated by the frame's noise level."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, head = config.width, config.head_width
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.q = nn.Linear(width, config.heads * head, bias=False)
        self.k = nn.Linear(width, config.kv_heads * head, bias=False)
        self.v = nn.Linear(width, config.kv_heads * head, bias=False)
        self.o = nn.Linear(config.heads * head, width, bias=False)
        self.up = nn.Linear(width, config.mlp_ratio * width, bias=False)
        self.down = nn.Linear(config.mlp_ratio * width, width, bias=False)
        self.q_gain = nn.Parameter(torch.ones(head))
        self.k_gain = nn.Parameter(torch.ones(head))
        self.modulation = nn.Parameter(torch.zeros(6, width))
        nn.init.zeros_(self.o.weight)  # a new block changes nothing
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, shared: Tensor, places: Places, attend: Attend) -> Tensor:
        """x [b f p m], shared modulation [b f 6 m] -> [b f p m]."""
        return self.leave(x, attend(*self.enter(x, shared, places)), shared, places)

    def enter(self, x: Tensor, shared: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into attention: queries [b f p a d], keys and values [b f p g d]."""
        table = self._modulation(x, shared)
        q, k, v = self.project(_modulate(x, table[0], table[1]))
        q = _rms_norm(q.unflatten(-1, (self.heads, -1)), self.q_gain)
        return places.queries(q).to(x.dtype), *self._placed(k, v, places)

    def leave(self, x: Tensor, mixed: Tensor, shared: Tensor, places: Places) -> Tensor:
        """All that follows attention, [b f p m], of its input and what it `mixed` [b f p a d]."""
        table = self._modulation(x, shared)
        out = self.o(places.outputs(mixed.float()).to(x.dtype).flatten(-2))
        x = torch.addcmul(x, table[2], out)
        return torch.addcmul(x, table[5], self._mlp(_modulate(x, table[3], table[4])))

    def keys_values(self, x: Tensor, shared: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """What `forward` would show its attention kernel, [b f p g d] each."""
        table = self._modulation(x, shared)
        x = _modulate(x, table[0], table[1])
        return self._placed(self.k(x), self.v(x), places)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads side by side."""
        return self.q(x), self.k(x), self.v(x)

    def _modulation(self, x: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
        return (shared + self.modulation)[:, :, :, None].to(x.dtype).unbind(2)

    def _placed(self, k: Tensor, v: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        dtype = k.dtype
        k = _rms_norm(k.unflatten(-1, (self.kv_heads, -1)), self.k_gain)
        v = v.unflatten(-1, (self.kv_heads, -1)).float()
        return places.keys(k).to(dtype), places.values(v).to(dtype)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class WorldTransformer(nn.Module):
    """Predicts the velocity of every latent frame it is given."""

    time_frequencies: Tensor
    space_angles: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.latent_in = nn.Linear(config.latent_channels, width)
        self.position = nn.Parameter(torch.randn(config.tokens_per_frame, width) * 0.02)
        self.noise_in = nn.Linear(2 * TIME_FREQUENCIES, width)
        self.noise_out = nn.Linear(width, width)
        self.words = nn.Linear(max(len(config.vocabulary), 1), width, bias=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.latent_out = nn.Linear(width, config.latent_channels)
        rotary = config.rotary
        time = rope.frequencies(rotary.time_pairs, rotary.time_base)
        self.register_buffer("time_frequencies", time, persistent=False)
        space = rope.space_angles(rotary, config.grid)
        self.register_buffer("space_angles", space, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.modulation, self.head_modulation, self.latent_out, self.words):
            nn.init.zeros_(layer.weight)
        for layer in (self.modulation, self.head_modulation, self.latent_out):
            nn.init.zeros_(layer.bias)
        gates = self.modulation.bias.data.view(6, -1)
        gates[2].fill_(1.0)
        gates[5].fill_(1.0)

    def geometry(self, camera_from_anchor: Tensor, intrinsics: Tensor, time: Tensor) -> Geometry:
        """Places for poses [b f 4 4], intrinsics [b f 4] and times [b f] counted in frames."""
        poses = camera_from_anchor, intrinsics, self.config.metres_per_unit
        return geometry_of(*poses, time, self.time_frequencies, self.space_angles)

    def places(self, geometry: Geometry) -> Places:
        """For inference; training leaves the maths to the compiler and passes the geometry itself."""
        return EagerPlaces(geometry)

    def condition(self, prompt: Tensor) -> Tensor:
        """What all passes need of a prompt: its words, as they are."""
        return prompt

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> Tensor:
        """Velocities of latents [b f p c] at noise levels [b f]: float32 [b f p c].

        `words` [b v] hold for all frames of a clip, or [b f v] for each.
        """
        x, condition, shared = self.embed(latents, sigma, words)
        for block, kernel in zip(self.blocks, attend, strict=True):
            x = block(x, shared, places, kernel)
        return self.head(x, condition)

    def last_keys_values(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> tuple[Tensor, Tensor]:
        """`forward` up to the keys and values of the last block; `attend` has no kernel for it."""
        x, _, shared = self.embed(latents, sigma, words)
        for block, kernel in zip(self.blocks[:-1], attend, strict=True):
            x = block(x, shared, places, kernel)
        return cast(Block, self.blocks[-1]).keys_values(x, shared, places)

    def embed(self, latents: Tensor, sigma: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = _compute_dtype(self.latent_in.weight)
        x = self.latent_in(latents.to(dtype)).to(dtype) + self.position.to(dtype)
        noise = self.noise_in(_sinusoid(sigma).to(dtype))
        asked = self.words(words.to(dtype))
        asked = asked[:, None] if words.ndim == 2 else asked
        condition = self.noise_out(functional.silu(noise)) + asked
        condition = functional.silu(condition)
        shared = self.modulation(condition).unflatten(-1, (6, -1))
        return x, condition, shared

    def head(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.head_modulation(condition)[:, :, None].chunk(2, dim=-1)
        return self.latent_out(_modulate(x, shift, scale)).float()

    def move_keys(self, keys: Tensor, matrix: Tensor, frames: float) -> Tensor:
        """Cached keys [b g k d] as if seen from another anchor and counted from `frames` later."""
        projective, rotary = keys.float().chunk(2, dim=-1)
        turned = rope.shift_time(rotary, -frames, self.time_frequencies)
        return torch.cat([prope.transform_cached(matrix, projective), turned], dim=-1)

    def move_values(self, values: Tensor, matrix: Tensor) -> Tensor:
        projective, plain = values.float().chunk(2, dim=-1)
        return torch.cat([prope.transform_cached(matrix, projective), plain], dim=-1)

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The matrices inside the blocks; everything else is better served by AdamW."""
        return [p for p in self.blocks.parameters() if p.ndim == 2 and p.shape[0] > 6]


def geometry_of(
    camera_from_anchor: Tensor,
    intrinsics: Tensor,
    metres_per_unit: float,
    time: Tensor,
    time_frequencies: Tensor,
    space_angles: Tensor,
) -> Geometry:
    """Places for poses [b f 4 4], intrinsics [b f 4] and times [b f], on the device of the angles.

    Matrices are inverted where the poses lie: a GPU would wait for all that was launched before.
    """
    device = space_angles.device
    matrix, inverse = prope.projections(camera_from_anchor, intrinsics, metres_per_unit)
    angle = rope.angles(time.to(device), time_frequencies, space_angles)
    return Geometry(matrix.to(device), inverse.to(device), angle.cos(), angle.sin())


def words_at(words: Tensor, start: int, stop: int) -> Tensor:
    """The words of some frames: of [b f v] those, while [b v] hold for all."""
    return words if words.ndim == 2 else words[:, start:stop]


def prompt_words(vocabulary: Sequence[str], prompt: str) -> list[float]:
    """A prompt as one number per vocabulary word: 1 where the prompt names it.

    Raises:
        ValueError: naming the parts of the prompt (separated by commas) that are not known.
    """
    unknown = unknown_parts(prompt, vocabulary)
    if unknown:
        known = ", ".join(vocabulary) or "none; this model takes no prompt"
        found = named_with_nearest(unknown, vocabulary)
        raise ValueError(f"prompt: unknown {found}; known words: {known}")
    asked = prompt_parts(prompt)
    return [float(word in asked) for word in vocabulary]


def read_words(vocabulary: Sequence[str], prompt: str) -> Tensor:
    """A player's prompt as the network takes it, [1 v]; a network without words gets one zero.

    What it leaves unsaid of the hour and the weather is said (`prompts.completed`).

    Raises:
        ValueError: naming words that are not known.
    """
    words = prompt_words(vocabulary, completed(prompt, vocabulary))
    return torch.tensor([words or [0.0]], dtype=torch.float32)


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[-1:], gain.float(), 1e-6)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normal = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, normal, 1 + scale).to(x.dtype)


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """What the residual stream is kept in: autocast's type while training, else the weights'."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _sinusoid(sigma: Tensor) -> Tensor:
    """Noise levels [b f] in [0, 1] as [b f 2 * TIME_FREQUENCIES]; float32 throughout."""
    exponent = torch.arange(TIME_FREQUENCIES, device=sigma.device) / TIME_FREQUENCIES
    angle = sigma.float()[..., None] * 100 * torch.exp(-math.log(1000.0) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
