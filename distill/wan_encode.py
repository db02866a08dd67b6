"""Clips as Wan's transformer reads them: a latent of one frame, then of four, and embedded prompts.

A latent is seen from the camera of its first frame. Frames after the last whole latent are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distill.clips import ClipSet, Shard, write_shard
from distill.encode import encode_shards
from distill.processes import Processes
from worldmodel.autoencoder import frames_to_float
from worldmodel.embeddings import PromptFolder, read_embeddings
from worldmodel.models import PROMPTS, load_decoder, open_prompts
from worldmodel.text_encoder import load_encoder
from worldmodel.wan_vae import WanVae

STRIDE = WanVae.frames_per_latent


def encode_wan_clips(
    clips: ClipSet, model: Path, out: Path, processes: Processes, umt5: Path | None = None
) -> None:
    """Write a clip folder with latents and embedded prompts; shards that are there are kept.

    `model` is a converted Wan model with Wan's own autoencoder. Prompts come from it, or from `umt5`.

    Raises:
        ValueError: if it has another decoder, frames have another size, or a prompt is not embedded.
    """
    vae = load_decoder(model)
    if not isinstance(vae, WanVae):
        raise ValueError(
            f"{model}: its decoder cannot encode; convert with Wan's own autoencoder (--config"
            " configs/model/wan2.1-1.3b-walk.yaml --decoder DIR/vae)"
        )
    _check(clips, vae)
    if processes.leads:
        embed_prompts(clips, open_prompts(model), out, umt5)
    vae.requires_grad_(False).to(processes.device)

    def work(shard: Shard) -> None:
        _encode_shard(shard, vae, out / shard.path.name, processes.device)

    encode_shards(clips, work, out, processes, frames_per_latent=STRIDE)


def _check(clips: ClipSet, vae: WanVae) -> None:
    if clips.prompts_change:
        raise ValueError(f"{clips.folder}: prompts change within its clips; Wan reads one a clip")
    size, wanted = clips.shards[0].array("frames").shape[2:4], vae.config
    if size != (wanted.height_px, wanted.width_px):
        raise ValueError(
            f"{clips.folder}: frames of {size[0]}x{size[1]} px, the model reads"
            f" {wanted.height_px}x{wanted.width_px}: import with --height-px and --width-px"
        )


def embed_prompts(clips: ClipSet, known: PromptFolder, out: Path, umt5: Path | None) -> None:
    """Store the embeddings of all prompts of `clips` beside them; the empty one is zeros.

    Raises:
        ValueError: naming a prompt that is neither known nor can be embedded.
    """
    book = PromptFolder(out / PROMPTS, known.tokens, known.width)
    prompts = {prompt for shard in clips.shards for prompt in shard.prompts} - {""}
    missing = sorted(prompt for prompt in prompts if not book.path_of(prompt).is_file())
    unknown = [prompt for prompt in missing if not known.path_of(prompt).is_file()]
    if unknown and umt5 is None:
        raise ValueError(
            f"{known.folder}: no embeddings of {unknown[0]!r} and {len(unknown) - 1} more prompts;"
            " say --umt5 DIR, or store them with `python -m worldmodel prompt`"
        )
    encode = load_encoder(umt5, known.tokens) if unknown and umt5 is not None else None
    for prompt in missing:
        if prompt in unknown and encode is not None:
            book.store(prompt, encode(prompt))
        else:
            book.store(prompt, read_embeddings(known.path_of(prompt)))


def _encode_shard(shard: Shard, vae: WanVae, path: Path, device: torch.device) -> None:
    frames = shard.array("frames")
    write_shard(
        path,
        cameras=np.array(shard.array("cameras")[:, ::STRIDE][:, : _latents(frames)]),
        intrinsics=np.array(shard.array("intrinsics")[:, ::STRIDE][:, : _latents(frames)]),
        prompts=shard.prompts,
        metadata=shard.metadata,
        latents=np.stack([encode(vae, clip, device) for clip in frames]),
    )


def _latents(frames: NDArray[np.uint8]) -> int:
    """Whole ones in clips [n f H W 3]."""
    return 1 + (frames.shape[1] - 1) // STRIDE


@torch.inference_mode()
def encode(vae: WanVae, frames: NDArray[np.uint8], device: torch.device) -> NDArray[np.float16]:
    """Latents [f p c] of a clip [n H W 3], its last n - 1 - 4 (f - 1) frames left out."""
    count = 1 + STRIDE * ((len(frames) - 1) // STRIDE)
    on_device = torch.from_numpy(np.array(frames[:count])).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        latents = vae.encode(frames_to_float(on_device))[0]
    result: NDArray[np.float16] = latents.half().cpu().numpy()
    return result
