"""How fast a stage trains here, and where its time goes: on random data, without a clip folder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distill.batches import FrameBatch, LatentBatch
from distill.objectives import Moment
from distill.processes import Processes
from distill.stages import (
    ModelConfig,
    StageConfig,
    build_network,
    build_objective,
    compile_network,
)
from distill.trainer import Trainer
from worldmodel.autoencoder import Autoencoder

WARM_STEPS = 3
BACKWARD_ATTENTION = 2.5  # backward recomputes the scores: 5 products for the forward's 2


def profile_stage(
    stage: StageConfig, model: ModelConfig, device: torch.device, *, steps: int, kernels: int
) -> dict[str, Any]:
    """Milliseconds of a step and its parts (medians), clips a second, TFLOP/s against the ceiling.

    `kernels` > 0 adds that many lines of the most expensive GPU kernels.
    """
    torch.manual_seed(stage.seed)
    network = build_network(stage, model, None).to(device)
    flops = step_flops(stage, model)
    if stage.compile:
        compile_network(network)
    objective = build_objective(stage, model, {"student": network})
    batch = random_batch(stage, model, device)
    moment = Moment(0, 0.0, torch.Generator(device).manual_seed(0))
    alone = Processes(0, 1, device)
    trainer = Trainer(stage, {"student": network}, objective, _Endless(batch), Path(), alone)

    def forward() -> Tensor:
        with _precision(device):
            return objective.loss("student", batch, moment)[0]

    def backward() -> None:
        forward().backward()

    def step() -> None:
        trainer.advance([batch] * stage.accumulate, 0.0)

    began = time.perf_counter()
    step()
    _synchronise(device)
    compiled_s = time.perf_counter() - began
    step_ms = _median_ms(step, steps, device)
    ceiling = matmul_ceiling(device)
    result: dict[str, Any] = {
        "first_step_s": round(compiled_s, 1),
        "step_ms": round(step_ms, 1),
        "forward_ms": round(_median_ms(lambda: forward().detach(), steps, device), 1),
        "forward_and_backward_ms": round(_median_ms(backward, steps, device), 1),
        "items_per_second": round(1000 * stage.batch_size * stage.accumulate / step_ms, 1),
        "tflop_per_step": round(flops / 1e12, 3),
        "tflop_per_second": round(flops / step_ms / 1e9, 2),
        "matmul_ceiling_tflop_per_second": round(ceiling / 1e12, 2),
        "share_of_ceiling": round(1000 * flops / step_ms / ceiling, 4),
        "peak_memory_gib": _memory_gib(device),
    }
    if kernels:
        result["kernels"] = _kernels(step, kernels, device)
    return result


@dataclass(frozen=True, slots=True)
class _Endless:
    """The same batch at every step."""

    batch: Any

    def at(self, step: int) -> Any:  # noqa: ARG002
        return self.batch


def random_batch(stage: StageConfig, model: ModelConfig, device: torch.device) -> Any:
    """A batch of the stage's shape: noise, seen from cameras that all stand at the origin."""
    if stage.network_name == "autoencoder":
        size = (stage.batch_size, model.autoencoder.height_px, model.autoencoder.width_px, 3)
        return FrameBatch(torch.randint(0, 256, size, dtype=torch.uint8, device=device))
    config, b, f = model.transformer, stage.batch_size, stage.frames
    latents = torch.randn(b, f, config.tokens_per_frame, config.latent_channels, device=device)
    poses = torch.eye(4, dtype=torch.float64, device=device).expand(b, f, 4, 4).contiguous()
    return LatentBatch(
        latents=latents.half(),
        camera_from_anchor=poses,
        intrinsics=torch.ones(b, f, 4, device=device),
        time=torch.arange(f, device=device).float().expand(b, f).contiguous(),
        words=torch.zeros(b, max(len(config.vocabulary), 1), device=device),
    )


def step_flops(stage: StageConfig, model: ModelConfig) -> float:
    """Floating-point operations one step must do: no recomputation, no masked-out attention."""
    if stage.network_name == "autoencoder":
        network = Autoencoder(model.autoencoder)
        frames = torch.zeros(1, 3, model.autoencoder.height_px, model.autoencoder.width_px)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.decode(network.encode(frames))
        return 3.0 * counter.get_total_flops() * stage.batch_size
    config, f, p = model.transformer, stage.frames, model.transformer.tokens_per_frame
    copies, pairs = 1, f * f
    if stage.objective.kind == "flow_matching" and stage.objective.history == "clean":
        copies, pairs = 2, _teacher_forced_frame_pairs(f, model.cache.slots)
    head = config.head_width
    per_layer = 2 * config.width * head * (config.heads + config.kv_heads)
    per_layer += 2 * config.width * config.mlp_ratio * config.width
    matrices = 6.0 * config.layers * per_layer * copies * f * p
    attention = 4.0 * (1 + BACKWARD_ATTENTION) * config.layers * pairs * p * p * config.width
    return stage.batch_size * (matrices + attention)


def _teacher_forced_frame_pairs(frames: int, slots: int) -> int:
    """Frame pairs that attend: clean frames to the past and themselves, noisy ones likewise."""
    clean = sum(min(i + 1, slots) for i in range(frames))
    noisy = sum(min(i, slots) + 1 for i in range(frames))
    return clean + noisy


def matmul_ceiling(device: torch.device) -> float:
    """FLOP/s of a large matrix product on random data in the training type."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / (_median_ms(lambda: a @ b, 10, device) / 1000)


def _precision(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _median_ms(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(WARM_STEPS + repeats):
        _synchronise(device)
        began = time.perf_counter()
        function()
        _synchronise(device)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM_STEPS:])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def _kernels(step: Callable[[], None], count: int, device: torch.device) -> list[str]:
    """The most expensive kernels: share of GPU time, milliseconds a step, calls a step, name."""
    from torch.profiler import ProfilerActivity, profile

    if device.type != "cuda":
        return []
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        _synchronise(device)
    events = [event for event in recorded.key_averages() if event.self_device_time_total > 0]
    total = sum(event.self_device_time_total for event in events)
    events.sort(key=lambda event: -event.self_device_time_total)
    return [
        f"{100 * event.self_device_time_total / total:5.1f} %"
        f" {event.self_device_time_total / 1000:8.2f} ms {event.count:5d} x {event.key[:100]}"
        for event in events[:count]
    ]
