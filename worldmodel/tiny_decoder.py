"""A small streaming autoencoder for Wan's latents, in the layout of TAEHV (`taew2_1`).

One latent becomes four frames. Every memory block mixes its input with its own input of one time step
before; those inputs are all that is remembered, so decoding latent by latent and decoding a whole clip
are the same function, called with other lengths. Frames are in [0, 1], latents are Wan's normalised
ones.

Source of the layout: TAEHV (github.com/madebyollin/taehv, MIT); layer numbers are its key names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.wan import PATCH

STRIDES = (1, 2, 2)  # frames that each stage of the decoder makes of one
BLOCKS_PER_STAGE = 3
DOWNSCALE = 8
LATENT_RANGE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyDecoderConfig:
    kind: Literal["taehv"] = "taehv"
    height_px: int
    width_px: int
    vae_channels: int
    widths: tuple[
        int, int, int
    ]  # of the decoder's stages, coarsest first; the encoder has the last

    def __post_init__(self) -> None:
        size = DOWNSCALE * PATCH
        if self.height_px % size or self.width_px % size:
            raise ValueError(
                f"frames of {self.height_px}x{self.width_px} px are no multiple of {size}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        return self.height_px // (DOWNSCALE * PATCH), self.width_px // (DOWNSCALE * PATCH)

    @property
    def latent_channels(self) -> int:
        return self.vae_channels * PATCH * PATCH


class Squash(nn.Module):
    """Keeps latents inside what the decoder was trained on, softly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / LATENT_RANGE) * LATENT_RANGE


class MemoryBlock(nn.Module):
    """Three convolutions over the features of this time step and of the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x [t c h w], `before` [1 c h w]: what preceded it."""
        past = torch.cat([before, x[:-1]])
        return functional.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class Grow(nn.Module):
    """One frame becomes `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.conv(x), "t (s c) h w -> (t s) c h w", s=self.stride)


class Pool(nn.Module):
    """`stride` frames become one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(rearrange(x, "(t s) c h w -> t (s c) h w", s=self.stride))


class TinyDecoder(nn.Module):
    """Wan's latents to frames and back; remembers what it decoded last."""

    frames_per_latent = 4
    drawn_larger = 1
    capturable = True

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = _decoder(config)
        self.encoder = _encoder(config)
        self._memory: list[Tensor] = []  # the last input of every memory block of the decoder

    def render(self, latents: Tensor) -> Tensor:
        """Pixels, uint8 [4 f H W 3], of the next latents [1 f p c].

        The first latent of a video stands for one frame: the first three it gives belong to no video.
        """
        frames = self.decode(self._places(latents))
        pixels = (frames.float().clamp(0, 1) * 255 + 0.5).to(torch.uint8)
        return rearrange(pixels, "t c h w -> t h w c").contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [4 t 3 H W], nominally in [0, 1], of the next latents [t c h w]; `reset` begins."""
        x, memory = latents.to(self._weight.dtype), iter(self._memory)
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                before = next(memory)
                inputs, x = x, layer(x, before)
                before.copy_(inputs[-1:])
            else:
                x = layer(x)
        return x

    def encode_start(self, frames: Tensor) -> Tensor:
        """The latent [1 1 p c] of a start picture [1 3 H W] in [-1, 1]: four times the same frame."""
        x = ((frames + 1) / 2).to(self._weight.dtype).expand(self.frames_per_latent, -1, -1, -1)
        for layer in self.encoder:
            x = layer(x, torch.zeros_like(x[:1])) if isinstance(layer, MemoryBlock) else layer(x)
        pattern = "t c (h y) (w x) -> 1 t (h w) (c y x)"
        return rearrange(x.float(), pattern, y=PATCH, x=PATCH)

    @torch.no_grad()
    def reset(self) -> None:
        """Begin another video; memory keeps its addresses."""
        if self._memory and self._memory[0].device == self._weight.device:
            for tensor in self._memory:
                tensor.zero_()
            return
        rows, columns = (PATCH * size for size in self.config.grid)
        self._memory = []
        for stage, width in enumerate(self.config.widths):
            shape = (1, width, rows << stage, columns << stage)
            self._memory += [self._weight.new_zeros(shape) for _ in range(BLOCKS_PER_STAGE)]

    def state(self) -> dict[str, Tensor]:
        """A copy of the memory."""
        return {
            str(index): tensor.to("cpu", copy=True) for index, tensor in enumerate(self._memory)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over a memory, in place.

        Raises:
            ValueError: if it is that of another decoder.
        """
        shapes = [tuple(tensor.shape) for tensor in self._memory]
        found = [tuple(state[key].shape) for key in sorted(state, key=int)]
        if shapes != found:
            raise ValueError(f"a decoder's memory of {len(found)} tensors fits another decoder")
        for index, tensor in enumerate(self._memory):
            tensor.copy_(state[str(index)])

    @property
    def _weight(self) -> Tensor:
        return next(self.decoder.parameters())

    def _places(self, tokens: Tensor) -> Tensor:
        pattern = "1 f (h w) (c y x) -> f c (h y) (w x)"
        return rearrange(tokens, pattern, h=self.config.grid[0], y=PATCH, x=PATCH)


def _decoder(config: TinyDecoderConfig) -> nn.Sequential:
    widths = config.widths
    layers: list[nn.Module] = [Squash(), _conv(config.vae_channels, widths[0]), nn.ReLU()]
    for width, target, stride in zip(widths, (*widths[1:], widths[-1]), STRIDES, strict=True):
        layers += [MemoryBlock(width) for _ in range(BLOCKS_PER_STAGE)]
        layers += [nn.Upsample(scale_factor=2), Grow(width, stride)]
        layers += [_conv(width, target, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), _conv(widths[-1], 3))


def _encoder(config: TinyDecoderConfig) -> nn.Sequential:
    width = config.widths[-1]
    layers: list[nn.Module] = [_conv(3, width), nn.ReLU()]
    for stride in reversed(STRIDES):
        layers += [Pool(width, stride), _conv(width, width, stride=2, bias=False)]
        layers += [MemoryBlock(width) for _ in range(BLOCKS_PER_STAGE)]
    return nn.Sequential(*layers, _conv(width, config.vae_channels))


def _conv(n: int, to: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n, to, 3, stride=stride, padding=1, bias=bias)
