"""How fast a stage trains here, and where its time goes: on random data and with random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distill import lineage
from distill.batches import FrameBatch, LatentBatch, prefetch, to_device
from distill.clips import ClipSet, write_manifest, write_shard
from distill.objectives import ConsistencyConfig, Moment
from distill.processes import Processes
from distill.stage_networks import build_networks, ready
from distill.stage_objectives import build_batches, build_objective
from distill.stages import AnyModel, ModelConfig, StageConfig
from distill.trainer import Trainer
from worldmodel.autoencoder import Autoencoder
from worldmodel.models import WanModelConfig
from worldmodel.transformer import TransformerConfig
from worldmodel.upscaler import FACTOR, Upscaler
from worldmodel.wan import WanConfig

BACKWARD_ATTENTION = 2.5  # backward recomputes the scores: 5 products for the forward's 2
NOISE_CLIPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    steps: int  # of which the median is told
    warm: int = 3  # before them, beside the first, which compiles
    parts: bool = True  # also the forward and the backward pass by themselves
    kernels: int = 0  # lines of the most expensive GPU kernels
    data: Path | None = None  # clips, to train on those as well


def profile_stage(
    stage: StageConfig, model: AnyModel, processes: Processes, extent: Extent
) -> dict[str, Any]:
    """Milliseconds of a step and its parts (medians), clips a second, TFLOP/s against the ceiling.

    All processes measure the same steps; clips are those of all of them, TFLOP/s those of one.
    """
    device = processes.device
    torch.manual_seed(stage.seed)
    told = extent.data is not None and extent.data.exists() and ClipSet(extent.data).prompts_change
    run = _Run(stage, model, processes, words_change=told)
    began = time.perf_counter()
    run.step()
    _synchronise(device)
    first_s = time.perf_counter() - began
    measure = partial(_median_ms, warm=extent.warm, repeats=extent.steps, device=device)
    step_ms = measure(run.step)
    clips = stage.batch_size * stage.accumulate * processes.count
    result: dict[str, Any] = {
        "processes": processes.count,
        "first_step_s": round(first_s, 1),
        "step_ms": round(step_ms, 1),
        "items_per_second": round(1000 * clips / step_ms, 3),
        "peak_memory_gib": _memory_gib(device),
    }
    if extent.parts:
        result["forward_ms"] = round(measure(lambda: run.forward().detach()), 1)
        result["forward_and_backward_ms"] = round(measure(run.backward), 1)
    if stage.critic_optimizer is None:  # what a critic is shown is not counted
        result |= _shares(stage, model, step_ms, matmul_ceiling(device))
    if extent.data is not None:
        result |= _from_disk(run, extent, step_ms)
    if extent.kernels:
        result["kernels"] = _kernels(run.step, extent.kernels, device)
    return result


def _shares(stage: StageConfig, model: AnyModel, step_ms: float, ceiling: float) -> dict[str, Any]:
    """What must be computed, and which share of the machine that is.

    `mfu` counts a backward pass as two forward ones; `share_of_ceiling` also counts the scores that
    attention computes again in it. Neither counts blocks that are computed again.
    """
    flops = step_flops(stage, model)
    mfu = step_flops(stage, model, backward_attention=2.0) / (step_ms / 1000) / ceiling
    return {
        "tflop_per_step": round(flops / 1e12, 3),
        "tflop_per_second": round(flops / step_ms / 1e9, 2),
        "matmul_ceiling_tflop_per_second": round(ceiling / 1e12, 2),
        "share_of_ceiling": round(1000 * flops / step_ms / ceiling, 4),
        "mfu": round(mfu, 4),
    }


@dataclass(frozen=True, slots=True)
class _Endless:
    """The same batch at every step."""

    batch: Any

    def at(self, step: int) -> Any:  # noqa: ARG002
        return self.batch


class _Run:
    """One stage with random weights and teachers, step by step."""

    def __init__(
        self, stage: StageConfig, model: AnyModel, processes: Processes, *, words_change: bool
    ) -> None:
        self.stage, self.model, self.processes = stage, model, processes
        device = processes.device
        networks = build_networks(stage, model, None, None, device, untrained=True)
        for network in networks.values():
            ready(network, stage, processes)
        self._objective = build_objective(stage, model, networks, None, processes, untrained=True)
        self.batch = random_batch(stage, model, device, words_change=words_change)
        self._moment = Moment(0, 0.0, torch.Generator(device).manual_seed(processes.rank))
        read = _Endless(self.batch)
        self._trainer = Trainer(stage, networks, self._objective, read, Path(), processes)

    def forward(self) -> Tensor:
        with _precision(self.processes.device):
            return self._objective.loss("student", self.batch, self._moment)[0]

    def backward(self) -> None:
        self.forward().backward()

    def step(self, batches: Sequence[Any] | None = None) -> None:
        """On the random batch, or on other ones."""
        self._trainer.advance(batches or [self.batch] * self.stage.accumulate, 0.0)


def random_batch(
    stage: StageConfig, model: AnyModel, device: torch.device, *, words_change: bool = False
) -> Any:
    """A batch of the stage's shape: noise, seen from cameras that all stand at the origin.

    With `words_change` it has words for every frame, as data have in which prompts change.
    """
    if stage.sees_frames:
        assert not isinstance(model, WanModelConfig)
        factor = FACTOR if stage.network_name == "upscaler" else 1
        sides = factor * model.autoencoder.height_px, factor * model.autoencoder.width_px
        size = (stage.batch_size, *sides, 3)
        return FrameBatch(torch.randint(0, 256, size, dtype=torch.uint8, device=device))
    config, b, f = model.transformer, stage.batch_size, stage.frames
    latents = torch.randn(b, f, config.tokens_per_frame, config.latent_channels, device=device)
    poses = torch.eye(4, dtype=torch.float64, device=device).expand(b, f, 4, 4).contiguous()
    prompt = max(len(config.vocabulary), 1)
    if isinstance(config, WanConfig):
        prompt = config.text_tokens * config.text_width
    return LatentBatch(
        latents=latents.half(),
        camera_from_anchor=poses,
        intrinsics=torch.ones(b, f, 4, device=device),
        time=torch.arange(f, device=device).float().expand(b, f).contiguous(),
        words=torch.zeros(b, *([f] if words_change else []), prompt, device=device),
    )


def write_noise(stage: StageConfig, model: AnyModel, folder: Path) -> None:
    """A clip folder of the stage's shape to read from: noise, one clip a shard, without prompts."""
    batch = random_batch(replace(stage, batch_size=1), model, torch.device("cpu"))
    assert isinstance(batch, LatentBatch), "frames are rendered instead"
    folder.mkdir(parents=True)
    for index in range(NOISE_CLIPS):
        write_shard(
            folder / f"{index:05d}.safetensors",
            cameras=batch.camera_from_anchor.numpy(),
            intrinsics=batch.intrinsics.numpy(),
            prompts=[""],
            metadata={},
            latents=np.roll(batch.latents.numpy(), index, axis=2),
        )
    write_manifest(folder, source="noise", licence="none")


