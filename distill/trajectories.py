"""Paths of a frozen teacher from noise to its answer, stored as clip shards, for ODE distillation.

This is the cost that consistency distillation does not have. The manifest accounts for it: seconds of
device time and bytes beyond the clips themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from distill.batches import LatentBatch, LatentBatches, to_device
from distill.clips import ClipSet, Shard, write_manifest, write_shard
from distill.histories import CleanHistory
from distill.objectives import guided
from distill.processes import Processes
from distill.stage_networks import compile_network
from worldmodel import config as strict
from worldmodel import flow
from worldmodel.attention import Attend, attend_all
from worldmodel.kv_cache import CacheConfig
from worldmodel.transformer import WorldTransformer

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents [b f p c], noise levels [b f] -> [b f p c]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoriesConfig:
    """`configs/trajectories/*.yaml`."""

    model: Path  # relative to the working directory
    history: Literal["clean", "full"]  # a causal teacher with true frames before each, or not
    sampler_steps: int  # Euler steps of the teacher
    kept: int  # places on the path that are stored, besides its end; divides sampler_steps
    shift: float
    guidance: float = 1.0  # over the prediction without words; 1: none
    clips: int  # rounded up to whole shards
    clips_per_shard: int
    frames: int
    time_reversal: float = 0.0
    prompt_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sampler_steps", "kept", "clips", "clips_per_shard", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sampler_steps % self.kept:
            raise ValueError(
                f"kept must divide sampler_steps, got {self.kept} and {self.sampler_steps}"
            )

    @property
    def shards(self) -> int:
        return -(-self.clips // self.clips_per_shard)


def write_trajectories(
    config: TrajectoriesConfig,
    clips: ClipSet,
    teacher: WorldTransformer,
    cache: CacheConfig,
    out: Path,
    processes: Processes,
) -> dict[str, Any]:
    """Fill the clip folder `out`; shards that are there are kept. Returns the facts of its manifest.

    Raises:
        ValueError: if `out` holds paths of another configuration.
    """
    if processes.leads:
        _claim(config, out)
    processes.wait()
    batches = LatentBatches(
        clips,
        teacher.config.vocabulary,
        batch_size=config.clips_per_shard,
        frames=config.frames,
        time_reversal=config.time_reversal,
        prompt_dropout=config.prompt_dropout,
        seed=config.seed,
        rank=0,
        ranks=1,
    )
    network = teacher.eval().requires_grad_(False).to(processes.device)
    if processes.device.type == "cuda":
        compile_network(network)
    tokens = network.config.tokens_per_frame
    history = None
    if config.history == "clean":
        history = CleanHistory(config.frames, tokens, cache, processes.device)
    mine = range(processes.rank, config.shards, processes.count)
    for index in tqdm(mine, unit="shard", disable=not processes.leads, desc="trajectories"):
        path = out / f"{index:05d}.safetensors"
        if not path.is_file():
            _write(config, network, history, batches.at(index), index, path, processes.device)
    processes.wait()
    facts = _facts(config, out)
    if processes.leads:
        source, licence = clips.manifest["source"], clips.manifest["licence"]
        write_manifest(out, source=source, licence=licence, **facts)
    processes.wait()
    return facts


def _claim(config: TrajectoriesConfig, out: Path) -> None:
    """Take the folder, or refuse to mix two sets of paths in it."""
    ours = json.dumps(strict.to_plain(config), indent=1) + "\n"
    claim = out / "trajectories.json"
    if claim.is_file() and claim.read_text(encoding="utf-8") != ours:
        raise ValueError(
            f"{out}: holds trajectories of another configuration; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    claim.write_text(ours, encoding="utf-8")


def _write(
    config: TrajectoriesConfig,
    network: WorldTransformer,
    history: CleanHistory | None,
    batch: LatentBatch,
    index: int,
    path: Path,
    device: torch.device,
) -> None:
    began = time.perf_counter()
    random = torch.Generator(device).manual_seed(config.seed * 1_000_003 + index)
    paths = teacher_paths(config, network, history, to_device(batch, device), random)
    stored = paths.half().cpu().numpy()  # waits for the device
    seconds = time.perf_counter() - began
    write_shard(
        path,
        cameras=batch.camera_from_anchor.numpy(),
        intrinsics=batch.intrinsics.numpy(),
        prompts=[_prompts(network.config.vocabulary, words) for words in batch.words],
        metadata={"seconds": repr(seconds), "levels": json.dumps(_kept_levels(config))},
        latents=batch.latents.numpy(),
        paths=stored,
    )


@torch.no_grad()
def teacher_paths(
    config: TrajectoriesConfig,
    network: WorldTransformer,
    history: CleanHistory | None,
    batch: LatentBatch,
    random: torch.Generator,
) -> Tensor:
    """Where the teacher passes on its way from noise, [b f kept+1 p c]; the last place is the end.

    `history` shows a causal teacher the true frames; a bidirectional one has none.
    """
    x0 = batch.latents.float()
    geometry = network.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)

    def kernels(words: Tensor) -> Sequence[Attend]:
        if history is None:
            return [attend_all] * network.config.layers
        return history.kernels(network, x0, words, geometry)

    with torch.autocast("cuda", torch.bfloat16, enabled=x0.is_cuda):
        asked = [(batch.words, kernels(batch.words))]
        if config.guidance != 1.0:
            no_words = torch.zeros_like(batch.words)
            asked.append((no_words, kernels(no_words)))

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            answers = [network(noisy, sigma, words, geometry, see) for words, see in asked]
            return guided(answers[-1], answers[0], config.guidance)

        noise = torch.randn(x0.shape, generator=random, device=x0.device)
        levels = flow.schedule(config.sampler_steps, config.shift).tolist()
        return integrate(velocity, noise, levels, config.sampler_steps // config.kept)


def integrate(velocity: Velocity, start: Tensor, levels: Sequence[float], every: int) -> Tensor:
    """Euler steps from `start` [b f p c] along `levels`: every `every`th latent, [b f k p c]."""
    latent, kept = start, [start]
    for index, (now, then) in enumerate(pairwise(levels), 1):
        sigma, to = (start.new_full(start.shape[:2], level) for level in (now, then))
        latent = flow.euler_step(latent, velocity(latent, sigma), sigma, to)
        if index % every == 0:
            kept.append(latent)
    return torch.stack(kept, dim=2)


def _kept_levels(config: TrajectoriesConfig) -> list[float]:
    levels: list[float] = flow.schedule(config.kept, config.shift).tolist()
    return levels


def _prompts(vocabulary: Sequence[str], words: Tensor) -> str | list[str]:
    """Of words [v], or of each frame of [f v]."""
    if words.ndim == 1:
        return _prompt(vocabulary, words)
    return [_prompt(vocabulary, of_frame) for of_frame in words]


def _prompt(vocabulary: Sequence[str], words: Tensor) -> str:
    return ", ".join(word for word, named in zip(vocabulary, words, strict=False) if named > 0)


def _facts(config: TrajectoriesConfig, out: Path) -> dict[str, Any]:
    """What the paths cost: device seconds of all processes together, and bytes on disk."""
    shards = [Shard(path) for path in sorted(out.glob("*.safetensors"))]
    seconds = [float(shard.metadata["seconds"]) for shard in shards]
    return {
        "trajectories": strict.to_plain(config),
        "seconds": round(sum(seconds), 2),
        "seconds_at_speed": round(median(seconds) * len(seconds), 2),  # without compilers
        "extra_bytes": sum(shard.array("paths").nbytes for shard in shards),
    }
