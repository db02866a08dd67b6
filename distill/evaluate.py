"""Measure a model against the renderer's truth on held-out worlds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from distill.clips import ClipSet
from distill.encode import encode
from distill.rollout import Views, rollout_frames
from worldmodel.autoencoder import Autoencoder, frames_to_uint8
from worldmodel.checkpoint import PlayableConfig
from worldmodel.prompts import completed, prompt_parts
from worldmodel.transformer import WorldTransformer, prompt_words

HORIZONS = (1, 4, 8, 16, 32, 64, 128)
SEED = 20261122
REPEAT, RECONSTRUCTED = "repeat last true frame", "autoencoder"
BATCH_FRAMES = 256  # decoded or compared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A loaded model, ready on one device."""

    playable: PlayableConfig
    autoencoder: Autoencoder
    transformer: WorldTransformer
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Held-out clips: what the renderer says the frames are."""

    frames: Tensor  # uint8 [b f H W 3], on the model's device
    latents: Tensor  # float32 [b f p c]
    views: Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    known: int = 4  # true frames each clip begins with
    clips: int = 64
    longest: int = 128  # frames generated after them
    camera_pairs: int = 16  # moments of each clip at which the camera's motion is measured
    steps: tuple[int, ...] = (4, 2, 16)  # beside those the model is played with
    words: bool = True  # the model is told the prompt of each clip, as it is of a shipped start

    def __post_init__(self) -> None:
        if min(self.known, self.clips, self.longest, self.camera_pairs, *self.steps) < 1:
            raise ValueError(
                "known frames, clips, horizon, camera pairs and steps must be at least 1"
            )

    @staticmethod
    def quick() -> Extent:
        """A few minutes on two CPU cores."""
        return Extent(clips=4, longest=32, camera_pairs=4, steps=())

    @property
    def horizons(self) -> list[int]:
        return [horizon for horizon in HORIZONS if horizon <= self.longest]


def load_truth(
    clips: ClipSet, model: Model, count: int, frames: int, *, words: bool = True
) -> Truth:
    """The first `count` clips, `frames` frames each.

    With `words` the model is told, all the time, what it has words for of the prompts they begin
    with: so shipped starts are played. Without, it is told nothing, as from a picture of one's own.

    Raises:
        ValueError: if the clips are shorter, or of another size than the model's frames.
    """
    if clips.frames_per_clip < frames:
        raise ValueError(
            f"{clips.folder}: clips of {clips.frames_per_clip} frames, need {frames}; take longer"
            " clips or a smaller --longest"
        )
    count = min(count, len(clips))

    def stack(name: str) -> Any:
        return np.stack([clips.array(name, clip, 0, frames) for clip in range(count)])

    images = stack("frames")
    config = model.autoencoder.config
    if images.shape[2:4] != (config.height_px, config.width_px):
        raise ValueError(
            f"{clips.folder}: frames of {images.shape[2]}x{images.shape[3]} px, but the model's are"
            f" {config.height_px}x{config.width_px} px"
        )
    latents = [encode(model.autoencoder, clip, model.device) for clip in images]
    prompts = [known_to(model, clips.prompt(clip)) if words else "" for clip in range(count)]
    vocabulary = model.transformer.config.vocabulary
    told = [prompt_words(vocabulary, prompt) or [0.0] for prompt in prompts]
    views = Views(
        cameras=torch.from_numpy(stack("cameras")).to(model.device),
        intrinsics=torch.from_numpy(stack("intrinsics")).to(model.device),
        words=torch.tensor(told, device=model.device),
    )
    latent = torch.from_numpy(np.stack(latents)).float().to(model.device)
    return Truth(frames=torch.from_numpy(images).to(model.device), latents=latent, views=views)


def known_to(model: Model, prompt: str) -> str:
    """The part of a prompt that the model has words for, and what that leaves unsaid: as in play."""
    vocabulary = model.transformer.config.vocabulary
    known = ", ".join(part for part in prompt_parts(prompt) if part in vocabulary)
    return completed(known, vocabulary)


def generate(model: Model, known: Tensor, views: Views, steps: int) -> Tensor:
    """Latents [b f p c] that begin with the true ones `known` [b f0 p c]."""
    return torch.cat(list(generate_frames(model, known, views, steps)), dim=1)


def generate_frames(model: Model, known: Tensor, views: Views, steps: int) -> Iterator[Tensor]:
    """The same, frame by frame [b 1 p c]: of long walks nobody keeps them all."""
    return rollout_frames(
        model.transformer,
        model.autoencoder,
        model.playable.cache,
        known,
        views,
        how=replace(model.playable.rollout, steps=steps),
        seed=SEED,
    )


@torch.no_grad()
def decode(model: Model, latents: Tensor) -> Tensor:
    """Frames, float [b 3 H W] in [-1, 1], of latents [b p c]."""
    return model.autoencoder.decode(latents)


def decode_clips(model: Model, latents: Tensor) -> Tensor:
    """What a player would see, uint8 [b f H W 3], of latents [b f p c]."""
    flat = latents.flatten(0, 1).split(BATCH_FRAMES)
    frames = torch.cat([frames_to_uint8(decode(model, part)) for part in flat])
    return frames.unflatten(0, latents.shape[:2])


def wrong_cameras(views: Views) -> Views:
    """The same starts, but each clip moves as its neighbour does: the cost of a wrong camera."""
    other = torch.roll(views.cameras, 1, 0)
    moved = other @ torch.linalg.inv(other[:, :1]) @ views.cameras[:, :1]
    return Views(cameras=moved, intrinsics=views.intrinsics, words=views.words)


def steps_to_measure(model: Model, extent: Extent) -> tuple[int, ...]:
    """The steps to measure; the model's own come first, whether they were asked for or not."""
    own = model.playable.rollout.steps
    return (own, *(steps for steps in extent.steps if steps != own))


