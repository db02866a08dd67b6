"""What people do with keys and mouse, as commands per frame.

Every path goes through `worldmodel.motion.advance`, so training sees the poses that play produces
and no others. Paths are drawn in seconds and sampled at the clip's own world rate, as play does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worldmodel.motion import KEY_LOOK_RAD_PER_S, Command, Viewpoint, advance
from worldmodel.types import Intrinsics, MotionLimits

Axes = NDArray[np.float64]  # (frames, 3): forward, right, up


@dataclass(frozen=True, slots=True)
class PathMix:
    """Shares of the kinds of clips; they must sum to 1."""

    wander: float = 0.49  # walk this way and that, looking around
    straight: float = 0.12  # hold one key from start to end
    look_around: float = 0.08  # stand and look
    still: float = 0.06  # nothing moves at all
    out_and_back: float = 0.08
    full_turn: float = 0.06
    fly: float = 0.11  # rise and sink while walking and looking
    roam: float = 0.0  # walk or run all the time, and look around most of it
    stride: float = 0.0  # walk or run ahead for long, and look around now and then

    def __post_init__(self) -> None:
        shares = [getattr(self, field.name) for field in fields(self)]
        if min(shares) < 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares of path kinds must sum to 1, got {sum(shares):g}")


@dataclass(frozen=True, slots=True)
class Path:
    """One clip's worth of playing."""

    frames_per_second: float
    viewpoints: tuple[Viewpoint, ...]
    lenses: tuple[Intrinsics, ...]


@dataclass(frozen=True, slots=True)
class Lens:
    """Horizontal field of view of the clips, degrees."""

    mean_deg: float = 80.0
    spread_deg: float = 8.0  # uniform to either side
    zoom_share: float = 0.04  # of clips, in which it changes slowly


# Held keys and how often people hold them: forward, right, run.
_HOLDS: tuple[tuple[float, float, bool, float], ...] = (
    (1.0, 0.0, False, 0.40),
    (1.0, 0.0, True, 0.12),
    (0.0, 1.0, False, 0.07),
    (0.0, -1.0, False, 0.07),
    (1.0, 1.0, False, 0.05),
    (1.0, -1.0, False, 0.05),
    (-1.0, 0.0, False, 0.07),
    (-1.0, 1.0, False, 0.015),
    (-1.0, -1.0, False, 0.015),
    (1.0, 1.0, True, 0.01),
    (1.0, -1.0, True, 0.01),
    (0.0, 0.0, False, 0.12),
)
_MOVING = _HOLDS[:-1]
_AHEAD = (
    (1.0, 0.0, False, 0.72),
    (1.0, 0.0, True, 0.18),
    (1.0, 1.0, False, 0.05),
    (1.0, -1.0, False, 0.05),
)
_HURRYING = tuple((*hold[:3], 3.0 * hold[3] if hold[2] else hold[3]) for hold in _MOVING)


def draw_path(
    rng: np.random.Generator,
    frames: int,
    rates: tuple[float, float],
    mix: PathMix,
    lens: Lens,
    limits: MotionLimits,
    width_px: int,
    height_px: int,
) -> Path:
    """A random path of `frames` viewpoints, at a world rate drawn log-uniformly from `rates`."""
    fps = float(np.exp(rng.uniform(math.log(rates[0]), math.log(rates[1]))))
    kind = draw_kind(rng, mix)
    start = _start(rng, kind, limits)
    commands = draw_commands(rng, kind, frames - 1, fps, start.pitch_rad)
    viewpoints = viewpoints_for(commands, fps, limits, start)
    angles = _fields_of_view(rng, frames, lens)
    lenses = tuple(Intrinsics.from_field_of_view(float(a), width_px, height_px) for a in angles)
    return Path(fps, tuple(viewpoints), lenses)


def draw_kind(rng: np.random.Generator, mix: PathMix) -> str:
    names = [field.name for field in fields(mix)]
    return str(rng.choice(names, p=[getattr(mix, name) for name in names]))


def draw_walk(
    rng: np.random.Generator,
    kinds: Iterable[str],
    frames: int,
    piece_frames: int,
    fps: float,
    limits: MotionLimits,
    start: Viewpoint,
) -> list[Viewpoint]:
    """The `frames` viewpoints after `start`, piece by piece: each of the next of `kinds`.

    Limits cut some looks short. Drawn all at once a walk would not know, and end with its eyes in the
    sky or on the ground; every piece begins from how the head is bent then.
    """
    walked, of_piece = [start], iter(kinds)
    while len(walked) <= frames:
        count = min(piece_frames, frames + 1 - len(walked))
        commands = draw_commands(rng, next(of_piece), count, fps, walked[-1].pitch_rad)
        walked += viewpoints_for(commands, fps, limits, walked[-1])[1:]
    return walked[1:]


