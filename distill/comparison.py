"""Generated clips beside true ones: one row of numbers for each way of making frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.camera_error import camera_error, commanded, measured
from distill.evaluate import (
    BATCH_FRAMES,
    REPEAT,
    Extent,
    Model,
    Truth,
    candidates,
    steps_name,
)
from distill.features import CLIP_FRAMES, CLIP_NUMBERS, Ruler, frechet_to_truth
from distill.metrics import checkerboard_ratio, colour, gradient_energy, motion, psnr_db, ssim
from worldmodel.autoencoder import frames_to_float

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    rows: dict[str, Row]
    camera_of_truth: dict[str, float]  # what the measuring of cameras errs by in true frames
    frechet: dict[str, Any] | None  # with what its distances mean something against
    own: Tensor  # frames of the model as it is played, uint8 [b f H W 3]


def compare_with_truth(model: Model, truth: Truth, extent: Extent, ruler: Ruler) -> Comparison:
    """Measure every way of sampling and every baseline."""
    rows, own = {}, truth.frames
    told = commanded(truth, extent.known - 1, extent.camera_pairs)
    true = measured(truth.frames, told)
    features = true_features(truth, extent, ruler)
    for name, made in candidates(model, truth, extent):
        rows[name] = measure(truth, made, extent, ruler, features)
        rows[name]["camera"] = camera_error(measured(made, told), told, true)
        own = made if name == steps_name(model.playable.rollout.steps) else own
    repeated = rows[REPEAT].get("psnr_db")
    if repeated is None:
        raise ValueError("no clip's camera moves: there is nothing to predict; take other clips")
    for row in rows.values():
        margins = {h: round(value - repeated[h], 2) for h, value in row["psnr_db"].items()}
        row["psnr_margin_db"] = margins
    frechet = None if features is None else frechet_numbers(rows, features, len(truth.frames))
    return Comparison(rows, camera_error(true, told, true), frechet, own)


def measure(
    truth: Truth, made: Tensor, extent: Extent, ruler: Ruler, features: Tensor | None
) -> Row:
    """Frames `made`, uint8 [b f H W 3], against the truth, at each horizon and over whole clips.

    `features` are those of the true clips; None where there are too few for a Fréchet distance.
    """
    row: Row = {}
    for horizon in extent.horizons:
        index = extent.known - 1 + horizon
        moved = has_moved(truth.views.cameras, extent.known - 1, index)
        for name, value in _at(truth, made, index, moved, ruler).items():
            row.setdefault(name, {})[str(horizon)] = value
    generated, true = made[:, extent.known :], truth.frames[:, extent.known :]
    if extent.longest > 1:
        row["motion_ratio"] = round(mean_motion(generated) / max(mean_motion(true), 1e-9), 3)
    if features is not None:
        row["frechet"] = round(frechet_to_truth(clip_features(generated, ruler), features), 3)
    return row


def _at(truth: Truth, made: Tensor, index: int, moved: Tensor, ruler: Ruler) -> dict[str, float]:
    frame, target = frames_to_float(made[:, index]), frames_to_float(truth.frames[:, index])
    energy = gradient_energy(frame).mean() / gradient_energy(target).mean()
    over_all = {
        "gradient_energy_ratio": round(float(energy), 3),
        "checkerboard_ratio": round(checkerboard_ratio(frame, target), 3),
        **colour_drift(colour(frame), colour(target)),
    }
    if not bool(moved.any()):
        return over_all
    each = {
        "psnr_db": (psnr_db(frame, target), 2),
        "ssim": (ssim(frame, target), 4),
        "perceptual": (ruler.distance(frame, target), 4),
    }
    numbers = {name: round(float(x[moved].mean()), digits) for name, (x, digits) in each.items()}
    return {**numbers, **over_all}


def has_moved(cameras: Tensor, before: int, after: int) -> Tensor:
    """Which clips [b] see a new view: where the camera stayed, there is nothing to predict.

    A repeated frame is then exact, its PSNR infinite, and a mean over clips would say nothing.
    """
    return (cameras[:, after] - cameras[:, before]).abs().amax((-2, -1)) > 1e-6


def colour_drift(made: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative differences of two sets of images' colour statistics, mean and variance [... 3].

    Statistics are averaged over each set first, so that two sets need not show the same places. The
    difference is that of the worst channel.
    """

    def relative(a: Tensor, b: Tensor) -> float:
        a, b = a.flatten(0, -2).mean(0), b.flatten(0, -2).mean(0)
        return round(float(((a - b).abs() / b.clamp_min(1e-6)).max()), 4)

    return {
        "colour_drift": relative(made[0], true[0]),
        "colour_variance_drift": relative(made[1], true[1]),
    }


def mean_motion(clips: Tensor) -> float:
    """Mean change of a pixel from frame to frame of [b f H W 3], uint8, of a range of 1."""
    per_clip = [motion(*_neighbours(frames_to_float(clip))).mean() for clip in clips]
    return float(torch.stack(per_clip).mean())


def _neighbours(frames: Tensor) -> tuple[Tensor, Tensor]:
    return frames[:-1], frames[1:]


def true_features(truth: Truth, extent: Extent, ruler: Ruler) -> Tensor | None:
    """Of the true clips; None of too few: fewer than a covariance has rows would say nothing."""
    frames = truth.frames[:, extent.known :]
    if len(frames) * (frames.shape[1] // CLIP_FRAMES) <= CLIP_NUMBERS:
        return None
    return clip_features(frames, ruler)


def clip_features(frames: Tensor, ruler: Ruler) -> Tensor:
    """Features [n d] of all whole clips of CLIP_FRAMES frames in [b f H W 3], uint8."""
    count = frames.shape[1] // CLIP_FRAMES
    cut = frames[:, : count * CLIP_FRAMES].unflatten(1, (count, CLIP_FRAMES)).flatten(0, 1)
    parts = cut.split(BATCH_FRAMES // CLIP_FRAMES)
    return torch.cat([ruler.clip_features(_to_float(part)) for part in parts])


def frechet_numbers(rows: dict[str, Row], true: Tensor, worlds: int) -> dict[str, Any]:
    """The distances of all rows; `true` are the features [n d] of the true clips, world by world.

    The floor is the distance of one half of the true worlds from the other half: they differ as
    places do, and each half has half as many clips, so a model may well come out below it.
    """
    half = worlds // 2 * (len(true) // worlds)
    return {
        "distance": {name: row["frechet"] for name, row in rows.items()},
        "floor_of_true_halves": round(frechet_to_truth(true[:half], true[half:]), 3),
        "clips": len(true),
        "frames_per_clip": CLIP_FRAMES,
        "numbers_per_clip": CLIP_NUMBERS,
    }


def _to_float(clips: Tensor) -> Tensor:
    return frames_to_float(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
