"""A frame-wise autoencoder: one frame is one latent frame, 16 times smaller on each side.

The encoder runs once per start image and may be large; the decoder runs for every generated frame, so
almost all of its work is at low resolution and the last doubling is a pixel shuffle.

With `mean_colour_std` the first three channels of a token are the mean colour of its pixels, and large;
the others are what the picture has beyond those, and of unit variance. Noise that hides a tree's leaves
then leaves its place, so a diffusion model decides first where things are and then what they are made
of, as one of pixels does. Latents that are learned freely are nearly white: everything about a frame is
decided at once, almost at pure noise (docs/decisions.md, "Colours first").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.drift import Moments

DOWNSCALE = 16
COLOURS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    height_px: int
    width_px: int
    latent_channels: int
    encoder_widths: tuple[int, ...]  # one per halving of the resolution, finest first
    encoder_depths: tuple[int, ...]  # residual blocks at each
    decoder_widths: tuple[int, ...]  # coarsest first
    decoder_depths: tuple[int, ...]
    # of channels 0-2, which then are mean colours; None: every channel is learned
    mean_colour_std: float | None = None

    def __post_init__(self) -> None:
        for name in ("encoder_widths", "encoder_depths", "decoder_widths", "decoder_depths"):
            if len(getattr(self, name)) != 4:
                raise ValueError(f"{name} needs 4 entries, one per factor of 2 in {DOWNSCALE}")
        if self.height_px % DOWNSCALE or self.width_px % DOWNSCALE:
            raise ValueError(
                f"frames of {self.height_px}x{self.width_px} px are no multiple of {DOWNSCALE}"
            )
        if self.mean_colour_std is not None:
            if not self.mean_colour_std > 0.0:
                raise ValueError(f"mean_colour_std must be positive, got {self.mean_colour_std}")
            if self.latent_channels <= COLOURS:
                raise ValueError(f"mean_colour_std needs more than {COLOURS} latent_channels")

    @property
    def learned_channels(self) -> int:
        """Those that the encoder finds."""
        return self.latent_channels - (0 if self.mean_colour_std is None else COLOURS)

    @property
    def grid(self) -> tuple[int, int]:
        return self.height_px // DOWNSCALE, self.width_px // DOWNSCALE


class ChannelNorm(nn.Module):
    """Layer normalisation of each pixel's channels; in channels-last memory it moves nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        normal = functional.layer_norm(pixels, pixels.shape[-1:], self.gain.to(x.dtype))
        return normal.permute(0, 3, 1, 2).to(x.dtype)


