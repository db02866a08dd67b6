"""Small clip folders made of noise, with cameras of real motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.clips import write_manifest, write_shard
from tests.worldmodel.tiny import walk


def write_clips(
    folder: Path, *, shards: int = 2, clips: int = 3, frames: int = 8, latents: bool = False
) -> Path:
    """A folder of `shards` x `clips` clips, 64x112 px frames or latents of the nano model."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        random = np.random.default_rng(index)
        cameras = [
            np.stack([camera.camera_from_world for camera in walk(frames, seed=10 * index + i)])
            for i in range(clips)
        ]
        coarse = random.integers(0, 255, (clips, frames, 8, 14, 3), dtype=np.uint8)
        pixels = coarse.repeat(8, axis=2).repeat(8, axis=3)
        made = random.standard_normal((clips, frames, 28, 8)).astype(np.float16)
        write_shard(
            folder / f"{index:05d}.safetensors",
            cameras=np.stack(cameras),
            intrinsics=np.tile(np.array([0.6, 1.05, 0.5, 0.5], np.float32), (clips, frames, 1)),
            prompts=["meadow"] * clips,
            metadata={},
            frames=None if latents else pixels,
            latents=made if latents else None,
        )
    write_manifest(folder, source="noise", licence="Apache-2.0")
    return folder
