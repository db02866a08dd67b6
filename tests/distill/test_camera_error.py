"""The measured motion of a camera, against scenes whose geometry is known exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.camera_error import angle_deg, between_deg, camera_error, commanded, measured
from distill.camera_motion import camera_motion, rotation_matrix
from distill.evaluate import Truth
from distill.features import Ruler
from distill.metrics import ssim
from distill.rollout import Views
from tests.worldmodel import tiny
from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.types import MotionLimits

WIDTH, HEIGHT, FOCAL = 224, 128, 133.0
ROOM = torch.tensor([5.0, 1.7, 7.0])  # half of its sides, metres; the walker stands in the middle


def _room(camera_from_world: Tensor, focal: float = FOCAL) -> Tensor:
    """A room of solid texture, ray by ray: uint8 [H W 3]."""
    xs, ys = torch.meshgrid(torch.arange(WIDTH), torch.arange(HEIGHT), indexing="xy")
    flat = torch.stack([(xs - 111.5) / focal, (ys - 63.5) / focal, torch.ones(HEIGHT, WIDTH)], -1)
    rotation, position = camera_from_world[:3, :3], camera_from_world[:3, 3]
    rays = flat.double() @ rotation  # row vectors times R are R^T times columns
    eye = -rotation.T @ position
    distance = ((rays.sign() * ROOM - eye) / rays).amin(-1, keepdim=True)
    hit = eye + distance * rays
    random = torch.Generator().manual_seed(0)
    waves = torch.randn(40, 3, generator=random).double() * 4.0
    phases = torch.rand(40, generator=random).double() * math.tau
    colours = torch.randn(40, 3, generator=random).double() / 40**0.5
    light = torch.sin(hit @ waves.T + phases) @ colours
    return (light * 70 + 128).clamp(0, 255).byte()


def _clip(command: Command, frames: int = 3) -> list[Tensor]:
    limits = MotionLimits(0.6, math.radians(10.0), (0.0, 12.0))
    viewpoint = Viewpoint(yaw_rad=0.3, pitch_rad=-0.1)
    cameras = []
    for _ in range(frames):
        cameras.append(torch.from_numpy(viewpoint.camera_from_world()))
        viewpoint = advance(viewpoint, command, 12.0, limits)
    return cameras


def _truth(command: Command) -> Truth:
    cameras = _clip(command)
    intrinsics = torch.tensor([FOCAL / WIDTH, FOCAL / HEIGHT, 0.5, 0.5])
    return Truth(
        frames=torch.stack([_room(camera) for camera in cameras])[None],
        latents=torch.zeros(1, 3, 1, 1),
        views=Views(
            cameras=torch.stack(cameras)[None],
            intrinsics=intrinsics.expand(1, 3, 4),
            words=torch.zeros(1, 1),
        ),
    )


MOTIONS = {
    "forward": Command(forward=1.0),
    "back, running": Command(forward=-1.0, run=True),
    "right": Command(right=1.0),
    "left and forward": Command(forward=1.0, right=-1.0),
    "forward, turning right": Command(forward=1.0, yaw_rad=math.radians(6.0)),
    "right, turning left": Command(right=1.0, yaw_rad=math.radians(-4.0)),
    "up and forward, looking up": Command(forward=1.0, up=1.0, pitch_rad=math.radians(3.0)),
}


@pytest.mark.parametrize("name", MOTIONS)
def test_the_motion_of_a_walker_is_read_from_the_pictures(name: str) -> None:
    truth = _truth(MOTIONS[name])
    told = commanded(truth, 0, 2)
    found = measured(truth.frames, told)
    error = camera_error(found, told, found)
    assert error["pairs_with_direction"] == 2
    assert error["rotation_error_deg"] < 0.2
    assert error["direction_error_deg"] < 5.0
    assert error["heading_error_deg"] < 3.0


@pytest.mark.parametrize("degrees", [0.0, 1.0, -10.0])
def test_a_turn_on_the_spot_is_read_and_has_no_direction(degrees: float) -> None:
    truth = _truth(Command(yaw_rad=math.radians(degrees)))
    told = commanded(truth, 0, 2)
    found = measured(truth.frames, told)
    error = camera_error(found, told, found)
    assert error["rotation_error_deg"] < 0.1
    assert error["pairs_with_direction"] == 0
    assert "direction_error_deg" not in error


def test_a_zoom_is_not_taken_for_motion() -> None:
    camera = _clip(Command())[0]
    frames = [
        _room(camera, focal)[None].permute(0, 3, 1, 2).float() / 127.5 - 1 for focal in (133, 140)
    ]
    focal = [torch.full((1, 2), float(f)) for f in (133, 140)]
    found = camera_motion(*frames, *focal)
    assert float(angle_deg(found.rotation)) < 0.1
    assert float(found.parallax_px) < 0.3


def test_a_picture_that_ignores_its_commands_is_found_out() -> None:
    truth, still = _truth(MOTIONS["forward, turning right"]), _truth(Command())
    told = commanded(truth, 0, 2)
    true = measured(truth.frames, told)
    error = camera_error(measured(still.frames, told), told, true)
    assert error["rotation_error_deg"] == pytest.approx(6.0, abs=0.1)
    strafing = _truth(MOTIONS["right, turning left"])
    error = camera_error(measured(strafing.frames, told), told, true)
    assert error["rotation_error_deg"] == pytest.approx(10.0, abs=0.2)
    assert error["heading_error_deg"] > 60


def test_a_hill_changes_the_direction_but_not_the_heading() -> None:
    truth = _truth(MOTIONS["forward"])
    told = commanded(truth, 0, 2)
    true = measured(truth.frames, told)
    up = torch.tensor([0.0, -0.3, 0.0]) @ told.world_from_camera[0]
    climbing = replace(true, direction=torch.nn.functional.normalize(true.direction + up, dim=-1))
    error = camera_error(climbing, told, true)
    assert error["direction_error_deg"] > 12
    assert error["heading_error_deg"] < 2.0


def test_small_angles_are_exact() -> None:
    tiny = rotation_matrix(torch.tensor([0.0, math.radians(0.01), 0.0]))
    assert float(angle_deg(tiny)) == pytest.approx(0.01, rel=1e-2)
    assert float(between_deg(torch.tensor([1.0, 0, 0]), torch.tensor([-2.0, 0, 0]))) == 180.0


def test_everything_is_measured_where_the_frames_are() -> None:
    """No tensor of another device is mixed in: meta tensors would not forgive it."""
    frames, focal = torch.rand(2, 3, HEIGHT, WIDTH, device="meta"), torch.rand(2, 2, device="meta")
    found = camera_motion(frames, frames, focal, focal)
    assert found.rotation.device.type == found.parallax_px.device.type == "meta"
    assert ssim(frames, frames).device.type == "meta"
    ruler = Ruler("tiny", tiny.autoencoder().to("meta").encoder)
    assert ruler.distance(frames, frames).device.type == "meta"
    assert ruler.clip_features(frames[None]).shape[0] == 1
