"""Real classes at tiny sizes, with weights that do something (a new block changes nothing)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.checkpoint import PlayableConfig, RolloutConfig
from worldmodel.kv_cache import CacheConfig
from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.rope import RotaryConfig
from worldmodel.session import WorldSession
from worldmodel.transformer import TransformerConfig, WorldTransformer
from worldmodel.types import Camera, Intrinsics, MotionLimits

M = TypeVar("M", bound=nn.Module)

LIMITS = MotionLimits(0.6, 0.17, (0.0, 12.0))
LENS = Intrinsics(0.6, 1.05)
CACHE = CacheConfig(sink_frames=1, window_frames=3)


def transformer_config(vocabulary: tuple[str, ...] = ()) -> TransformerConfig:
    return TransformerConfig(
        latent_channels=4,
        grid=(2, 4),
        width=64,
        layers=3,
        heads=4,
        kv_heads=2,
        mlp_ratio=2,
        rotary=RotaryConfig(
            time_pairs=2, height_pairs=1, width_pairs=1, time_base=30.0, space_base=60.0
        ),
        metres_per_unit=3.0,
        vocabulary=vocabulary,
    )


def transformer(vocabulary: tuple[str, ...] = ()) -> WorldTransformer:
    torch.manual_seed(3)
    return shaken(WorldTransformer(transformer_config(vocabulary)), 0.08)


def autoencoder(mean_colour_std: float | None = None) -> Autoencoder:
    torch.manual_seed(4)
    config = AutoencoderConfig(
        height_px=32,
        width_px=64,
        latent_channels=4,
        encoder_widths=(8, 8, 8, 8),
        encoder_depths=(0, 0, 0, 1),
        decoder_widths=(8, 8, 8, 8),
        decoder_depths=(1, 0, 0, 0),
        mean_colour_std=mean_colour_std,
    )
    return shaken(Autoencoder(config), 0.1)


def measured(autoencoder: Autoencoder) -> Autoencoder:
    """It knows what frames look like: `rollout.drift_limit` is possible."""
    random = torch.Generator().manual_seed(0)
    shape = (200, 64, autoencoder.config.latent_channels)
    autoencoder.measure_moments(torch.randn(shape, generator=random))
    return autoencoder


def shaken(module: M, scale: float) -> M:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return module.eval()


def playable(steps: int = 2) -> PlayableConfig:
    return PlayableConfig(
        name="tiny",
        summary="for tests",
        licence="Apache-2.0",
        frames_per_second=12.0,
        rollout=RolloutConfig(steps=steps, first_frame_steps=3, shift=3.0),
        cache=CACHE,
        intrinsics=LENS,
        limits=LIMITS,
        sha256={},
    )


def session(
    device: str = "cpu",
    capture: bool | None = None,
    static_world: bool = False,
    compiled: bool = False,
) -> WorldSession:
    config = replace(playable(), static_world=static_world)
    return WorldSession(
        config,
        autoencoder(),
        transformer(),
        torch.device(device),
        torch.float32,
        capture,
        compiled=compiled,
    )


def there_and_back(turns: int = 9, step_deg: float = 15.0) -> list[Camera]:
    """Looks away until nothing of the beginning is seen, and back."""
    yaws = [math.radians(step_deg * turn) for turn in range(turns)]
    there = [Camera(Viewpoint(yaw_rad=yaw).camera_from_world(), LENS) for yaw in yaws]
    return [*there, *reversed(there[:-1])]


def walk(frames: int, seed: int = 0) -> list[Camera]:
    """Cameras of a restless player, by the engine's own motion."""
    random = np.random.default_rng(seed)
    viewpoint, cameras = Viewpoint(), []
    for _ in range(frames):
        cameras.append(Camera(viewpoint.camera_from_world(), LENS))
        forward, right, up, yaw, pitch = random.uniform(-1, 1, 5)
        command = Command(forward, right, up, bool(random.random() < 0.3), 0.2 * yaw, 0.1 * pitch)
        viewpoint = advance(viewpoint, command, 6.0, LIMITS)
    return cameras
