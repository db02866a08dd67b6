"""A network that draws decoded frames twice as large.

It knows what the edge of a roof, a trunk or grass looks like between two pixels, which no filter does.
It sees nothing but the decoder's frame: the transformer, its latents and all that is measured of them
stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.autoencoder import Autoencoder, Encoder, frames_to_uint8
from worldmodel.drift import Moments

FACTOR = 2  # on each side
FOLD = 2  # pixels of a side that lie in the channels of one place while it works
CHANNELS = 3 * FOLD**2  # of such a place


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscalerConfig:
    width: int
    depth: int  # pairs of convolutions between the first and the last

    def __post_init__(self) -> None:
        if self.width < CHANNELS or self.depth < 0:
            raise ValueError(
                f"width must be at least {CHANNELS} and depth not negative, got {self.width} and"
                f" {self.depth}"
            )


class Upscaler(nn.Module):
    """Frames [n 3 H W] in [-1, 1] as frames [n 3 2H 2W]. A new one repeats every pixel.

    Nothing is normalised, and no interpolated frame is added: on a CPU either costs more than the
    convolutions do.
    """

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Conv2d(CHANNELS, config.width, 3, padding=1)
        self.pairs = nn.Sequential(*(_Pair(config.width) for _ in range(config.depth)))
        self.last = nn.Conv2d(config.width, CHANNELS * FACTOR**2, 3, padding=1)
        self._begin_by_repeating()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.to(self.first.weight.dtype, memory_format=torch.channels_last)
        x = self.last(self.pairs(self.first(functional.pixel_unshuffle(x, FOLD))))
        return functional.pixel_shuffle(x, FOLD * FACTOR).float()

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The kernels."""
        return [parameter for parameter in self.parameters() if parameter.ndim == 4]

    @torch.no_grad()
    def _begin_by_repeating(self) -> None:
        """The first channels carry the pixels of a place through, each to the four drawn from it."""
        pixels = torch.eye(CHANNELS)
        self.first.weight[:CHANNELS] = 0.0
        self.first.weight[:CHANNELS, :, 1, 1] = pixels
        self.first.bias[:CHANNELS] = 0.0  # type: ignore[index]
        places = functional.pixel_shuffle(pixels[..., None, None], FOLD)
        drawn = places.repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2)
        folded = functional.pixel_unshuffle(drawn, FOLD * FACTOR)[..., 0, 0]
        for parameter in self.last.parameters():
            parameter.zero_()
        self.last.weight[:, :CHANNELS, 1, 1] = folded.T


class _Pair(nn.Module):
    """Two convolutions that add to what there is; new ones add nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(functional.silu(self.first(x)))
        return x + added


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaledConfig:
    """What a running world asks of a decoder's config."""

    height_px: int
    width_px: int
    grid: tuple[int, int]
    latent_channels: int


class UpscaledAutoencoder(nn.Module):
    """An autoencoder whose frames are drawn twice as large: a `Decoder` of play, and what is trained.

    Start pictures have the size of its own frames.
    """

    frames_per_latent = Autoencoder.frames_per_latent
    drawn_larger = FACTOR
    capturable = Autoencoder.capturable

    def __init__(self, autoencoder: Autoencoder, upscaler: Upscaler) -> None:
        super().__init__()
        self.autoencoder, self.upscaler = autoencoder, upscaler
        small = autoencoder.config
        self.config = UpscaledConfig(
            height_px=FACTOR * small.height_px,
            width_px=FACTOR * small.width_px,
            grid=small.grid,
            latent_channels=small.latent_channels,
        )

    @property
    def encoder(self) -> Encoder:
        return self.autoencoder.encoder

    @property
    def latent_moments(self) -> Moments | None:
        return self.autoencoder.latent_moments

    def forward(self, frames: Tensor, latent_noise: Tensor) -> Tensor:
        """Training pass: frames [n 3 2H 2W] from those of half the size through noisy latents [n p c].

        The autoencoder stays as it is; freeze it.
        """
        with torch.no_grad():
            decoded = self.autoencoder.decode(self.encode(frames) + latent_noise)
        return self.draw(decoded)

    def draw(self, decoded: Tensor) -> Tensor:
        """Large frames [n 3 2H 2W] of decoded ones [n 3 H W]."""
        large: Tensor = self.upscaler(decoded)
        return large

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised latents, float32 [n p c], of frames [n 3 2H 2W] in [-1, 1]: of means of 2x2."""
        return self.autoencoder.encode(functional.avg_pool2d(frames, FACTOR))

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [n 3 2H 2W], nominally in [-1, 1], of normalised latents [n p c]."""
        return self.draw(self.autoencoder.decode(latents))

    def render(self, latents: Tensor) -> Tensor:
        """Pixels, uint8 [b*f 2H 2W 3], of latents [b f p c]: for play."""
        return frames_to_uint8(self.decode(latents.flatten(0, 1)))

    def encode_start(self, frames: Tensor) -> Tensor:
        """The latent [1 1 p c] of a start picture [1 3 H W] in [-1, 1]."""
        return self.autoencoder.encode_start(frames)

    def reset(self) -> None:
        self.autoencoder.reset()

    def state(self) -> dict[str, Tensor]:
        return self.autoencoder.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.autoencoder.load_state(state)

    def parameters_for_muon(self) -> list[nn.Parameter]:
        return self.upscaler.parameters_for_muon()
