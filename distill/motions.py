"""How far cameras move and turn from frame to frame: what statistics, scale and limits are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STILL = 0.05  # of the longer steps: a shorter step is a camera that rests
JUMP = 20.0  # times the typical step: no walk but another place


def positions(cameras: Array) -> Array:
    """camera_from_world [... 4 4] -> where the cameras are, [... 3]."""
    rotation, translation = cameras[..., :3, :3], cameras[..., :3, 3]
    return -np.einsum("...ij,...i->...j", rotation, translation)


def steps(cameras: Array) -> Array:
    """Distances [... f-1] between the cameras [... f 4 4] of a clip."""
    return np.linalg.norm(np.diff(positions(cameras), axis=-2), axis=-1)


def turns_rad(cameras: Array) -> Array:
    """Angles [... f-1] between the cameras [... f 4 4] of a clip, whatever the axis."""
    before, after = cameras[..., :-1, :3, :3], cameras[..., 1:, :3, :3]
    between = np.einsum("...ij,...kj->...ik", after, before)
    # |R - 1| = 2 sqrt(2) sin(angle / 2), which keeps its precision where the cosine loses it
    chord = np.linalg.norm(between - np.eye(3), axis=(-2, -1)) / (2 * np.sqrt(2))
    return 2 * np.arcsin(np.minimum(chord, 1.0))


def typical(distances: Array) -> float:
    """The median of those that are no rest; 0 if nothing moves. A few jumps do not change it."""
    positive = distances[distances > 1e-9]
    if not positive.size:
        return 0.0
    return float(np.median(positive[positive > STILL * np.percentile(positive, 75)]))


__all__ = ["JUMP", "positions", "steps", "turns_rad", "typical"]
