"""How fast whole rollouts of a Wan-scale model are, on random weights: speed depends on no value.

Beside the session as it is played runs the plain way in the same process: the same maths without
captured graphs and compiled regions. Both take a commit pass per block (what is played may pack it with
the next block's first one) and remember all latents; a pass attends to those that are there.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.bench import device_name, memory_gib, synchronise, timed_ms
from worldmodel.kv_cache import CacheConfig
from worldmodel.models import Playable, WanModelConfig, random_model
from worldmodel.runtime import fastest_dtype
from worldmodel.sampler import DecoderConfig
from worldmodel.session import WorldSession, check_packs
from worldmodel.tiny_decoder import TinyDecoder
from worldmodel.types import Camera, Start
from worldmodel.wan import WanConfig

CONTEXTS = (2, 3, 6, 9, 12, 21)  # latents attended to, those being made included
REPEATS = 3
PASSES = 10


def benchmark(
    model: WanModelConfig,
    device: torch.device,
    latents: int,
    *,
    compiled: bool | None = None,
    fp8: bool = False,
    packed: bool = False,
) -> dict[str, Any]:
    """Times in milliseconds (medians), frames a second of rollouts of `latents` latents.

    `packed`: see `WorldSession`; the plain way takes its passes one by one all the same.

    Raises:
        ValueError: if the latents are no whole number of blocks, or `packed` is not for this model.
    """
    rollout = model.playable.rollout
    if packed:
        check_packs(model.playable)
    if latents < 2 * rollout.block_frames or latents % rollout.block_frames:
        raise ValueError(
            f"--latents {latents}: must be at least two whole blocks of {rollout.block_frames}"
        )
    parts = random_model(model, device=device)
    context = CacheConfig(
        sink_frames=0, window_frames=max(latents - rollout.block_frames, rollout.block_frames)
    )
    parts = replace(parts, playable=replace(parts.playable, cache=context))
    dtype = fastest_dtype(device)
    blank = replace(parts, decoder=BlankDecoder(model.decoder))
    play = partial(_session, device=device, dtype=dtype, compiled=compiled, fp8=fp8, packed=packed)
    # plain before compiled: what is compiled stays compiled
    slow = _session(blank, device, dtype, capture=False)
    plain = _rollout(slow, latents)
    outputs = _outputs(slow) if fp8 else None
    del slow  # its memory is not that of play
    _forget_peak(device)
    fast = play(blank)
    undecoded, passes = _rollout(fast, latents), _passes(fast, latents)
    error = None if outputs is None else _relative_error(_outputs(fast), outputs)
    fast.move_anchor(np.eye(4))  # all of memory is rewritten, as in play whenever one walks on
    memory = memory_gib(device)
    del fast
    _forget_peak(device)
    whole = play(parts)
    played = _rollout(whole, latents)
    whole.move_anchor(np.eye(4))
    decoded_memory = memory_gib(device)
    del whole
    ceiling = matmul_tflops(device, dtype)
    work = {n: pass_tflop(model.transformer, rollout.block_frames, n) for n in passes}
    achieved = {n: 1000 * work[n] / passes[n] for n in passes}
    longest = max(passes)
    return {
        "model": parts.playable.name,
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "steps": rollout.steps,
        "packed": packed,
        "block_frames": rollout.block_frames,
        "latents": latents,
        "pass_ms_by_context": {str(n): round(ms, 2) for n, ms in passes.items()},
        "tflops_by_context": {str(n): round(done, 2) for n, done in achieved.items()},
        "fp8_relative_error": error,
        "decoded": played,
        "undecoded": undecoded,
        "undecoded_without_graphs": plain,
        "faster_than_without_graphs": round(
            undecoded["frames_per_second"] / plain["frames_per_second"], 2
        ),
        "matmul_tflops": round(ceiling, 3),
        "achieved_tflops": round(achieved[longest], 3),
        "achieved_share": round(achieved[longest] / ceiling, 3),
        "peak_memory_gib": decoded_memory,
        "peak_memory_undecoded_gib": memory,
    }


def _forget_peak(device: torch.device) -> None:
    """So that the next peak is that of the next session alone."""
    gc.collect()  # captured graphs and the session they belong to refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class BlankDecoder(nn.Module):
    """Frames that cost nothing: what is left is the transformer's time."""

    frames_per_latent = TinyDecoder.frames_per_latent
    drawn_larger = 1
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


def _rollout(session: WorldSession, latents: int) -> dict[str, float]:
    device = session.device
    lens, block = session.spec.intrinsics, session.spec.cameras_per_step
    still = [Camera(np.eye(4), lens)] * block

    first_ms, rest_ms = [], []
    for _ in range(1 + REPEATS):  # the first one warms up
        synchronise(device)
        began = time.perf_counter()
        session.reset(Start(seed=1), still[0])
        here = time.perf_counter()
        for _ in range(latents // block - 1):
            session.step(still)
        session.settle()
        synchronise(device)
        first_ms.append(1000 * (here - began))
        rest_ms.append(1000 * (time.perf_counter() - here))
    first, total = statistics.median(first_ms[1:]), statistics.median(rest_ms[1:])
    frames = 1 + session.spec.frames_per_step // block * (latents - 1)
    return {
        "frames_per_second": round(1000 * frames / (first + total), 2),
        "first_frame_ms": round(first, 2),
        "step_ms": round(total / (latents // block - 1), 2),
    }


def _passes(session: WorldSession, latents: int) -> dict[int, float]:
    """Milliseconds of one denoising pass by how many latents it attends to."""
    block = session.spec.cameras_per_step
    contexts: Sequence[int] = [n for n in CONTEXTS if 2 * block <= n <= latents] or [latents]
    found = {}
    for context in (n for n in contexts if (n - block) % block == 0):
        run = session.denoising(context - block)
        times = [timed_ms(session.device, run) for _ in range(2 + PASSES)]
        found[context] = statistics.median(times[2:])
    return found


def _outputs(session: WorldSession) -> Tensor:
    """What one pass makes of noise where nothing is remembered."""
    return session.denoising(0)().clone()


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value."""
    return round(float((found - wanted).abs().max() / wanted.abs().max()), 4)


def _session(
    parts: Playable,
    device: torch.device,
    dtype: torch.dtype,
    *,
    capture: bool | None = None,
    compiled: bool | None = None,
    fp8: bool = False,
    packed: bool = False,
) -> WorldSession:
    return WorldSession(
        parts.playable,
        parts.decoder,
        parts.transformer,
        device,
        dtype,
        capture,
        tell=lambda words: print(words, file=sys.stderr),
        read_prompt=parts.read_prompt,
        compiled=compiled,
        fp8=fp8,
        packed=packed,
    )