def _from_disk(run: _Run, extent: Extent, synthetic_ms: float) -> dict[str, float]:
    """The same steps on clips as training reads them; the time of each is counted in."""
    assert extent.data is not None
    stage, processes = run.stage, run.processes
    if processes.leads and not extent.data.exists():
        write_noise(stage, run.model, extent.data)
    processes.wait()
    batches = build_batches(stage, run.model, ClipSet(extent.data), processes)
    send = partial(to_device, device=processes.device)
    parts, steps = stage.accumulate, 2 * extent.steps
    read: Iterator[Any] = prefetch(batches, range(parts * (extent.warm + steps)), send)
    for _ in range(extent.warm):
        run.step(list(islice(read, parts)))
    _synchronise(processes.device)
    began = time.perf_counter()
    for _ in range(steps):
        run.step(list(islice(read, parts)))
    _synchronise(processes.device)
    step_ms = 1000 * (time.perf_counter() - began) / steps
    return {
        "from_disk_step_ms": round(step_ms, 1),
        "from_disk_share_of_synthetic": round(synthetic_ms / step_ms, 4),
    }


def step_flops(
    stage: StageConfig, model: AnyModel, backward_attention: float = BACKWARD_ATTENTION
) -> float:
    """Floating-point operations one step must do: no recomputation, no masked-out attention.

    Not of stages with a critic: rollouts are as long as chance says.
    """
    if stage.sees_frames:
        assert not isinstance(model, WanModelConfig)
        return _frame_flops(stage, model) * stage.batch_size * stage.accumulate
    f = stage.frames
    copies, pairs = 1, f * f
    if lineage.history_of(stage.objective) == "clean":
        copies, pairs = 2, _teacher_forced_frame_pairs(f, model.cache.slots)
    config = model.transformer
    if isinstance(config, WanConfig):
        matrices, attention = _wan_forward(config, copies * f, pairs)
    else:
        matrices, attention = _forward(config, copies * f, pairs)
    read_only = 0
    if isinstance(stage.objective, ConsistencyConfig):  # the average, and the teacher once or twice
        read_only = 2 if stage.objective.guidance == 1.0 else 3
    passes = (3 + read_only) * matrices + (1 + backward_attention + read_only) * attention
    return stage.batch_size * stage.accumulate * passes