def candidates(model: Model, truth: Truth, extent: Extent) -> Iterator[tuple[str, Tensor]]:
    """Names and frames, uint8 [b f H W 3], of everything that is compared to the truth."""
    known = extent.known
    yield RECONSTRUCTED, decode_clips(model, truth.latents)
    still = truth.frames[:, known - 1 : known].expand(-1, extent.longest, -1, -1, -1)
    yield REPEAT, torch.cat([truth.frames[:, :known], still], dim=1)
    context, steps = truth.latents[:, :known], steps_to_measure(model, extent)
    for count in tqdm(steps, unit="sampler", desc="evaluate"):
        made = generate(model, context, truth.views, count)
        yield steps_name(count), decode_clips(model, made)
    wrong = generate(model, context, wrong_cameras(truth.views), steps[0])
    yield f"wrong camera, {steps_name(steps[0])}", decode_clips(model, wrong)


def steps_name(count: int) -> str:
    return f"{count} step" + "s" * (count != 1)


def sheet(
    model: Model, clips: ClipSet, *, count: int, known: int, columns: list[int], steps: int
) -> Any:
    """Truth above, generated below, clip after clip: uint8 image."""
    truth = load_truth(clips, model, count, max(columns) + 1)
    made = decode_clips(model, generate(model, truth.latents[:, :known], truth.views, steps))
    return contact_sheet(truth.frames[:, columns], made[:, columns])


def contact_sheet(truth: Tensor, made: Tensor) -> Any:
    """Rows of truth [b n H W 3] above rows of what was made, clip after clip: uint8 image."""
    rows = []
    for pair in zip(truth.cpu(), made.cpu(), strict=True):
        rows += [rearrange(row, "n h w c -> h (n w) c").numpy() for row in pair]
        rows.append(np.full((4, rows[0].shape[1], 3), 255, np.uint8))
    return np.concatenate(rows)