def viewpoints_for(
    commands: Sequence[Command], fps: float, limits: MotionLimits, start: Viewpoint | None = None
) -> list[Viewpoint]:
    """The start and the viewpoint after each command: one more than there are commands."""
    viewpoints = [start or Viewpoint()]
    for command in commands:
        viewpoints.append(advance(viewpoints[-1], command, fps, limits))
    return viewpoints


def draw_commands(
    rng: np.random.Generator, kind: str, frames: int, fps: float, pitch_rad: float = 0.0
) -> list[Command]:
    """One command per frame of a clip of the given kind (a field of `PathMix`)."""
    axes, run = np.zeros((frames, 3)), np.zeros(frames, bool)
    look = np.zeros((frames, 2))
    if kind == "wander":
        axes, run = _held_keys(rng, frames, fps)
        look = _looks(rng, frames, fps, pitch_rad)
    elif kind == "straight":
        axes, run = _one_key(rng, frames)
    elif kind == "look_around":
        look = _looks(rng, frames, fps, pitch_rad, rest_s=0.25)
    elif kind == "out_and_back":
        axes, run, look = _out_and_back(rng, frames, fps)
    elif kind == "full_turn":
        axes, run = _held_keys(rng, frames, fps) if rng.random() < 0.4 else (axes, run)
        look = _turning(rng, frames, fps)
    elif kind == "fly":
        axes, run = _held_keys(rng, frames, fps)
        axes[:, 2] = _rising(rng, frames, fps)
        look = _looks(rng, frames, fps, pitch_rad)
    elif kind == "roam":
        axes, run = _held_keys(rng, frames, fps, _HURRYING)
        look = _looks(rng, frames, fps, pitch_rad, rest_s=0.25)
    elif kind == "stride":
        axes, run = _held_keys(rng, frames, fps, _AHEAD, (2.0, 12.0))
        look = _looks(rng, frames, fps, pitch_rad, rest_s=2.5)
    elif kind != "still":
        raise ValueError(f"unknown kind of path {kind!r}")
    return [
        Command(float(a[0]), float(a[1]), float(a[2]), bool(r), float(step[0]), float(step[1]))
        for a, r, step in zip(axes, run, look, strict=True)
    ]


def _start(rng: np.random.Generator, kind: str, limits: MotionLimits) -> Viewpoint:
    """Clips begin anywhere in play: mostly at eye height, looking about level."""
    low, high = limits.height_m
    aloft = kind == "fly" or rng.random() < 0.04
    height = rng.uniform(low, high) * rng.random() if aloft else max(low, 0.0)
    return Viewpoint(
        y_m=-float(height), pitch_rad=float(np.clip(rng.normal(-0.02, 0.09), -0.5, 0.5))
    )


def _segments(
    rng: np.random.Generator, frames: int, fps: float, low_s: float, high_s: float
) -> list[slice]:
    """Cut a clip into pieces of random duration; the first may have begun before the clip."""
    cuts = [0]
    first = True
    while cuts[-1] < frames:
        seconds = float(np.exp(rng.uniform(math.log(low_s), math.log(high_s))))
        seconds *= rng.random() if first else 1.0
        cuts.append(min(frames, cuts[-1] + max(1, round(seconds * fps))))
        first = False
    return [slice(a, b) for a, b in pairwise(cuts)]


def _held_keys(
    rng: np.random.Generator,
    frames: int,
    fps: float,
    holds: tuple[tuple[float, float, bool, float], ...] = _HOLDS,
    seconds: tuple[float, float] = (0.25, 4.0),
) -> tuple[Axes, NDArray[np.bool_]]:
    axes, run = np.zeros((frames, 3)), np.zeros(frames, bool)
    shares = np.array([hold[3] for hold in holds])
    for piece in _segments(rng, frames, fps, *seconds):
        forward, right, running, _ = holds[int(rng.choice(len(holds), p=shares / shares.sum()))]
        axes[piece, 0], axes[piece, 1], run[piece] = forward, right, running
        if rng.random() < 0.06:  # an analogue stick, half pressed
            axes[piece, :2] *= rng.uniform(0.3, 0.9)
    return axes, run


def _one_key(rng: np.random.Generator, frames: int) -> tuple[Axes, NDArray[np.bool_]]:
    shares = np.array([hold[3] for hold in _MOVING])
    forward, right, running, _ = _MOVING[int(rng.choice(len(_MOVING), p=shares / shares.sum()))]
    axes = np.broadcast_to(np.array([forward, right, 0.0]), (frames, 3)).copy()
    return axes, np.full(frames, running)


