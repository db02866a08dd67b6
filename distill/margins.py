"""How far a student is above repeating the last true frame: the short measurement of comparisons.

An evaluation (`distill/evaluate.py`) says much of one model and takes minutes. A table of twenty
students needs two numbers of each, but world by world, so that what two students differ by can be told
from what worlds differ by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.clips import ClipSet
from distill.comparison import has_moved
from distill.evaluate import Model, Truth, decode_clips, generate, load_truth
from distill.features import Ruler
from distill.metrics import gradient_energy, psnr_db
from distill.result import circumstances, told_words, write_result
from worldmodel.autoencoder import frames_to_float
from worldmodel.fp8 import check_fp8, use_fp8

HORIZONS = (1, 4, 8, 16, 32, 64, 128)
SHOWN_WORLDS, SHOWN = 2, (1, 8, 32)  # of which frames a picture is kept

ByWorld = list[float | None]  # None where the camera has not moved: there is nothing to predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    known: int = 4  # true frames each clip begins with
    clips: int = 64
    longest: int = 32  # frames generated after them
    steps: tuple[int, ...] = ()  # none: those the model is played with
    words: bool = True  # the model is told the prompt of each clip
    fp8: bool = False  # linear layers of the transformer's blocks in 8 bits

    def __post_init__(self) -> None:
        if min(self.known, self.clips, self.longest, *self.steps) < 1:
            raise ValueError("known frames, clips, horizon and steps must be at least 1")

    @property
    def horizons(self) -> list[int]:
        return [horizon for horizon in HORIZONS if horizon <= self.longest]


@torch.no_grad()
def write_margins(model: Model, clips: ClipSet, extent: Extent, out: Path) -> dict[str, Any]:
    """Write `out` (JSON) and a PNG of the same name: a line of frames for every number of steps.

    Its first line is the truth. Returns what was written.

    Raises:
        ValueError: if the clips are too short or of another size than the model's frames, or this
            device has no 8-bit products.
    """
    began = time.monotonic()
    if extent.fp8:
        check_fp8(model.device)
        use_fp8(model.transformer)
    frames = extent.known + extent.longest
    truth = load_truth(clips, model, extent.clips, frames, words=extent.words)
    asked = extent.steps or (model.playable.rollout.steps,)
    ruler = Ruler(model.playable.name, model.autoencoder.encoder)
    rows: dict[str, Any] = {}
    lines = [_line(truth.frames, extent)]
    for steps in asked:
        latents = generate(model, truth.latents[:, : extent.known], truth.views, steps)
        made = decode_clips(model, latents)
        rows[str(steps)] = compared(made, truth, extent, ruler)
        lines.append(_line(made, extent))
    still = truth.frames[:, extent.known - 1 : extent.known].expand_as(truth.frames)
    rollout = model.playable.rollout
    numbers = {
        **{key: value for key, value in circumstances(model).items() if key != "steps"},
        "solver": rollout.solver,
        "memory": rollout.commit,
        "worlds": len(truth.frames),
        "context_frames": extent.known,
        "words": told_words(truth),
        "fp8": extent.fp8,
        "ruler": ruler.digest(),
        "repeated": compared(still, truth, extent, ruler),
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
    }
    Image.fromarray(np.concatenate(lines)).save(out.with_suffix(".png"))
    write_result(numbers, out)
    return numbers


def compared(
    made: Tensor, truth: Truth, extent: Extent, ruler: Ruler
) -> dict[str, dict[str, ByWorld]]:
    """Frames `made`, uint8 [b f H W 3], against the truth: numbers by horizon and world."""
    names = ("psnr_db", "perceptual", "gradient_energy_ratio")
    found: dict[str, dict[str, ByWorld]] = {name: {} for name in names}
    for horizon in extent.horizons:
        index = extent.known - 1 + horizon
        frame, target = (frames_to_float(x[:, index]) for x in (made, truth.frames))
        moved = has_moved(truth.views.cameras, extent.known - 1, index).tolist()
        near, seen = psnr_db(frame, target).tolist(), ruler.distance(frame, target).tolist()
        energy = (gradient_energy(frame) / gradient_energy(target).mean()).tolist()
        for name, values in (("psnr_db", near), ("perceptual", seen)):
            found[name][str(horizon)] = [
                round(x, 4) if known else None for x, known in zip(values, moved, strict=True)
            ]
        found["gradient_energy_ratio"][str(horizon)] = [round(x, 4) for x in energy]
    return found


def _line(frames: Tensor, extent: Extent) -> NDArray[np.uint8]:
    """The first worlds side by side, some frames of each: uint8 [H W 3]."""
    columns = [extent.known - 1 + horizon for horizon in SHOWN if horizon <= extent.longest]
    shown = frames[:SHOWN_WORLDS, columns].flatten(0, 1).cpu().numpy()
    return np.concatenate(list(shown), axis=1)
