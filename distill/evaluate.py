"""Measure a model against the renderer's truth on held-out worlds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from distill.clips import ClipSet
from distill.encode import encode
from distill.metrics import gradient_energy, psnr_db
from distill.rollout import Views, rollout
from worldmodel.autoencoder import Autoencoder, frames_to_float
from worldmodel.checkpoint import PlayableConfig
from worldmodel.transformer import WorldTransformer, prompt_words

HORIZONS = (1, 4, 8, 16, 32, 64, 128)
SEED = 20261122


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

    frames: Tensor  # uint8 [b f H W 3], on the CPU
    latents: Tensor  # float32 [b f p c]
    views: Views


def load_truth(clips: ClipSet, model: Model, count: int, frames: int) -> Truth:
    """The first `count` clips, `frames` frames each, without prompts: as play from a picture is.

    Raises:
        ValueError: if the clips are shorter.
    """
    if clips.frames_per_clip < frames:
        raise ValueError(f"{clips.folder}: clips of {clips.frames_per_clip} frames, need {frames}")
    count = min(count, len(clips))

    def stack(name: str) -> Any:
        return np.stack([clips.array(name, clip, 0, frames) for clip in range(count)])

    images = stack("frames")
    latents = [encode(model.autoencoder, clip, model.device) for clip in images]
    no_words = [prompt_words(model.transformer.config.vocabulary, "") or [0.0]] * count
    views = Views(
        cameras=torch.from_numpy(stack("cameras")).to(model.device),
        intrinsics=torch.from_numpy(stack("intrinsics")).to(model.device),
        words=torch.tensor(no_words, device=model.device),
    )
    latent = torch.from_numpy(np.stack(latents)).float().to(model.device)
    return Truth(frames=torch.from_numpy(images), latents=latent, views=views)


def generate(model: Model, truth: Truth, views: Views, known: int, steps: int) -> Tensor:
    """Latents [b f p c] generated after `known` true ones."""
    return rollout(
        model.transformer,
        model.autoencoder,
        model.playable.cache,
        truth.latents[:, :known],
        views,
        how=replace(model.playable.rollout, steps=steps),
        seed=SEED,
    )


@torch.no_grad()
def decode(model: Model, latents: Tensor) -> Tensor:
    """Frames, float [b 3 H W] in [-1, 1], of latents [b p c]."""
    return model.autoencoder.decode(latents)


def wrong_cameras(views: Views) -> Views:
    """The same starts, but each clip moves as its neighbour does: the cost of a wrong camera."""
    other = torch.roll(views.cameras, 1, 0)
    moved = other @ torch.linalg.inv(other[:, :1]) @ views.cameras[:, :1]
    return Views(cameras=moved, intrinsics=views.intrinsics, words=views.words)


def evaluate(
    model: Model, clips: ClipSet, *, known: int, count: int, steps: tuple[int, ...], longest: int
) -> dict[str, Any]:
    """PSNR and gradient energy at each horizon for each way of sampling, and the baselines."""
    horizons = [h for h in HORIZONS if h <= longest]
    truth = load_truth(clips, model, count, known + longest)
    rows: dict[str, Any] = {}

    def measure(name: str, frame_at: Callable[[int], Tensor]) -> None:
        rows[name] = _row(truth, known, horizons, frame_at)

    def generated(name: str, views: Views, step_count: int) -> None:
        latents = generate(model, truth, views, known, step_count)
        measure(name, lambda index: decode(model, latents[:, index]))

    measure("autoencoder", lambda index: decode(model, truth.latents[:, index]))
    measure("repeat last true frame", lambda _: _true(truth, known - 1, model.device))
    for step_count in tqdm(steps, unit="sampler", desc="evaluate"):
        generated(f"{step_count} steps", truth.views, step_count)
    generated(f"wrong camera, {steps[0]} steps", wrong_cameras(truth.views), steps[0])
    baseline = rows["repeat last true frame"]["psnr_db"]
    margins = {
        name: {h: round(row["psnr_db"][h] - baseline[h], 2) for h in row["psnr_db"]}
        for name, row in rows.items()
    }
    return {
        "model": model.playable.name,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "worlds": len(truth.frames),
        "context_frames": known,
        "seed": SEED,
        "rows": rows,
        "psnr_margin_db": margins,
    }


def _row(
    truth: Truth, known: int, horizons: list[int], frame_at: Callable[[int], Tensor]
) -> dict[str, Any]:
    psnr, energy = {}, {}
    for horizon in horizons:
        index = known - 1 + horizon
        moved = _has_moved(truth.views.cameras, known - 1, index)
        frame = frame_at(index)
        target = _true(truth, index, frame.device)
        psnr[str(horizon)] = round(float(psnr_db(frame, target)[moved].mean()), 2)
        ratio = gradient_energy(frame).mean() / gradient_energy(target).mean()
        energy[str(horizon)] = round(float(ratio), 3)
    return {"psnr_db": psnr, "gradient_energy_ratio": energy}


def _has_moved(cameras: Tensor, before: int, after: int) -> Tensor:
    """Which clips [b] see a new view: where the camera stayed, there is nothing to predict.

    A repeated frame is then exact, its PSNR infinite, and a mean over clips would say nothing.
    """
    return (cameras[:, after] - cameras[:, before]).abs().amax((-2, -1)) > 1e-6


def _true(truth: Truth, index: int, device: torch.device) -> Tensor:
    return frames_to_float(truth.frames[:, index].to(device))


def sheet(
    model: Model, clips: ClipSet, *, count: int, known: int, columns: list[int], steps: int
) -> Any:
    """Truth above, generated below, clip after clip: uint8 image."""
    truth = load_truth(clips, model, count, max(columns) + 1)
    latents = generate(model, truth, truth.views, known, steps)
    rows = []
    for clip in range(len(truth.frames)):
        made = decode(model, latents[clip, columns]).clamp(-1, 1)
        pixels = rearrange((made + 1) * 127.5, "n c h w -> h n w c").round().byte().cpu()
        real = rearrange(truth.frames[clip, columns], "n h w c -> h n w c")
        rows += [real.flatten(1, 2).numpy(), pixels.flatten(1, 2).numpy()]
        rows.append(np.full((4, rows[0].shape[1], 3), 255, np.uint8))
    return np.concatenate(rows)


def markdown(result: dict[str, Any], about: str) -> str:
    """The evaluation as a page for people."""
    horizons = list(next(iter(result["rows"].values()))["psnr_db"])
    head = "| | " + " | ".join(f"h{h}" for h in horizons) + " |"
    lines = [
        f"# Evaluation of {result['model']}",
        "",
        about,
        "",
        f"{result['worlds']} held-out worlds, {result['context_frames']} true context frames,"
        f" {result['device']} {result['dtype']}, seed {result['seed']}."
        " PSNR to the renderer's truth in dB / gradient energy relative to truth, by frames after"
        " the last true one.",
        "",
        head,
        "|---" * (len(horizons) + 1) + "|",
    ]
    for name, row in result["rows"].items():
        energy = row["gradient_energy_ratio"]
        cells = [f"{row['psnr_db'][h]:.1f} / {energy[h]:.2f}" for h in horizons]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Margin in dB above repeating the last true frame:", "", head]
    lines.append("|---" * (len(horizons) + 1) + "|")
    for name, row in result["psnr_margin_db"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[h]:+.1f}" for h in horizons) + " |")
    return "\n".join(lines) + "\n"


def write_result(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
