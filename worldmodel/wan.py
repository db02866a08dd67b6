"""Wan2.1's video transformer (arXiv 2503.20314), played frame by frame.

The interfaces are those of `transformer.py`, so cache, attention kernels, sampler and session are
shared. Published weights keep their layout: `wan_keys.py` only renames them. What differs from the
shipped world's transformer: rotary positions fill every head, text enters through cross-attention, and
the camera is a second branch of self-attention with an output projection of its own. That projection
starts at zero, so a pretrained model keeps its behaviour (minWM, github.com/shengshu-ai/minWM; PRoPE,
arXiv 2507.10496). Both branches are heads of one attention call and of one cache.

A latent here is tokens [b f p c]: the autoencoder's channels of 2x2 places are one token's c = 4 * 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from worldmodel import prope, rope
from worldmodel.attention import Attend
from worldmodel.rope import RotaryConfig
from worldmodel.transformer import Geometry, Places, geometry_of

PATCH = 2  # places on each side of a token
EPSILON = 1e-6
KIND: Literal["wan"] = "wan"


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig:
    kind: Literal["wan"] = KIND
    vae_channels: int
    grid: tuple[int, int]  # rows and columns of tokens, each 2x2 places of the autoencoder
    width: int
    layers: int
    heads: int
    mlp_width: int
    text_width: int  # of a prompt's embeddings
    text_tokens: int  # embeddings of a prompt, zeros after its end included
    noise_frequencies: int
    camera: bool  # has the second, projective branch
    metres_per_unit: float  # translations are divided by this before they enter attention

    def __post_init__(self) -> None:
        if self.width % self.heads or self.head_width % 4:
            raise ValueError(
                f"width {self.width} over heads {self.heads} must be a multiple of 4 channels a head"
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads that are remembered: those of the rotary and of the projective branch."""
        return self.heads * (2 if self.camera else 1)

    @property
    def latent_channels(self) -> int:
        return self.vae_channels * PATCH * PATCH

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """None: prompts are free text, read from embeddings (`prompts.py`)."""
        return ()

    @property
    def rotary(self) -> RotaryConfig:
        """Wan gives a third of a head to height and to width each, and what is left to time."""
        space = self.head_width // 6
        return RotaryConfig(
            time_pairs=self.head_width // 2 - 2 * space,
            height_pairs=space,
            width_pairs=space,
            time_base=10000.0,
            space_base=10000.0,
        )


class WanPlaces:
    """`Places` of both branches, side by side as heads: the rotary ones, then the projective ones.

    Wan pairs neighbouring channels, and PRoPE as minWM trained it takes four neighbours. Queries and
    keys are reordered alike, which no score notices; values come back in their own order.
    """

    def __init__(self, geometry: Geometry, *, camera: bool) -> None:
        self.geometry, self.camera = geometry, camera

    def queries(self, q: Tensor) -> Tensor:
        return self._place(q, self.geometry.matrix.transpose(-1, -2))

    def keys(self, k: Tensor) -> Tensor:
        return self._place(k, self.geometry.inverse)

    def values(self, v: Tensor) -> Tensor:
        return torch.cat([v, self._project(v, self.geometry.inverse)], -2) if self.camera else v

    def outputs(self, mixed: Tensor) -> Tensor:
        if not self.camera:
            return mixed
        rotary, projective = mixed.chunk(2, dim=-2)
        moved = prope.transform(self.geometry.matrix, projective)
        return torch.cat([rotary, _neighbours(moved, 4)], -2)

    def _place(self, x: Tensor, matrix: Tensor) -> Tensor:
        turned = rope.rotate(_apart(x, 2), self.geometry.cos, self.geometry.sin)
        return torch.cat([turned, self._project(x, matrix)], -2) if self.camera else turned

    def _project(self, x: Tensor, matrix: Tensor) -> Tensor:
        return prope.transform(matrix, _apart(x, 4))