def _frame_flops(stage: StageConfig, model: ModelConfig) -> float:
    """Of one frame: there and back, and twice that for gradients; an upscaler alone has gradients."""
    autoencoder = Autoencoder(model.autoencoder)
    frame = torch.zeros(1, 3, model.autoencoder.height_px, model.autoencoder.width_px)
    with FlopCounterMode(display=False) as there_and_back, torch.no_grad():
        frame = autoencoder.decode(autoencoder.encode(frame))
    flops = float(there_and_back.get_total_flops())
    if stage.network_name != "upscaler":
        return 3.0 * flops
    assert model.upscaler is not None
    with FlopCounterMode(display=False) as drawing, torch.no_grad():
        Upscaler(model.upscaler)(frame)
    return flops + 3.0 * drawing.get_total_flops()


def _forward(config: TransformerConfig, frames: int, pairs: int) -> tuple[float, float]:
    """Of one clip: in matrices, and in the attention of `pairs` frames to each other."""
    head = config.head_width
    per_layer = 2 * config.width * head * (config.heads + config.kv_heads)
    per_layer += 2 * config.width * config.mlp_ratio * config.width
    matrices = 2.0 * config.layers * per_layer * frames * config.tokens_per_frame
    return matrices, 4.0 * config.layers * pairs * config.tokens_per_frame**2 * config.width


def _wan_forward(config: WanConfig, frames: int, pairs: int) -> tuple[float, float]:
    width, tokens, text = config.width, frames * config.tokens_per_frame, config.text_tokens
    branches = 2 if config.camera else 1
    per_token = (3 + branches + 2) * width**2 + 2 * width * config.mlp_width
    per_layer = 2.0 * tokens * per_token + 4.0 * text * width**2  # of the prompt: keys, values
    per_layer += 4.0 * tokens * text * width  # attention to it
    ends = 4.0 * tokens * config.latent_channels * width
    ends += 2.0 * text * (config.text_width + width) * width
    matrices = config.layers * per_layer + ends
    attention = 4.0 * branches * config.layers * pairs * config.tokens_per_frame**2 * width
    return matrices, attention


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
    return 2.0 * size**3 / (_median_ms(lambda: a @ b, 3, 10, device) / 1000)


def _precision(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _median_ms(
    function: Callable[[], object], warm: int, repeats: int, device: torch.device
) -> float:
    times = []
    for _ in range(warm + repeats):
        _synchronise(device)
        began = time.perf_counter()
        function()
        _synchronise(device)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[warm:])


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
