"""Does a place look the same when one comes back: all the way round, and out and back.

The camera ends exactly where it began, in a world where nothing moves, so the last frame should be the
first. A model whose memory is shorter than the way makes up another place. Whether it can still be
recognised is decided by retrieval: of the true first frames of all worlds, is its own the nearest?
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill.evaluate import Model, Truth, generate
from distill.features import Ruler
from distill.long_play import views_on
from distill.metrics import psnr_db, ssim
from distill.rollout import Views
from distill.scenes.paths import viewpoints_for
from worldmodel.autoencoder import frames_to_float, frames_to_uint8
from worldmodel.motion import Command, Viewpoint

TURN_FRAMES = 72  # 5 degrees a frame
OUT_FRAMES = 30


def ways() -> dict[str, list[Command]]:
    """Commands, a frame each, that end where they begin."""
    turn = [Command(yaw_rad=math.tau / TURN_FRAMES)] * TURN_FRAMES
    out, back = [Command(forward=1.0)] * OUT_FRAMES, [Command(forward=-1.0)] * OUT_FRAMES
    return {"full turn": turn, "out and back": out + back}


@torch.no_grad()
def returning(model: Model, truth: Truth, ruler: Ruler) -> dict[str, Any]:
    """Each way, from the first true frame of each clip; numbers of the frame that closes it."""
    start = frames_to_float(truth.frames[:, 0])
    return {
        name: _closing(_last_frame(model, truth, commands), start, ruler, len(commands))
        for name, commands in ways().items()
    }


def views_along(model: Model, truth: Truth, commands: list[Command]) -> Views:
    """From the first pose of each clip."""
    rate, limits = model.playable.frames_per_second, model.playable.limits

    def along(_: int, start: Viewpoint) -> list[Viewpoint]:
        return viewpoints_for(commands, rate, limits, start)[1:]

    return views_on(truth, 1, len(commands), along)


def _last_frame(model: Model, truth: Truth, commands: list[Command]) -> Tensor:
    """What is seen at the end, as a player sees it: float [b 3 H W]."""
    views, steps = views_along(model, truth, commands), model.playable.rollout.steps
    latents = generate(model, truth.latents[:, :1], views, steps)
    return frames_to_float(frames_to_uint8(model.autoencoder.decode(latents[:, -1])))


def _closing(last: Tensor, start: Tensor, ruler: Ruler, frames: int) -> dict[str, Any]:
    worlds = len(start)
    to_all = torch.stack([ruler.distance(last, one.expand_as(last)) for one in start], dim=1)
    own = to_all.diagonal()
    others = (to_all.sum(1) - own) / max(worlds - 1, 1)
    found = to_all.argmin(1) == torch.arange(worlds, device=start.device)
    return {
        "frames": frames,
        "psnr_to_start_db": round(float(psnr_db(last, start).mean()), 2),
        "ssim_to_start": round(float(ssim(last, start).mean()), 4),
        "perceptual_to_start": round(float(own.mean()), 4),
        "perceptual_to_other_worlds": round(float(others.mean()), 4),
        "recognised": round(float(found.float().mean()), 3),
        "by_chance": round(1 / worlds, 3),
    }
