"""How long a unit of the source is, so that the keys feel the same in every model.

Reconstructions have no scale of their own, and a game's unit may be anything. The player of this program
walks at 2.4 m/s; so the unit is taken to be as long as makes the source's typical motion that walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from distill import motions
from distill.importers.tracks import Track
from worldmodel.motion import WALK_M_PER_S

How = Literal["keep", "walk", "walk-each", "given"]


@dataclass(frozen=True, slots=True)
class Scale:
    """What was found; it goes into the manifest."""

    how: How
    metres_per_unit: float  # with `walk-each` the median over the tracks
    units_per_second: float  # typical speed of what moves, before scaling; 0 if nothing does


def typical_speed(tracks: Sequence[Track]) -> float:
    """Units per second: the median over all frames in which a camera moves."""
    speeds = [motions.steps(track.cameras) / np.diff(track.times_s) for track in tracks]
    return motions.typical(np.concatenate(speeds)) if speeds else 0.0


def metres_per_unit(tracks: Sequence[Track]) -> float:
    """1 if nothing moves: then no length can be seen, and none matters."""
    speed = typical_speed(tracks)
    return WALK_M_PER_S / speed if speed > 0.0 else 1.0