class ResidualBlock(nn.Module):
    """Normalised before each convolution.

    Without it the activations of deep layers are tiny, SiLU is a straight line there, and the whole
    autoencoder trains to little more than a linear one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = ChannelNorm(width), ChannelNorm(width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():  # a new block changes nothing
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(functional.silu(self.first_norm(x)))
        return x + self.second(functional.silu(self.second_norm(hidden)))


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for target, depth in zip(config.encoder_widths, config.encoder_depths, strict=True):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, target, 3, padding=1)]
            layers += [ResidualBlock(target) for _ in range(depth)]
            width = target
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, config.learned_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        latent: Tensor = self.layers(x)
        return latent


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        for width, target, depth in zip(
            widths, (*widths[1:], 3), config.decoder_depths, strict=True
        ):
            layers += [ResidualBlock(width) for _ in range(depth)]
            layers += [nn.Conv2d(width, 4 * target, 3, padding=1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        frame: Tensor = self.layers(latent)
        return frame


class Autoencoder(nn.Module):
    """Frames [n 3 H W] in [-1, 1] to and from latents [n p c] of about unit variance.

    With `mean_colour_std` channels 0-2 have that standard deviation instead.
    """

    latent_mean: Tensor
    latent_std: Tensor
    frames_per_latent = 1
    drawn_larger = 1
    capturable = True

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.latents_stay = False
        self.latent_moments: Moments | None = None  # what true frames look like, if it was measured
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def of(config: AutoencoderConfig, weights: Mapping[str, Tensor]) -> Autoencoder:
        """One that `weights` fit into, with or without moments."""
        network = Autoencoder(config)
        if "latent_moments.mean" in weights:
            network.latent_moments = Moments(config.latent_channels)
        return network

    def forward(self, frames: Tensor, latent_noise: Tensor) -> Tensor:
        """Training pass: reconstruct frames [n 3 H W] through noisy, batch-normalised latents.

        Normalising with the batch's own statistics leaves the scale of the latents nothing to escape
        to; `calibrate` fixes them when training is over. `latent_noise` is [n p c].
        """
        if self.latents_stay:
            return self.decode(self.encode(frames) + latent_noise)
        raw = self._encode(frames)
        mean, std = self._statistics(raw)
        return self._decode((raw - mean) / std + latent_noise, mean, std)

    def keep_latents(self) -> None:
        """Train the decoder only, from now on: encoder and latent statistics stay as they are."""
        self.encoder.requires_grad_(False)
        self.latents_stay = True

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised latents, float32 [n p c], of frames [n 3 H W] in [-1, 1]."""
        return (self._encode(frames) - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [n 3 H W], nominally in [-1, 1], of normalised latents [n p c]."""
        return self._decode(latents, self.latent_mean, self.latent_std)

    def render(self, latents: Tensor) -> Tensor:
        """Pixels, uint8 [b*f H W 3], of latents [b f p c]: for play, which shows frames as they come."""
        return frames_to_uint8(self.decode(latents.flatten(0, 1)))

    def encode_start(self, frames: Tensor) -> Tensor:
        """The latent [1 1 p c] of a start picture [1 3 H W] in [-1, 1]."""
        return self.encode(frames)[:, None]

    def reset(self) -> None:
        """Begin another world: nothing is remembered from frame to frame."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to take over, also from saves older than decoders that remember."""
        assert not state, "this autoencoder remembers nothing"

    def parameters_for_muon(self) -> list[nn.Parameter]:
        """The 3x3 kernels; everything else is better served by AdamW."""
        return [p for p in self.parameters() if p.ndim == 4 and p.shape[-1] == 3]

    def _encode(self, frames: Tensor) -> Tensor:
        """Latents [n p c] as they come, before they are normalised."""
        colours = None
        if self.config.mean_colour_std is not None:
            colours = functional.avg_pool2d(frames, DOWNSCALE)
            frames = frames - smooth(colours)  # so that the rest says nothing of them again
        dtype = next(self.encoder.parameters()).dtype
        x = frames.to(dtype, memory_format=torch.channels_last)
        found = self.encoder(x).float()
        if colours is not None:
            found = torch.cat([colours, found], 1)
        return rearrange(found, "n c h w -> n (h w) c")

    def _decode(self, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Frames of latents [n p c] that were normalised with these statistics [c]."""
        grid = rearrange(latents, "n (h w) c -> n c h w", h=self.config.grid[0])
        dtype = next(self.decoder.parameters()).dtype
        frames: Tensor = self.decoder(grid.to(dtype, memory_format=torch.channels_last)).float()
        if self.config.mean_colour_std is not None:
            shape = (COLOURS, 1, 1)
            stored = grid[:, :COLOURS].float()
            frames = frames + smooth(stored * std[:COLOURS].view(shape) + mean[:COLOURS].view(shape))
        return frames

    def _statistics(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """What to subtract from latents [n p c] as they come, and to divide by: [c] each."""
        mean, std = raw.mean((0, 1)), raw.std((0, 1)).clamp_min(1e-4)
        if self.config.mean_colour_std is not None:
            std = torch.cat([std[:COLOURS] / self.config.mean_colour_std, std[COLOURS:]])
        return mean, std

    @torch.no_grad()
    def calibrate(self, batches: Sequence[Tensor]) -> None:
        """Fix the latent statistics to those of the frames [n 3 H W] in `batches`."""
        mean, std = self._statistics(torch.cat([self._encode(frames) for frames in batches]))
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def measure_moments(self, latents: Tensor) -> None:
        """Remember what true frames look like, from their latents [n p c]."""
        self.latent_moments = Moments(self.config.latent_channels).to(latents.device)
        self.latent_moments.measure(latents)


def smooth(colours: Tensor) -> Tensor:
    """A picture [n 3 H W] of the mean colours of its tokens [n 3 h w], without edges between them."""
    picture: Tensor = functional.interpolate(
        colours, scale_factor=DOWNSCALE, mode="bilinear", align_corners=False
    )
    return picture


def frames_to_float(frames: Tensor) -> Tensor:
    """uint8 [n H W 3] -> float32 [n 3 H W] in [-1, 1]."""
    return rearrange(frames, "n h w c -> n c h w").float() / 127.5 - 1


def frames_to_uint8(frames: Tensor) -> Tensor:
    """Float [n 3 H W] in [-1, 1] (clamped) -> uint8 [n H W 3]."""
    rounded = (frames.float().clamp(-1, 1) * 127.5 + 128).to(torch.uint8)  # + 0.5, cut off
    return rearrange(rounded, "n c h w -> n h w c").contiguous()
