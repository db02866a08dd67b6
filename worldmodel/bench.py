"""How fast a model plays here: milliseconds of each part, frames a second, first-frame latency."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.runtime import spare_threads
from worldmodel.session import WorldSession, load_session
from worldmodel.types import Camera, RuntimeChoice, Start


def benchmark(
    folder: Path,
    *,
    device: str | None,
    steps: int | None,
    frames: int,
    runtime: RuntimeChoice = "torch",
    compiled: bool | None = None,
    fp8: bool = False,
    packed: bool = False,
) -> dict[str, Any]:
    """Load the model and walk through it for `frames` frames; times in milliseconds, median and p95.

    On a GPU the same walk without captured graphs and compiled regions is measured beside it. `packed`:
    see `WorldSession`; no commit is left for afterwards then.
    """
    began = time.perf_counter()
    session = load_session(
        folder,
        device=device,
        steps=steps,
        runtime=runtime,
        tell=lambda words: print(words, file=sys.stderr),
        compiled=compiled,
        fp8=fp8,
        packed=packed,
    )
    spare_threads(session.runtime)
    loaded = time.perf_counter()
    session.reset(Start(seed=1), _camera(session, Viewpoint()))
    first = time.perf_counter()
    shown, settled = _walk(session, frames)
    total = [a + b for a, b in zip(shown, settled, strict=True)]
    rate = _rate(session, total)
    found: dict[str, Any] = {
        "model": session.playable.name,
        "device": device_name(session.device),
        "runtime": session.spec.runtime,
        "threads": _threads(session),
        "steps": session.playable.rollout.steps,
        "packed": packed,
        "window_frames": session.playable.cache.window_frames,
        "torch": torch.__version__,
        "load_s": round(loaded - began, 2),
        "first_frame_s": round(first - loaded, 2),
        "frames_per_second": rate,
        "input_to_frame_ms": _summary(shown),
        "commit_ms": _summary(settled),
        "decode_ms": _summary(_decode_times(session, frames)),
        "pass_ms": _summary(_pass_times(session, frames)),
        "peak_memory_gib": memory_gib(session.device),
    }
    if session.device.type == "cuda":
        plain = load_session(folder, device=device, steps=steps, capture=False)
        shown, settled = _walk(plain, frames)
        slow = _rate(plain, [a + b for a, b in zip(shown, settled, strict=True)])
        found["plain_frames_per_second"] = slow
        found["faster_than_plain"] = round(rate / slow, 2)
    return found


def _walk(session: WorldSession, frames: int) -> tuple[list[float], list[float]]:
    """Milliseconds until each frame is here, and from then until it is committed."""
    viewpoint = Viewpoint()
    session.reset(Start(seed=1), _camera(session, viewpoint))
    shown, settled = [], []
    command = Command(forward=1.0, yaw_rad=0.02)
    for _ in range(frames + WARM_FRAMES):
        viewpoint = advance(viewpoint, command, session.spec.frames_per_second, session.spec.limits)
        camera = _camera(session, viewpoint)
        cameras = [camera] * session.spec.cameras_per_step
        began = time.perf_counter()
        session.step(cameras)  # the frame is here; a GPU is committing it already
        here = time.perf_counter()
        if not session.spec.packs:
            session.settle()
        synchronise(session.device)
        shown.append(1000 * (here - began))
        settled.append(1000 * (time.perf_counter() - here))
    return shown[WARM_FRAMES:], settled[WARM_FRAMES:]


def _rate(session: WorldSession, times_ms: list[float]) -> float:
    return round(1000 * session.spec.frames_per_step / statistics.median(times_ms), 2)


WARM_FRAMES = 15  # longer than any window: the cache is full when timing begins


def _camera(session: WorldSession, viewpoint: Viewpoint) -> Camera:
    return Camera(viewpoint.camera_from_world(), session.spec.intrinsics)


def _decode_times(session: WorldSession, frames: int) -> list[float]:
    config = session.transformer_config
    shape = (1, session.spec.cameras_per_step, config.tokens_per_frame, config.latent_channels)
    latent = torch.randn(shape, device=session.device)
    times = [timed_ms(session.device, lambda: session.decode(latent)) for _ in range(frames + 3)]
    return times[3:]


def _pass_times(session: WorldSession, frames: int) -> list[float]:
    run = session.denoising(session.playable.cache.slots)
    return [timed_ms(session.device, run) for _ in range(frames + 3)][3:]


def timed_ms(device: torch.device, function: Callable[[], object]) -> float:
    """How long `function` takes until the device has done its work."""
    synchronise(device)
    began = time.perf_counter()
    function()
    synchronise(device)
    return 1000 * (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(times_ms: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times_ms), 2),
        "p95": round(float(np.percentile(times_ms, 95)), 2),
    }


def _threads(session: WorldSession) -> int | None:
    """None where that is not torch's choice."""
    torch_computes = session.device.type == "cpu" and session.runtime == "torch"
    return torch.get_num_threads() if torch_computes else None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def memory_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def write(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
