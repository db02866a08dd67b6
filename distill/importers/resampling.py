"""Which frames of a track make clips of a steady rate: no frame is blended, each keeps its own pose."""

from __future__ import annotations

import numpy as np

from distill import motions
from distill.importers.tracks import Array, Track

SAME_RATE = 0.05  # a source this close to the wanted rate is taken as it is
GAP = 1.75  # periods without a frame: the walk is cut there


def runs(track: Track, frames_per_second: float) -> list[list[int]]:
    """Indices of frames at `frames_per_second`, cut where time or the camera jumps.

    Raises:
        ValueError: if the source has fewer frames a second than are wanted.
    """
    if len(track.times_s) < 2:
        return [[0]]
    period = 1.0 / frames_per_second
    source_period = float(np.median(np.diff(track.times_s)))
    if source_period > period * (1 + SAME_RATE):
        raise ValueError(
            f"it has {1 / source_period:.3g} frames a second, {frames_per_second:g} are wanted;"
            " choose a smaller --fps"
        )
    if source_period > period * (1 - SAME_RATE):
        chosen = np.arange(len(track.times_s))
    else:
        chosen = _nearest(track.times_s, period)
    gaps = np.diff(track.times_s[chosen]) > GAP * max(period, source_period)
    distances = motions.steps(track.cameras[chosen])
    jumps = distances > motions.JUMP * max(motions.typical(distances), 1e-9)
    cuts = np.flatnonzero(gaps | jumps) + 1
    return [part.tolist() for part in np.split(chosen, cuts)]


def _nearest(times: Array, period: float) -> np.ndarray:
    """The frames nearest to the ticks of a clock that begins with the first frame."""
    ticks = np.arange(times[0], times[-1] + period / 2, period)
    after = np.searchsorted(times, ticks).clip(1, len(times) - 1)
    earlier = ticks - times[after - 1] < times[after] - ticks
    chosen: np.ndarray = np.unique(np.where(earlier, after - 1, after))
    return chosen


def windows(lengths: list[int], frames: int) -> list[int]:
    """Where clips of `frames` begin in runs of those lengths laid end to end.

    The last clip of a run ends with it and overlaps the one before, if at least half of it is new.
    """
    starts: list[int] = []
    first = 0
    for length in lengths:
        if length >= frames:
            begin = list(range(0, length - frames + 1, frames))
            if length - (begin[-1] + frames) >= (frames + 1) // 2:
                begin.append(length - frames)
            starts += [first + start for start in begin]
        first += length
    return starts
