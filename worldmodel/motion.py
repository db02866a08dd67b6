"""First-person motion: commands move a viewpoint, a viewpoint is a camera pose.

Pure and numpy-only. The engine's controls and the training data's trajectories both go through
`advance`, so a model is trained on exactly the poses that play can produce.

The conditioning pose of the shipped worlds is a *commanded* one: horizontal position, height above
the ground and the two look angles. The ground itself is not in the pose. The renderer adds it (and
the network learns it), because the engine knows no terrain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldmodel.types import MotionLimits

WALK_M_PER_S = 2.4
RUN_FACTOR = 2.0
KEY_LOOK_RAD_PER_S = math.radians(50.0)
MAX_PITCH_RAD = math.radians(60.0)


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Where the player stands and looks; roll does not exist here, so it cannot accumulate."""

    x_m: float = 0.0
    y_m: float = 0.0  # down is positive, as in the camera's axes: height is -y
    z_m: float = 0.0
    yaw_rad: float = 0.0  # positive turns right
    pitch_rad: float = 0.0  # positive looks up

    def camera_from_world(self) -> NDArray[np.float64]:
        """The pose as a (4, 4) rigid transform, OpenCV axes, metres."""
        rotation = world_from_camera_rotation(self.yaw_rad, self.pitch_rad).T
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = -rotation @ np.array([self.x_m, self.y_m, self.z_m])
        return pose


def world_from_camera_rotation(yaw_rad: float, pitch_rad: float) -> NDArray[np.float64]:
    """Yaw about the world's vertical, then pitch about the camera's own right axis: (3, 3)."""
    cy, sy = math.cos(yaw_rad), math.sin(yaw_rad)
    cp, sp = math.cos(pitch_rad), math.sin(pitch_rad)
    yaw = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    pitch = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    return yaw @ pitch


@dataclass(frozen=True, slots=True)
class Command:
    """What the player asks for during one frame."""

    forward: float = 0.0  # each axis in [-1, 1]; analogue sticks give values between
    right: float = 0.0
    up: float = 0.0
    run: bool = False
    yaw_rad: float = 0.0  # look increments of this frame, positive right and up
    pitch_rad: float = 0.0


def advance(
    viewpoint: Viewpoint, command: Command, frames_per_second: float, limits: MotionLimits
) -> Viewpoint:
    """Move by one frame of the world's clock, inside the motion the model knows.

    Walking follows the yaw, never the pitch: looking up does not lift the player. Diagonals are as
    fast as straight lines. Look increments are clamped together, so their direction is kept.
    """
    speed = WALK_M_PER_S * (RUN_FACTOR if command.run else 1.0)
    step_m = min(speed / frames_per_second, limits.translation_m_per_frame)
    forward, right, up = _unit_ball(command.forward, command.right, command.up)
    yaw_step, pitch_step = clamp_look(command.yaw_rad, command.pitch_rad, limits)

    turned = turn(viewpoint, yaw_step, pitch_step)
    yaw = turned.yaw_rad
    lowest, highest = limits.height_m
    height = min(max(-viewpoint.y_m + up * step_m, lowest), highest)
    return replace(
        turned,
        x_m=viewpoint.x_m + step_m * (right * math.cos(yaw) + forward * math.sin(yaw)),
        y_m=-height,
        z_m=viewpoint.z_m + step_m * (forward * math.cos(yaw) - right * math.sin(yaw)),
    )


def turn(viewpoint: Viewpoint, yaw_rad: float, pitch_rad: float) -> Viewpoint:
    """Look elsewhere from the same place: yaw wraps around, pitch stops at its limit."""
    pitch = min(max(viewpoint.pitch_rad + pitch_rad, -MAX_PITCH_RAD), MAX_PITCH_RAD)
    yaw = math.remainder(viewpoint.yaw_rad + yaw_rad, math.tau)
    return replace(viewpoint, yaw_rad=yaw, pitch_rad=pitch)


def clamp_look(yaw_rad: float, pitch_rad: float, limits: MotionLimits) -> tuple[float, float]:
    """Shorten a look increment to the limit, keeping its direction."""
    length = math.hypot(yaw_rad, pitch_rad)
    if length <= limits.rotation_rad_per_frame:
        return yaw_rad, pitch_rad
    scale = limits.rotation_rad_per_frame / length
    return yaw_rad * scale, pitch_rad * scale


def _unit_ball(*axes: float) -> tuple[float, ...]:
    length = math.sqrt(sum(axis * axis for axis in axes))
    return tuple(axis / max(length, 1.0) for axis in axes)
