"""Frames to latents, once: the transformer's stages then read 20 times less."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from distill.clips import ClipSet, Shard, write_manifest, write_shard
from distill.processes import Processes
from worldmodel.autoencoder import Autoencoder, frames_to_float
from worldmodel.runtime import fastest_dtype


def encode_clips(
    clips: ClipSet, autoencoder: Autoencoder, out: Path, processes: Processes, batch: int = 256
) -> None:
    """Write a clip folder with the latents of `clips`; shards that are already there are kept."""
    network = autoencoder.eval().requires_grad_(False).to(processes.device)

    def work(shard: Shard) -> None:
        _encode_shard(shard, network, out / shard.path.name, processes.device, batch)

    # a GPU waits for reading and copying unless several shards are under way
    threads = 4 if processes.device.type == "cuda" else 1
    encode_shards(clips, work, out, processes, threads=threads)


def encode_shards(
    clips: ClipSet,
    work: Callable[[Shard], None],
    out: Path,
    processes: Processes,
    *,
    threads: int = 1,
    **facts: Any,
) -> None:
    """Have `work` write into `out` what is not there yet, shared among processes; then its manifest."""
    out.mkdir(parents=True, exist_ok=True)
    mine = clips.shards[processes.rank :: processes.count]
    missing = [shard for shard in mine if not (out / shard.path.name).is_file()]
    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(work, missing)
        list(tqdm(done, "encode", len(missing), disable=not processes.leads, unit="shard"))
    processes.wait()
    if processes.leads:
        manifest = clips.manifest
        told = {name: value for name, value in manifest.items() if name not in ("format", "shards")}
        write_manifest(out, **(told | facts))
    processes.wait()


def _encode_shard(
    shard: Shard, autoencoder: Autoencoder, path: Path, device: torch.device, batch: int
) -> None:
    frames = np.asarray(shard.array("frames"))
    flat = frames.reshape(-1, *frames.shape[2:])
    parts = [encode(autoencoder, flat[i : i + batch], device) for i in range(0, len(flat), batch)]
    latents = np.concatenate(parts).reshape(*frames.shape[:2], *parts[0].shape[1:])
    write_shard(
        path,
        cameras=np.asarray(shard.array("cameras")),
        intrinsics=np.asarray(shard.array("intrinsics")),
        prompts=shard.prompts,
        metadata=shard.metadata,
        latents=latents,
    )


@torch.inference_mode()
def encode(
    autoencoder: Autoencoder, frames: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float16]:
    """Latents [n p c] of frames [n H W 3]."""
    on_device = torch.from_numpy(np.array(frames)).to(device)
    mixed = fastest_dtype(device) != torch.float32
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        latents = autoencoder.encode(frames_to_float(on_device))
    result: NDArray[np.float16] = latents.half().cpu().numpy()
    return result