def _looks(
    rng: np.random.Generator, frames: int, fps: float, pitch_rad: float, rest_s: float = 0.8
) -> Axes:
    """Mouse swings, flicks and held look keys, with rests; pitch is drawn back to level."""
    look = np.zeros((frames, 2))
    pitch = pitch_rad
    at = round(rng.uniform(-0.5, rest_s) * fps)
    while at < frames:
        steps = _one_look(rng, fps, pitch)
        inside = slice(max(at, 0), max(min(at + len(steps), frames), 0))  # may have begun before
        look[inside] += steps[inside.start - at : inside.stop - at]
        pitch += float(steps[:, 1].sum())
        at += len(steps) + round(rng.exponential(rest_s) * fps)
    return look


def _one_look(rng: np.random.Generator, fps: float, pitch: float) -> Axes:
    choice = rng.random()
    if choice < 0.22:
        return _key_look(rng, fps, pitch)
    if choice < 0.32:  # a flick
        seconds, turn = rng.uniform(0.08, 0.25), rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 2.4)
    else:
        seconds = float(np.exp(rng.uniform(math.log(0.15), math.log(1.4))))
        turn = rng.choice((-1.0, 1.0)) * float(np.exp(rng.uniform(math.log(0.06), math.log(1.5))))
    far = rng.random() < 0.12  # up to the tree tops or down to the feet
    goal = rng.uniform(-0.95, 0.95) if far else rng.normal(-0.03, 0.10)
    tilt = (goal - pitch) if far or rng.random() < 0.6 else 0.0
    count = max(1, round(seconds * fps))
    bell = 1.0 - np.cos(math.tau * (np.arange(count) + 0.5) / count)
    return _spread(bell / bell.sum(), turn, tilt)


def _key_look(rng: np.random.Generator, fps: float, pitch: float) -> Axes:
    """A look key: full rate at once, nothing after."""
    count = max(1, round(rng.uniform(0.1, 1.6) * fps))
    rate = KEY_LOOK_RAD_PER_S / fps
    if rng.random() < 0.75:
        return _spread(np.full(count, rate), rng.choice((-1.0, 1.0)), 0.0)
    up = -1.0 if pitch > 0.0 else 1.0
    count = min(count, max(1, round(0.7 / rate)))
    return _spread(np.full(count, rate), 0.0, up)


def _spread(weights: NDArray[np.float64], yaw: float, pitch: float) -> Axes:
    return np.stack([weights * yaw, weights * pitch], -1)


def _turning(rng: np.random.Generator, frames: int, fps: float) -> Axes:
    """All the way round, by key or by a steady mouse."""
    rate = KEY_LOOK_RAD_PER_S if rng.random() < 0.4 else math.radians(rng.uniform(60.0, 200.0))
    turned = np.arange(frames) * rate / fps
    once = turned < math.tau if rng.random() < 0.6 else np.ones(frames, bool)
    look = np.zeros((frames, 2))
    look[:, 0] = np.where(once, rng.choice((-1.0, 1.0)) * rate / fps, 0.0)
    return look


def _rising(rng: np.random.Generator, frames: int, fps: float) -> NDArray[np.float64]:
    up = np.zeros(frames)
    for piece in _segments(rng, frames, fps, 0.4, 3.0):
        up[piece] = rng.choice((1.0, -1.0, 0.0), p=(0.40, 0.35, 0.25))
    return up


def _out_and_back(
    rng: np.random.Generator, frames: int, fps: float
) -> tuple[Axes, NDArray[np.bool_], Axes]:
    """Leave and return: backwards along the same way, or by turning round half way."""
    axes, run, look = np.zeros((frames, 3)), np.zeros(frames, bool), np.zeros((frames, 2))
    half = frames // 2
    if rng.random() < 0.5:
        out, out_run = _held_keys(rng, half, fps)
        turns = _looks(rng, half, fps, 0.0) if rng.random() < 0.5 else np.zeros((half, 2))
        axes[:half], run[:half], look[:half] = out, out_run, turns
        axes[frames - half :], run[frames - half :] = -out[::-1], out_run[::-1]
        look[frames - half :] = -turns[::-1]
        return axes, run, look
    count = min(max(math.ceil(18), round(rng.uniform(0.4, 1.2) * fps)), max(frames // 2, 1))
    middle = slice((frames - count) // 2, (frames - count) // 2 + count)
    axes[:, 0], run[:] = 1.0, rng.random() < 0.3
    axes[middle, 0] = 0.0
    look[middle, 0] = rng.choice((-1.0, 1.0)) * math.pi / count
    return axes, run, look


def _fields_of_view(rng: np.random.Generator, frames: int, lens: Lens) -> NDArray[np.float64]:
    low, high = lens.mean_deg - lens.spread_deg, lens.mean_deg + lens.spread_deg
    first, last = rng.uniform(low, high, 2)
    if rng.random() >= lens.zoom_share:
        last = first
    return np.radians(np.linspace(first, last, frames))
