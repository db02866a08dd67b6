"""Small clip folders made of noise, with cameras of real motion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distill.clips import write_manifest, write_shard
from tests.worldmodel.tiny import walk
from worldmodel import flow
from worldmodel.embeddings import PromptFolder
from worldmodel.models import PROMPTS


def write_clips(
    folder: Path,
    *,
    shards: int = 2,
    clips: int = 3,
    frames: int = 8,
    latents: bool = False,
    paths: bool = False,
    latent_shape: tuple[int, int] = (28, 8),
    larger: int = 1,
) -> Path:
    """A folder of `shards` x `clips` clips, 64x112 px frames or latents of the nano model.

    `larger`: frames of so many times that on each side. `paths` adds the path of a teacher to the
    latents, with 4 steps; `latent_shape` is [p c].
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        random = np.random.default_rng(index)
        cameras = [
            np.stack([camera.camera_from_world for camera in walk(frames, seed=10 * index + i)])
            for i in range(clips)
        ]
        coarse = random.integers(0, 255, (clips, frames, 8, 14, 3), dtype=np.uint8)
        pixels = coarse.repeat(8 * larger, axis=2).repeat(8 * larger, axis=3)
        made = random.standard_normal((clips, frames, *latent_shape)).astype(np.float16)
        write_shard(
            folder / f"{index:05d}.safetensors",
            cameras=np.stack(cameras),
            intrinsics=np.tile(np.array([0.6, 1.05, 0.5, 0.5], np.float32), (clips, frames, 1)),
            prompts=["meadow"] * clips,
            metadata={"levels": json.dumps(flow.schedule(4, 3.0).tolist())} if paths else {},
            frames=None if latents else pixels,
            latents=made if latents else None,
            paths=_paths(made, random) if paths else None,
        )
    write_manifest(folder, source="noise", licence="Apache-2.0")
    return folder


def wan_clips(folder: Path, frames: int = 8) -> Path:
    """Latents of the nano Wan model, with the embeddings of their prompt."""
    write_clips(folder, frames=frames, latents=True, latent_shape=(6, 64))
    random = torch.Generator().manual_seed(2)
    embeddings = torch.randn(5, 20, generator=random)  # of 7 that the model reads
    PromptFolder(folder / PROMPTS, 7, 20).store("meadow", embeddings)
    return folder


def _paths(ends: NDArray[np.float16], random: np.random.Generator) -> NDArray[np.float16]:
    """Straight lines [n f 5 p c] from noise to `ends` [n f p c]."""
    noise = random.standard_normal(ends.shape)
    levels = flow.schedule(4, 3.0).tolist()
    places = [(1 - level) * ends + level * noise for level in levels]
    return np.stack(places, axis=2).astype(np.float16)
