"""Long play without truth to follow: does a world stay sharp, keep its colours, and rest when you do.

The model walks through worlds it makes up itself for a thousand frames and more. What it shows there has
no true counterpart, so its statistics are held against those of the true frames of the same worlds, and
what the true frames' own end differs by is reported beside. Frames are counted and forgotten, so a walk
may be of any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from distill.comparison import colour_drift
from distill.evaluate import (
    BATCH_FRAMES,
    SEED,
    Model,
    Truth,
    decode,
    generate,
    generate_frames,
)
from distill.metrics import colour, gradient_energy, motion, psnr_db
from distill.rollout import Views
from distill.scenes.paths import draw_walk
from distill.viewpoints import viewpoint_of
from worldmodel.autoencoder import frames_to_float, frames_to_uint8
from worldmodel.motion import Viewpoint

REPORTED = (32, 100, 300, 1000, 3000, 10_000)  # frames after the last true one
SHOWN = (1, 10, 30, 100, 300, 1000, 3000, 10_000)  # of which pictures are kept
KEPT_FRAMES = 1000  # of each walk, for videos
RESTED = (10, 50, 100, 200, 500, 1000)  # frames of rest after which the picture is looked at
GLANCE_FRAMES = 32  # of a walk after which whoever walks sees again where they look
WINDOW_FRAMES = 50  # statistics of a moment are those of the frames up to it
CURVE_POINTS = 40
FIELDS = ("gradient_energy", "mean", "variance", "motion")
LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709, of red, green and blue
# What a walk should keep to, of its worlds' truth, however long it is.
ASKED = {
    "gradient_energy_ratio": (0.85, 1.15),
    "exposure_ratio": (0.95, 1.05),
    "colour_drift": (0.0, 0.05),
    "colour_variance_drift": (0.0, 0.05),
}
# What a walk's end may be, of its own world's truth; outside it has collapsed.
BOUNDS = {"gradient_energy": (0.5, 2.0), "colour_variance": (0.25, 4.0), "motion": (0.1, 10.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPlay:
    """How long is played."""

    walks: int = 16
    walk_frames: int = 1000
    still_frames: int = 200
    spans_ahead: int = 4  # of 64 frames each, straight ahead

    def __post_init__(self) -> None:
        if min(self.walks, self.spans_ahead) < 1 or min(self.walk_frames, self.still_frames) < 2:
            raise ValueError(
                "long play takes at least 1 walk, 1 span ahead, and 2 frames of walking and resting"
            )

    @staticmethod
    def quick() -> LongPlay:
        """A few minutes on two CPU cores."""
        return LongPlay(walks=2, walk_frames=100, still_frames=50, spans_ahead=1)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the frames of some clips [b f ...]."""

    gradient_energy: Tensor  # [b f]
    mean: Tensor  # [b f 3]
    variance: Tensor  # [b f 3]
    motion: Tensor  # [b f-1], change to the next frame

    def until(self, frame: int) -> Statistics:
        """Of the WINDOW_FRAMES frames that end with number `frame`, counted from 1."""
        first = max(frame - WINDOW_FRAMES, 0)
        changes = slice(max(first - 1, 0), max(frame - 1, 1))
        return Statistics(
            self.gradient_energy[:, first:frame],
            self.mean[:, first:frame],
            self.variance[:, first:frame],
            self.motion[:, changes],
        )


@dataclass(frozen=True, slots=True)
class Walked:
    """What is left of long walks."""

    statistics: Statistics  # of all their frames
    start: Tensor  # latents [b f p c] of the first KEPT_FRAMES
    moments: Tensor  # latents [b m p c] of those frames SHOWN that were reached


@dataclass(frozen=True, slots=True)
class Played:
    """What came out, to be looked at."""

    numbers: dict[str, Any]
    walked: Walked
    still: Tensor  # latents [b f p c]


@torch.no_grad()
def play(model: Model, truth: Truth, known: int, extent: LongPlay) -> Played:
    """Walk on from the first clips, and rest in them, with the steps the model is played with."""
    few = first_clips(truth, extent.walks)
    steps = model.playable.rollout.steps
    walked = walk(model, few, known, extent.walk_frames)
    resting = rest(few, extent.still_frames)
    still = generate(model, few.latents[:, :1], resting, steps)
    numbers = {
        "walks": len(walked.start),
        "frames": extent.walk_frames,
        "steps": steps,
        **walk_numbers(walked.statistics, statistics_of(few.frames), extent.walk_frames),
        "still": still_numbers(model, still, few),
    }
    return Played(numbers, walked, still)


