"""Does the picture move as the camera was told to: measured motion against commanded motion.

The measuring itself errs, so it is done for the true frames too, and what it finds there stands beside.
A commanded pose holds no ground (docs/decisions.md): where the ground rises, a true camera rises too,
so the direction of travel is compared in the horizontal plane (the heading) as well as in space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.camera_motion import CameraMotion, camera_motion
from distill.evaluate import Truth
from worldmodel.autoencoder import frames_to_float

MOVING_M = 0.05  # a frame; below it there is no direction to find
PARALLAX_PX = 0.7  # of the true frames; below it nobody can tell the direction
TRACKED = 0.25  # share of corners followed in the true frames


@dataclass(frozen=True, slots=True)
class Commanded:
    """What the camera was told to do between pairs of neighbouring frames of some clips."""

    clip: Tensor  # [n]
    frame: Tensor  # [n] the first of each pair
    rotation: Tensor  # float32 [n 3 3] after_from_before
    travel: Tensor  # float32 [n 3] metres, in the axes of the camera before
    world_from_camera: Tensor  # float32 [n 3 3] rotation of the camera before
    focal_before: Tensor  # float32 [n 2] pixels
    focal_after: Tensor


def commanded(truth: Truth, first: int, pairs: int) -> Commanded:
    """The motion at `pairs` moments of every clip, spread evenly from frame `first` to its end."""
    device, (clips, frames) = truth.frames.device, truth.frames.shape[:2]
    moments = torch.linspace(first, frames - 2, min(pairs, frames - 1 - first)).round().long()
    clip = torch.arange(clips).repeat_interleave(len(moments))
    frame = moments.repeat(clips)
    cameras = truth.views.cameras.double().cpu()
    before, after = cameras[clip, frame], cameras[clip, frame + 1]
    relative = after @ torch.linalg.inv(before)
    rotation = relative[:, :3, :3]
    travel = -(rotation.mT @ relative[:, :3, 3:])[..., 0]
    size = torch.tensor([truth.frames.shape[3], truth.frames.shape[2]])
    lenses = truth.views.intrinsics[..., :2].cpu() * size

    def placed(x: Tensor) -> Tensor:
        return x.float().to(device)

    return Commanded(
        clip=clip.to(device),
        frame=frame.to(device),
        rotation=placed(rotation),
        travel=placed(travel),
        world_from_camera=placed(before[:, :3, :3].mT),
        focal_before=placed(lenses[clip, frame]),
        focal_after=placed(lenses[clip, frame + 1]),
    )


def measured(frames: Tensor, told: Commanded) -> CameraMotion:
    """The motion that frames, uint8 [b f H W 3], show at the moments of `told`."""
    before = frames_to_float(frames[told.clip, told.frame])
    after = frames_to_float(frames[told.clip, told.frame + 1])
    return camera_motion(before, after, told.focal_before, told.focal_after)


def camera_error(found: CameraMotion, told: Commanded, true: CameraMotion) -> dict[str, float]:
    """Errors in degrees: mean, and median where a few misreadings weigh most.

    Directions are compared where the camera moves and where `true`, the motion measured in the true
    frames, rests on enough parallax and tracks.
    """
    rotation = angle_deg(found.rotation @ told.rotation.mT)
    clear = (true.parallax_px > PARALLAX_PX) & (true.tracked > TRACKED)
    direction = between_deg(found.direction, told.travel)
    moving = clear & (told.travel.norm(dim=-1) > MOVING_M)
    ground = [_on_the_ground(told, vector) for vector in (found.direction, told.travel)]
    heading = between_deg(*ground)
    walking = clear & (ground[1].norm(dim=-1) > MOVING_M)
    return {
        "pairs": len(rotation),
        "tracked": round(float(found.tracked.mean()), 3),
        **_summary("rotation", rotation),
        "pairs_with_direction": int(moving.sum()),
        **_summary("direction", direction[moving]),
        "pairs_with_heading": int(walking.sum()),
        **_summary("heading", heading[walking]),
    }


def _summary(name: str, degrees: Tensor) -> dict[str, float]:
    if not len(degrees):
        return {}
    return {
        f"{name}_error_deg": round(float(degrees.mean()), 3),
        f"{name}_error_median_deg": round(float(degrees.median()), 3),
    }


def angle_deg(rotation: Tensor) -> Tensor:
    """The angle of rotations [... 3 3]; exact for small ones, where an arc cosine is not."""
    chord = (rotation - torch.eye(3, device=rotation.device)).flatten(-2).norm(dim=-1)
    return torch.rad2deg(2 * torch.asin((chord / 8**0.5).clamp_max(1.0)))


def between_deg(a: Tensor, b: Tensor) -> Tensor:
    """The angle between vectors [... 3]."""
    across = torch.linalg.cross(a, b).norm(dim=-1)
    return torch.rad2deg(torch.atan2(across, (a * b).sum(-1)))


def _on_the_ground(told: Commanded, vector: Tensor) -> Tensor:
    """A vector of the camera before, in the world's horizontal plane."""
    in_world = (told.world_from_camera @ vector[..., None])[..., 0]
    return in_world * torch.tensor([1.0, 0.0, 1.0], device=vector.device)
