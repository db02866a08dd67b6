"""How fast whole rollouts of a Wan-scale model are, on random weights: speed depends on no value.

Beside the session as it is played runs the plain way in the same process: the same maths without
captured graphs. Both take a commit pass per block and attend to a memory of full size from the first
latent on, so every pass costs what the last one does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.bench import device_name, memory_gib, timed_ms
from worldmodel.kv_cache import CacheConfig
from worldmodel.models import Playable, WanModelConfig, random_model
from worldmodel.runtime import fastest_dtype
from worldmodel.sampler import Decoder, DecoderConfig
from worldmodel.session import WorldSession
from worldmodel.tiny_decoder import TinyDecoder
from worldmodel.types import Camera, Start
from worldmodel.wan import WanConfig

CONTEXTS = (2, 3, 6, 9, 12, 21)  # latents attended to, those being made included
REPEATS = 3
PASSES = 10


def benchmark(model: WanModelConfig, device: torch.device, latents: int) -> dict[str, Any]:
    """Times in milliseconds (medians), frames a second of rollouts of `latents` latents.

    Raises:
        ValueError: if the latents are no whole number of blocks.
    """
    rollout = model.playable.rollout
    if latents < 2 * rollout.block_frames or latents % rollout.block_frames:
        raise ValueError(
            f"--latents {latents}: must be at least two whole blocks of {rollout.block_frames}"
        )
    parts = random_model(model)
    context = CacheConfig(
        sink_frames=0, window_frames=max(latents - rollout.block_frames, rollout.block_frames)
    )
    parts = replace(parts, playable=replace(parts.playable, cache=context))
    dtype = fastest_dtype(device)
    blank = replace(parts, decoder=BlankDecoder(model.decoder))
    played = _rollout(parts, device, dtype, latents)
    undecoded = _rollout(blank, device, dtype, latents)
    plain = _rollout(blank, device, dtype, latents, capture=False)
    passes = _passes(blank, device, dtype, latents)
    ceiling = matmul_tflops(device, dtype)
    longest = max(passes)
    achieved = pass_tflop(model.transformer, rollout.block_frames, longest) / passes[longest] * 1000
    return {
        "model": parts.playable.name,
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "steps": rollout.steps,
        "block_frames": rollout.block_frames,
        "latents": latents,
        "pass_ms_by_context": {str(n): round(ms, 2) for n, ms in passes.items()},
        "decoded": played,
        "undecoded": undecoded,
        "undecoded_without_graphs": plain,
        "faster_than_without_graphs": round(
            undecoded["frames_per_second"] / plain["frames_per_second"], 2
        ),
        "matmul_tflops": round(ceiling, 3),
        "achieved_tflops": round(achieved, 3),
        "achieved_share": round(achieved / ceiling, 3),
        "peak_memory_gib": memory_gib(device),
    }


class BlankDecoder(nn.Module):
    """Frames that cost nothing: what is left is the transformer's time."""

    frames_per_latent = TinyDecoder.frames_per_latent
    capturable = True

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config

    def render(self, latents: Tensor) -> Tensor:
        count = latents.shape[1] * self.frames_per_latent
        return torch.zeros(count, 1, 1, 3, dtype=torch.uint8, device=latents.device)

    def encode_start(self, _frames: Tensor) -> Tensor:
        raise ValueError("this decoder knows no pictures")

    def reset(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


def pass_tflop(config: WanConfig, block_frames: int, context: int) -> float:
    """Multiplications and additions of one pass over a block that attends to `context` latents."""
    tokens, width = block_frames * config.tokens_per_frame, config.width
    projections = 4 + 2 + (1 if config.camera else 0)  # of self- and cross-attention, keys cached
    linear = 2 * tokens * (projections * width * width + 2 * width * config.mlp_width)
    branches = 2 if config.camera else 1
    attention = 4 * tokens * context * config.tokens_per_frame * width * branches
    text = 4 * tokens * config.text_tokens * width
    return config.layers * (linear + attention + text) / 1e12


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest that this machine multiplies large square matrices."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [timed_ms(device, partial(torch.mm, a, b)) for _ in range(PASSES)]
    return 2 * size**3 / min(times) / 1e9


def _rollout(
    parts: Playable,
    device: torch.device,
    dtype: torch.dtype,
    latents: int,
    capture: bool | None = None,
) -> dict[str, float]:
    session = _session(parts, device, dtype, capture)
    lens, block = session.spec.intrinsics, session.spec.cameras_per_step
    still = [Camera(np.eye(4), lens)] * block

    def rest() -> None:
        for _ in range(latents // block - 1):
            session.step(still)
        session.settle()

    first_ms, rest_ms = [], []
    for _ in range(1 + REPEATS):  # the first one warms up
        first_ms.append(timed_ms(device, partial(session.reset, Start(seed=1), still[0])))
        rest_ms.append(timed_ms(device, rest))
    first, total = statistics.median(first_ms[1:]), statistics.median(rest_ms[1:])
    frames = 1 + session.spec.frames_per_step // block * (latents - 1)
    return {
        "frames_per_second": round(1000 * frames / (first + total), 2),
        "first_frame_ms": round(first, 2),
        "step_ms": round(total / (latents // block - 1), 2),
    }


def _passes(
    parts: Playable, device: torch.device, dtype: torch.dtype, latents: int
) -> dict[int, float]:
    """Milliseconds of one denoising pass by how many latents it attends to."""
    block = parts.playable.rollout.block_frames
    contexts: Sequence[int] = [n for n in CONTEXTS if 2 * block <= n <= latents] or [latents]
    found = {}
    for context in contexts:
        window = CacheConfig(sink_frames=0, window_frames=context - block)
        fitted = replace(parts, playable=replace(parts.playable, cache=window))
        session = _session(fitted, device, dtype, None)
        with torch.inference_mode():
            run = partial(session._denoise, *session._example())
            times = [timed_ms(device, run) for _ in range(2 + PASSES)]
        found[context] = statistics.median(times[2:])
    return found


def _session(
    parts: Playable, device: torch.device, dtype: torch.dtype, capture: bool | None
) -> WorldSession:
    decoder: Decoder = parts.decoder
    return WorldSession(
        parts.playable,
        decoder,
        parts.transformer,
        device,
        dtype,
        capture,
        read_prompt=parts.read_prompt,
    )