def walk(model: Model, truth: Truth, known: int, frames: int) -> Walked:
    """Walk on from every clip for `frames` frames, of which only what `Walked` holds is kept."""
    views, steps = walk_on(model, truth, known, frames), model.playable.rollout.steps
    made = islice(generate_frames(model, truth.latents[:, :known], views, steps), known, None)
    counting = Counting(model)
    start, moments = [], []
    for number, latent in enumerate(tqdm(made, "long play", frames, unit="frame"), 1):
        counting.add(latent)
        if number <= KEPT_FRAMES:
            start.append(latent)
        if number in SHOWN:
            moments.append(latent)
    return Walked(counting.statistics(), torch.cat(start, 1), torch.cat(moments, 1))


def first_clips(truth: Truth, count: int) -> Truth:
    views = Views(
        cameras=truth.views.cameras[:count],
        intrinsics=truth.views.intrinsics[:count],
        words=truth.views.words[:count],
    )
    return Truth(frames=truth.frames[:count], latents=truth.latents[:count], views=views)


def walk_on(model: Model, truth: Truth, known: int, frames: int) -> Views:
    """What a player sees from who goes on from frame `known` of each clip, for `frames` frames."""
    rate, limits = model.playable.frames_per_second, model.playable.limits

    def wandering(clip: int, start: Viewpoint) -> list[Viewpoint]:
        random = np.random.default_rng((SEED, clip))
        return draw_walk(random, repeat("wander"), frames, GLANCE_FRAMES, rate, limits, start)

    return views_on(truth, known, frames, wandering)


def views_on(
    truth: Truth, known: int, frames: int, walk: Callable[[int, Viewpoint], list[Viewpoint]]
) -> Views:
    """The first `known` true views of each clip, then those of `walk(clip, start)` from there."""
    cameras = []
    for clip, poses in enumerate(truth.views.cameras.cpu().numpy()):
        walked = walk(clip, viewpoint_of(poses[known - 1]))
        cameras.append([*poses[:known], *(point.camera_from_world() for point in walked)])
    lens = truth.views.intrinsics[:, :known]
    return Views(
        cameras=torch.from_numpy(np.array(cameras)).to(truth.views.cameras.device),
        intrinsics=torch.cat([lens, lens[:, -1:].expand(-1, frames, -1)], dim=1),
        words=truth.views.words,
    )


def rest(truth: Truth, frames: int) -> Views:
    """A camera that stays where each clip begins, for `frames` frames after its first one."""
    return Views(
        cameras=truth.views.cameras[:, :1].expand(-1, frames + 1, -1, -1),
        intrinsics=truth.views.intrinsics[:, :1].expand(-1, frames + 1, -1),
        words=truth.views.words,
    )


@dataclass(slots=True)
class Counting:
    """Counts the statistics of frames that come one after the other, and forgets the frames."""

    model: Model
    _waiting: list[Tensor] = field(default_factory=list)  # latents [b f p c]
    _before: Tensor | None = None  # the last frame that was counted
    _parts: list[Statistics] = field(default_factory=list)

    def add(self, latents: Tensor) -> None:
        """The next frames, latents [b f p c]; decoded when there are enough of them."""
        self._waiting.append(latents)
        if len(latents) * sum(x.shape[1] for x in self._waiting) >= BATCH_FRAMES:
            self._count()

    def statistics(self) -> Statistics:
        """Of all frames so far."""
        if self._waiting:
            self._count()
        return Statistics(*(torch.cat([getattr(x, n) for x in self._parts], 1) for n in FIELDS))

    def _count(self) -> None:
        latents, before = torch.cat(self._waiting, dim=1), self._before
        frames = frames_to_float(frames_to_uint8(decode(self.model, latents.flatten(0, 1))))
        clips = frames.unflatten(0, latents.shape[:2])
        self._parts.append(_of(clips if before is None else torch.cat([before, clips], 1), before))
        self._waiting, self._before = [], clips[:, -1:]


def statistics_of(clips: Tensor) -> Statistics:
    """Of uint8 [b f H W 3], clip by clip."""
    parts = [_of(frames_to_float(clip)[None], None) for clip in clips]
    return Statistics(*(torch.cat([getattr(x, n) for x in parts]) for n in FIELDS))