class WanBlock(nn.Module):
    """Self-attention, attention to the prompt and MLP; the first and the last know the noise level."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.modulation = nn.Parameter(torch.randn(6, width) / math.sqrt(width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.q_gain, self.k_gain = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.camera_o = nn.Linear(width, width) if config.camera else None
        self.text_norm = nn.LayerNorm(width, EPSILON)
        self.text_q, self.text_k, self.text_v, self.text_o = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.text_q_gain, self.text_k_gain = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.up = nn.Linear(width, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, width)
        if self.camera_o is not None:  # a new branch changes nothing
            nn.init.zeros_(self.camera_o.weight)
            nn.init.zeros_(self.camera_o.bias)

    def forward(
        self, x: Tensor, shared: Tensor, text: Tensor, places: Places, attend: Attend
    ) -> Tensor:
        """x [b f p m], shared modulation [b f 6 m], text keys and values [b 2 s m] -> [b f p m]."""
        return self.leave(x, attend(*self.enter(x, shared, places)), shared, text, places)

    def enter(self, x: Tensor, shared: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into attention: queries, keys and values [b f p g d]."""
        table = self._modulation(shared)
        q, k, v = self.project(_modulate(x, table[0], table[1]))
        q = self._split(_rms_norm(q, self.q_gain).float())
        return places.queries(q).to(x.dtype), *self._placed(k, v, places)

    def leave(
        self, x: Tensor, mixed: Tensor, shared: Tensor, text: Tensor, places: Places
    ) -> Tensor:
        """All that follows attention, [b f p m], of its input and what it `mixed` [b f p g d]."""
        table = self._modulation(shared)
        x = _gated(x, self._out(places.outputs(mixed.float()).to(x.dtype)), table[2])
        x = x + self._read(self._text_normed(x), text)
        return _gated(x, self._mlp(_modulate(x, table[3], table[4])), table[5])

    def keys_values(self, x: Tensor, shared: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """What `forward` would show its attention kernel, [b f p g d] each."""
        table = self._modulation(shared)
        x = _modulate(x, table[0], table[1])
        return self._placed(self.k(x), self.v(x), places)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads side by side."""
        return self.q(x), self.k(x), self.v(x)

    def text_keys_values(self, text: Tensor) -> Tensor:
        """Keys and values [b 2 s m] of an embedded prompt [b s m]; they serve every frame."""
        return torch.stack([_rms_norm(self.text_k(text), self.text_k_gain), self.text_v(text)], 1)

    def _modulation(self, shared: Tensor) -> tuple[Tensor, ...]:
        return (shared + self.modulation.float())[:, :, :, None].unbind(2)

    def _out(self, mixed: Tensor) -> Tensor:
        if self.camera_o is None:
            return self.o(mixed.flatten(-2))
        rotary, projective = mixed.chunk(2, dim=-2)
        return self.o(rotary.flatten(-2)) + self.camera_o(projective.flatten(-2))

    def _placed(self, k: Tensor, v: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        dtype = k.dtype
        k = self._split(_rms_norm(k, self.k_gain).float())
        return places.keys(k).to(dtype), places.values(self._split(v.float())).to(dtype)

    def _read(self, x: Tensor, text: Tensor) -> Tensor:
        """All tokens attend to all of the prompt, the zeros after its end included, as trained."""
        q = self._split(_rms_norm(self.text_q(x), self.text_q_gain)).flatten(1, 2)
        k, v = (self._split(part) for part in text.to(x.dtype).unbind(1))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        mixed = scaled_dot_product_attention(q, k, v)
        return self.text_o(rearrange(mixed, "b a (f p) d -> b f p (a d)", f=x.shape[1]))

    def _text_normed(self, x: Tensor) -> Tensor:
        norm = self.text_norm
        normed = functional.layer_norm(
            x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )
        return normed.to(x.dtype)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class WanTransformer(nn.Module):
    """Predicts the velocity of every latent frame it is given."""

    block_type: ClassVar[type[WanBlock]] = WanBlock
    time_frequencies: Tensor
    space_angles: Tensor

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.latent_in = nn.Linear(config.latent_channels, width)
        self.text_in = nn.Linear(config.text_width, width)
        self.text_out = nn.Linear(width, width)
        self.noise_in = nn.Linear(2 * config.noise_frequencies, width)
        self.noise_out = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(self.block_type(config) for _ in range(config.layers))
        self.head_modulation = nn.Parameter(torch.randn(2, width) / math.sqrt(width))
        self.latent_out = nn.Linear(width, config.latent_channels)
        rotary = config.rotary
        time = rope.frequencies(rotary.time_pairs, rotary.time_base)
        self.register_buffer("time_frequencies", time, persistent=False)
        space = rope.space_angles(rotary, config.grid)
        self.register_buffer("space_angles", space, persistent=False)

    def geometry(self, camera_from_anchor: Tensor, intrinsics: Tensor, time: Tensor) -> Geometry:
        """Places for poses [b f 4 4], intrinsics [b f 4] and times [b f] counted in latent frames."""
        poses = camera_from_anchor, intrinsics, self.config.metres_per_unit
        return geometry_of(*poses, time, self.time_frequencies, self.space_angles)

    def places(self, geometry: Geometry) -> Places:
        return WanPlaces(geometry, camera=self.config.camera)

    def condition(self, prompt: Tensor) -> Tensor:
        """What all passes need of a prompt's embeddings [b s e]: keys and values [b l 2 s m].

        Raises:
            ValueError: if they have another shape than this model reads.
        """
        text = self.embed_prompt(prompt)
        return torch.stack([block.text_keys_values(text) for block in self._blocks()], 1)

    def embed_prompt(self, prompt: Tensor) -> Tensor:
        """A prompt's embeddings [b s e] as all blocks read them: [b s m].

        Raises:
            ValueError: if they have another shape than this model reads.
        """
        wanted = (self.config.text_tokens, self.config.text_width)
        if prompt.ndim != 3 or prompt.shape[1:] != wanted:
            raise ValueError(
                f"this model reads {wanted[0]} prompt embeddings of {wanted[1]}, got an array of"
                f" shape {tuple(prompt.shape)}"
            )
        hidden = functional.gelu(self.text_in(prompt.to(self.text_in.weight)), approximate="tanh")
        return self.text_out(hidden)

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        words: Tensor,
        places: Places,
        attend: Sequence[Attend],
    ) -> Tensor:
        """Velocities of latents [b f p c] at noise levels [b f]: float32 [b f p c].

        `words` is the prompt as `condition` returns it.
        """
        x, condition, shared = self.embed(latents, sigma)
        for block, text, kernel in zip(self._blocks(), words.unbind(1), attend, strict=True):
            x = block(x, shared, text, places, kernel)
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
        x, _, shared = self.embed(latents, sigma)
        *blocks, last = self._blocks()
        for block, text, kernel in zip(blocks, words[:, :-1].unbind(1), attend, strict=True):
            x = block(x, shared, text, places, kernel)
        return last.keys_values(x, shared, places)

    def embed(self, latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.latent_in.weight.dtype
        x = self.latent_in(latents.to(dtype))
        noise = self.noise_in(_sinusoid(sigma, self.config.noise_frequencies).to(dtype))
        condition = self.noise_out(functional.silu(noise))
        shared = self.modulation(functional.silu(condition)).unflatten(-1, (6, -1))
        return x, condition, shared.float()

    def head(self, x: Tensor, condition: Tensor) -> Tensor:
        table = condition.float()[:, :, None] + self.head_modulation.float()
        shift, scale = table[:, :, :, None].unbind(2)
        out = self.latent_out(_modulate(x, shift, scale)).float()
        # the published head lists a token's places first, the published input its channels
        return rearrange(out, "b f p (s c) -> b f p (c s)", s=PATCH * PATCH)

    def move_keys(self, keys: Tensor, matrix: Tensor, frames: float) -> Tensor:
        """Cached keys [b g k d] as if seen from another anchor and counted from `frames` later."""
        rotary, *projective = keys.float().split(self.config.heads, dim=1)
        turned = rope.shift_time(rotary, -frames, self.time_frequencies)
        return torch.cat([turned, *(prope.transform_cached(matrix, x) for x in projective)], 1)

    def move_values(self, values: Tensor, matrix: Tensor) -> Tensor:
        rotary, *projective = values.float().split(self.config.heads, dim=1)
        return torch.cat([rotary, *(prope.transform_cached(matrix, x) for x in projective)], 1)

    def _blocks(self) -> list[WanBlock]:
        return [cast(WanBlock, block) for block in self.blocks]


def _apart(x: Tensor, size: int) -> Tensor:
    """Channels of groups of `size` neighbours as first ones of all groups, second ones, ..."""
    return x.unflatten(-1, (-1, size)).transpose(-1, -2).flatten(-2)


def _neighbours(x: Tensor, size: int) -> Tensor:
    """The inverse of `_apart`."""
    return x.unflatten(-1, (size, -1)).transpose(-1, -2).flatten(-2)


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[-1:], gain.float(), EPSILON).to(x.dtype)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normal = functional.layer_norm(x.float(), x.shape[-1:], eps=EPSILON)
    return torch.addcmul(shift, normal, 1 + scale).to(x.dtype)


def _gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x.float(), gate, change.float()).to(x.dtype)


def _sinusoid(sigma: Tensor, frequencies: int) -> Tensor:
    """Noise levels [b f] in [0, 1] as [b f 2 * frequencies]; Wan counts them to 1000."""
    exponent = torch.arange(frequencies, device=sigma.device, dtype=torch.float64) / frequencies
    angle = 1000 * sigma.double()[..., None] * torch.exp(-math.log(10000.0) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()
