"""Straight ahead: whoever holds W walks into what the model must make up, all the time.

What lies ahead grows out of a few pixels in the middle of the picture, and so does every mistake made
there. Clips that wander seldom show it. No true frames lie there, so what is seen is held against what
is seen in the same worlds; not how it moves, as who walks straight ahead sees no other motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distill.evaluate import BATCH_FRAMES, Model, Truth, decode_clips, generate
from distill.features import CLIP_FRAMES, CLIP_NUMBERS, Ruler, frechet_to_truth
from distill.long_play import ASKED, against, statistics_of, views_on
from distill.rollout import Views
from distill.scenes.paths import viewpoints_for
from worldmodel.autoencoder import frames_to_float
from worldmodel.motion import Command, Viewpoint

SPAN_FRAMES = 4 * CLIP_FRAMES  # of which one number is said
EVERY = 4  # frames, of which one is held against the true ones


@dataclass(frozen=True, slots=True)
class Ahead:
    numbers: dict[str, Any]
    moments: Tensor  # uint8 [b m H W 3]: the last true frame, then the last of every span


@torch.no_grad()
def ahead(model: Model, truth: Truth, known: int, spans: int, ruler: Ruler) -> Ahead:
    """Walk straight ahead from frame `known` of every clip, looking level, for `spans` spans.

    Numbers are by the last frame of each span, of all its frames against all true ones.
    """
    views = views_ahead(model, truth, known, spans * SPAN_FRAMES)
    steps = model.playable.rollout.steps
    latents = generate(model, truth.latents[:, :known], views, steps)[:, known:]
    true, truly = _features(truth.frames[:, known:], ruler), statistics_of(truth.frames)
    numbers: dict[str, dict[str, float]] = {}
    moments = [truth.frames[:, known - 1]]
    for index, span in enumerate(latents.split(SPAN_FRAMES, dim=1), 1):
        frames = decode_clips(model, span)
        moments.append(frames[:, -1])
        measured = against(statistics_of(frames), truly)
        found = {name: measured[name] for name in ASKED}
        features = _features(frames, ruler)
        if min(len(features), len(true)) > CLIP_NUMBERS:  # fewer determine no covariance
            found["frame_frechet"] = round(frechet_to_truth(features, true), 3)
        for name, value in found.items():
            numbers.setdefault(name, {})[str(index * SPAN_FRAMES)] = value
    return Ahead({"walks": len(latents), "steps": steps, **numbers}, torch.stack(moments, dim=1))


def views_ahead(model: Model, truth: Truth, known: int, frames: int) -> Views:
    """The first `known` true views of each clip, then those of W held for `frames` frames."""
    rate, limits = model.playable.frames_per_second, model.playable.limits

    def level(_: int, start: Viewpoint) -> list[Viewpoint]:
        held = [Command(forward=1.0)] * frames
        return viewpoints_for(held, rate, limits, replace(start, pitch_rad=0.0))[1:]

    return views_on(truth, known, frames, level)


def _features(clips: Tensor, ruler: Ruler) -> Tensor:
    """Of some frames [n d] of uint8 [b f H W 3]."""
    frames = clips[:, EVERY - 1 :: EVERY].flatten(0, 1).split(BATCH_FRAMES)
    return torch.cat([ruler.frame_features(frames_to_float(part)) for part in frames])