def _of(clips: Tensor, before: Tensor | None) -> Statistics:
    """Of clips [b f 3 H W]; with `before`, their first frame was counted already."""
    own = clips if before is None else clips[:, 1:]
    return Statistics(gradient_energy(own), *colour(own), motion(clips[:, :-1], clips[:, 1:]))


def walk_numbers(made: Statistics, true: Statistics, frames: int) -> dict[str, Any]:
    """Statistics of walks against those of the true frames of the same worlds."""
    moments = sorted({m for m in (*REPORTED, frames) if m <= frames})
    at = {str(m): against(made.until(m), true) for m in moments}
    numbers = {name: {m: found[name] for m, found in at.items()} for name in at[str(frames)]}
    length = true.gradient_energy.shape[1]  # the end of the true clips against all of them
    floor = against(true.until(length), true) if length >= 2 * WINDOW_FRAMES else None
    outside = {
        m: [key for key, (low, high) in ASKED.items() if not low <= found[key] <= high]
        for m, found in at.items()
    }
    curve = sorted({int(m) for m in np.linspace(1, frames, CURVE_POINTS)})
    along = {m: against(made.until(m), true) for m in curve}
    return {
        **numbers,
        "floor": floor,
        "asked": {key: list(bounds) for key, bounds in ASKED.items()},
        "outside_of_what_is_asked": outside,
        "collapse": collapse(made, true, frames),
        "collapsed_walks": {m: collapse(made, true, int(m))["collapsed_walks"] for m in at},
        "curve": {"frame": curve}
        | {name: [along[m][name] for m in curve] for name in along[frames]},
    }


def against(made: Statistics, true: Statistics) -> dict[str, float]:
    """What is made, of what is true."""
    energy = made.gradient_energy.mean() / true.gradient_energy.mean()
    moving = made.motion.mean() / true.motion.mean().clamp_min(1e-9)
    drift = colour_drift((made.mean, made.variance), (true.mean, true.variance))
    luma = torch.tensor(LUMA, device=true.mean.device)
    exposure = (made.mean @ luma).mean() / (true.mean @ luma).mean()
    return {
        "gradient_energy_ratio": round(float(energy), 3),
        "exposure_ratio": round(float(exposure), 3),
        **drift,
        "motion_ratio": round(float(moving), 3),
    }


def collapse(made: Statistics, true: Statistics, frames: int) -> dict[str, Any]:
    """How many walks ended grey, flat, frozen or in noise, each judged by its own world's truth."""
    end = made.until(frames)
    ratios = {
        "gradient_energy": end.gradient_energy.mean(1) / true.gradient_energy.mean(1),
        "colour_variance": end.variance.mean((1, 2)) / true.variance.mean((1, 2)),
        "motion": end.motion.mean(1) / true.motion.mean(1).clamp_min(1e-9),
    }
    outside = [(x < BOUNDS[name][0]) | (x > BOUNDS[name][1]) for name, x in ratios.items()]
    bad = torch.stack(outside).any(0)
    allowed = [
        f"{name.replace('_', ' ')} {low:g} to {high:g}" for name, (low, high) in BOUNDS.items()
    ]
    count = int(bad.sum())
    return {
        "collapsed_walks": count,
        "of": len(bad),
        "at_frame": frames,
        "statement": "no collapse" if count == 0 else f"{count} of {len(bad)} walks collapsed",
        "rule": f"the last {WINDOW_FRAMES} frames of a walk, of the true frames of the same world,"
        f" must have {', '.join(allowed)}",
        "range_over_walks": {
            name: [round(float(x.min()), 3), round(float(x.max()), 3)] for name, x in ratios.items()
        },
    }


def still_numbers(model: Model, latents: Tensor, truth: Truth) -> dict[str, Any]:
    """How far a resting camera's picture drifts, in PSNR to what it first showed."""
    last = latents.shape[1] - 1
    moments = sorted({m for m in (*RESTED, last) if m <= last})

    def shown(moment: int) -> Tensor:
        return frames_to_float(frames_to_uint8(decode(model, latents[:, moment])))

    first, true = shown(1), frames_to_float(truth.frames[:, 0])
    to_first = {m: psnr_db(shown(m), first) for m in moments}
    return {
        "frames": last,
        "psnr_to_first_db": {str(m): round(float(x.mean()), 2) for m, x in to_first.items()},
        "psnr_to_truth_db": {
            str(m): round(float(psnr_db(shown(m), true).mean()), 2) for m in moments
        },
        "worst_psnr_to_first_db": round(float(to_first[last].min()), 2),
    }
