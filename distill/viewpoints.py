"""Poses back to viewpoints, so that a player can go on from where a clip stands."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from worldmodel.motion import Viewpoint


def viewpoint_of(camera_from_world: NDArray[np.float64]) -> Viewpoint:
    """The viewpoint whose pose this is: the inverse of `Viewpoint.camera_from_world`."""
    world_from_camera = camera_from_world[:3, :3].T
    x, y, z = -world_from_camera @ camera_from_world[:3, 3]
    ahead = world_from_camera[:, 2]
    yaw = math.atan2(ahead[0], ahead[2])
    return Viewpoint(float(x), float(y), float(z), yaw, math.asin(min(max(-ahead[1], -1.0), 1.0)))
