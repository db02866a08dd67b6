"""What a bidirectional teacher makes by itself: its student will not learn more.

Stage 3 moves a student to where its teacher thinks clips are. What is missing from the teacher's own
samples is missing there too, and training for longer only brings the student nearer to it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.batches import relative_to_middle
from distill.clips import ClipSet
from distill.evaluate import SEED, Model, Truth, decode_clips, load_truth
from distill.long_play import against, statistics_of
from distill.objectives import guided_velocity
from distill.result import circumstances, told_words, write_result
from worldmodel import flow
from worldmodel.attention import attend_all
from worldmodel.transformer import Geometry

SHOWN_WORLDS, SHOWN = 6, 3  # how many frames of each are shown
NAMES = ("gradient_energy_ratio", "colour_variance_drift", "motion_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is asked of it."""

    clips: int = 24
    frames: int = 16  # of each, as it was trained with
    first: int = 48  # of the held-out clip: there the camera moves
    denoising_steps: int = 48  # from pure noise; half of them lose a tenth of the edges
    shift: float = 3.0
    guidance: float = 1.0  # over its prediction without words
    autoguidance: float = 1.0  # over the prediction of a worse teacher
    levels: tuple[float, ...] = (1.0, 0.75, 0.5)  # of the noise that it begins with
    given: tuple[int, ...] = (0,)  # first frames that it is given without noise

    def __post_init__(self) -> None:
        if min(self.clips, self.denoising_steps) < 1 or self.first < 0:
            raise ValueError("clips and denoising steps must be at least 1, first not negative")
        if not self.shift > 0.0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if self.autoguidance < 1.0:
            raise ValueError(f"autoguidance must be at least 1 (none), got {self.autoguidance}")
        if not all(0.0 < level <= 1.0 for level in self.levels):
            raise ValueError(f"levels of noise lie in (0, 1], got {self.levels}")
        if not all(0 <= given < self.frames - 1 for given in self.given):
            raise ValueError(f"of {self.frames} frames at least two must be made: {self.given}")


@torch.no_grad()
def write_samples(
    teacher: Model, clips: ClipSet, extent: Extent, out: Path, worse: Model | None = None
) -> dict[str, Any]:
    """Write `out` (JSON) and a PNG of the same name; returns what was written.

    The picture has the truth in its first columns and then some frames of every row of the numbers.
    `worse`: the teacher that `extent.autoguidance` leads away from.

    Raises:
        ValueError: if the clips are too short or of another size than the model's frames.
    """
    began = time.monotonic()
    if clips.frames_per_clip < extent.first + extent.frames:
        raise ValueError(
            f"{clips.folder}: clips of {clips.frames_per_clip} frames; {extent.frames} of them are made"
            f" again from --first {extent.first} on"
        )
    truth = load_truth(clips, teacher, extent.clips, extent.first + extent.frames)
    there = slice(extent.first, extent.first + extent.frames)
    latents, frames = truth.latents[:, there].float(), truth.frames[:, there]
    geometry = _geometry(teacher, truth, there)
    coded = statistics_of(decode_clips(teacher, latents))
    rows, columns = [], [_shown(frames)]
    for given in extent.given:
        for level in extent.levels:
            made = decode_clips(
                teacher,
                sampled(teacher, latents, geometry, truth.views.words, level, given, extent, worse),
            )
            numbers = against(statistics_of(made[:, given:]), statistics_of(frames[:, given:]))
            rows.append({"from_level": level, "given": given, **{n: numbers[n] for n in NAMES}})
            columns.append(_shown(made))
    measured = {
        **{key: value for key, value in circumstances(teacher).items() if key != "steps"},
        "worlds": len(frames),
        "words": told_words(truth),
        "denoising_steps": extent.denoising_steps,
        "shift": extent.shift,
        "guidance": extent.guidance,
        "autoguidance": extent.autoguidance,
        "autoencoder": {name: against(coded, statistics_of(frames))[name] for name in NAMES},
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
    }
    Image.fromarray(np.concatenate(columns, axis=1)).save(out.with_suffix(".png"))
    write_result(measured, out)
    return measured


def sampled(
    teacher: Model,
    latents: Tensor,
    geometry: Geometry,
    words: Tensor,
    level: float,
    given: int,
    extent: Extent,
    worse: Model | None = None,
) -> Tensor:
    """What the teacher makes of true `latents` [b f p c] with noise of `level`, by Euler steps.

    The first `given` frames stay as they are.
    """
    random = torch.Generator(latents.device).manual_seed(SEED)
    noise = torch.randn(latents.shape, generator=random, device=latents.device)

    def levels(now: float) -> Tensor:
        sigma = torch.full(latents.shape[:2], now, device=latents.device)
        sigma[:, :given] = 0.0
        return sigma

    made = flow.interpolate(latents, noise, levels(level))
    for now, to in pairwise(_schedule(level, extent)):
        sigma = levels(now)

        def velocity(
            model: Model, asked: Tensor, noisy: Tensor = made, sigma: Tensor = sigma
        ) -> Tensor:
            network = model.transformer
            kernels = [attend_all] * network.config.layers
            return network(noisy, sigma, asked, geometry, kernels)

        led_away = None if worse is None else partial(velocity, worse)
        weights = extent.guidance, led_away, extent.autoguidance
        guided = guided_velocity(partial(velocity, teacher), words, *weights)
        made = flow.euler_step(made, guided, sigma, levels(to))
    return made


def _schedule(level: float, extent: Extent) -> Sequence[float]:
    """The levels of a whole schedule that lie below `level`, and that first."""
    whole = flow.schedule(extent.denoising_steps, extent.shift).tolist()
    return [level, *(x for x in whole if x < level - 1e-6)]


def _geometry(teacher: Model, truth: Truth, there: slice) -> Geometry:
    cameras = truth.views.cameras[:, there].cpu().numpy()
    anchored = torch.from_numpy(np.stack([relative_to_middle(clip) for clip in cameras]))
    lenses = truth.views.intrinsics[:, there]
    time_ = torch.arange(anchored.shape[1], device=lenses.device).float()
    return teacher.transformer.geometry(anchored, lenses, time_.expand(len(anchored), -1))


def _shown(frames: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Some frames of the first worlds, a world a line: uint8 [H W 3]."""
    columns = np.linspace(0, frames.shape[1] - 1, SHOWN).astype(int).tolist()
    lines = [
        np.concatenate(list(clip), axis=1) for clip in frames[:SHOWN_WORLDS, columns].cpu().numpy()
    ]
    return np.concatenate(lines, axis=0)
