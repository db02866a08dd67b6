"""Conventions of cameras and motion, one sentence each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.worldmodel import tiny
from worldmodel import prope, rope
from worldmodel.attention import attend_all
from worldmodel.motion import MAX_PITCH_RAD, Command, Viewpoint, advance
from worldmodel.types import Camera, Intrinsics, check_rigid

FPS = 12.0


def _moved(**axes: float) -> Viewpoint:
    return advance(Viewpoint(), Command(**axes), FPS, tiny.LIMITS)  # type: ignore[arg-type]


def test_forward_moves_along_plus_z() -> None:
    assert _moved(forward=1.0).z_m > 0


def test_right_moves_along_plus_x() -> None:
    assert _moved(right=1.0).x_m > 0


def test_up_moves_along_minus_y_because_y_points_down() -> None:
    assert _moved(up=1.0).y_m < 0


def test_positive_yaw_turns_right() -> None:
    turned = Viewpoint(yaw_rad=0.1)
    right_of_forward = np.array([1.0, 0, 10.0, 1.0])
    assert (turned.camera_from_world() @ right_of_forward)[0] < 1.0  # it moved towards the middle


def test_positive_pitch_looks_up() -> None:
    above = np.array([0.0, -1.0, 10.0, 1.0])
    assert (Viewpoint(pitch_rad=0.1).camera_from_world() @ above)[1] > -1.0


def test_forward_follows_the_yaw() -> None:
    moved = advance(Viewpoint(yaw_rad=math.pi / 2), Command(forward=1.0), FPS, tiny.LIMITS)
    assert moved.x_m > 0.1
    assert abs(moved.z_m) < 1e-9


def test_looking_up_does_not_lift_the_walker() -> None:
    moved = advance(Viewpoint(pitch_rad=0.5), Command(forward=1.0), FPS, tiny.LIMITS)
    assert moved.y_m == 0


def test_diagonals_are_not_faster() -> None:
    straight, diagonal = _moved(forward=1.0), _moved(forward=1.0, right=1.0)
    assert math.hypot(diagonal.x_m, diagonal.z_m) == pytest.approx(straight.z_m)


def test_pitch_clamps() -> None:
    viewpoint = Viewpoint()
    for _ in range(200):
        viewpoint = advance(viewpoint, Command(pitch_rad=0.1), FPS, tiny.LIMITS)
    assert viewpoint.pitch_rad == MAX_PITCH_RAD


def test_roll_stays_zero() -> None:
    random = np.random.default_rng(0)
    viewpoint = Viewpoint()
    for yaw, pitch in random.uniform(-0.3, 0.3, (500, 2)):
        viewpoint = advance(viewpoint, Command(yaw_rad=yaw, pitch_rad=pitch), FPS, tiny.LIMITS)
        pose = viewpoint.camera_from_world()
        assert abs(pose[0, 1]) < 1e-12  # the camera's right axis stays level
        check_rigid(pose)


def test_motion_stays_inside_the_limits_of_the_model() -> None:
    viewpoint = _moved(forward=1.0, yaw_rad=3.0)
    assert viewpoint.yaw_rad == pytest.approx(tiny.LIMITS.rotation_rad_per_frame)
    slow = advance(Viewpoint(), Command(forward=1.0, run=True), 1.0, tiny.LIMITS)
    assert slow.z_m == pytest.approx(tiny.LIMITS.translation_m_per_frame)


def test_a_pose_that_is_not_rigid_is_refused() -> None:
    pose = np.eye(4)
    pose[0, 0] = 1.1
    with pytest.raises(ValueError, match="not rigid"):
        Camera(pose, tiny.LENS)
    with pytest.raises(ValueError, match="NaN"):
        Camera(np.full((4, 4), np.nan), tiny.LENS)


def test_field_of_view_gives_square_pixels() -> None:
    lens = Intrinsics.from_field_of_view(math.radians(90), 224, 128)
    assert lens.fx == pytest.approx(0.5)
    assert lens.fx * 224 == pytest.approx(lens.fy * 128)


def _random_poses(seed: int, shape: tuple[int, ...], metres: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=random, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    pose = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = metres * torch.randn(*shape, 3, generator=random, dtype=torch.float64)
    return pose


@torch.inference_mode()
def test_outputs_do_not_change_under_a_global_rigid_motion() -> None:
    model = tiny.transformer()
    random = torch.Generator().manual_seed(5)
    latents, sigma = torch.randn(1, 4, 8, 4, generator=random), torch.rand(1, 4, generator=random)
    poses, lens = _random_poses(6, (1, 4), 2.0), torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(1, 4, 4)
    time = torch.arange(4.0)[None]

    def run(cameras: torch.Tensor, start: float) -> torch.Tensor:
        geometry = model.geometry(cameras, lens, time + start)
        kernels = [attend_all] * model.config.layers
        return model(latents, sigma, torch.zeros(1, 1), geometry, kernels)

    base, moved = run(poses, 0.0), run(poses @ _random_poses(7, (1, 1), 3.0), 0.0)
    torch.testing.assert_close(base, moved, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(base, run(poses, 50.0), rtol=1e-3, atol=1e-4)  # nor of time's origin
    other = run(_random_poses(8, (1, 4), 2.0), 0.0)
    assert (other - base).abs().max() > 1e-2  # but they do change with the cameras


def test_the_inverse_undoes_the_projection() -> None:
    poses, lens = _random_poses(1, (2, 3), 1.0), torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(2, 3, 4)
    matrix, inverse = prope.projections(poses, lens, 3.0)
    torch.testing.assert_close(matrix @ inverse, torch.eye(4).expand(2, 3, 4, 4))
    x = torch.randn(2, 3, 5, 2, 8)
    torch.testing.assert_close(
        prope.transform(inverse, prope.transform(matrix, x)), x, rtol=1e-4, atol=1e-4
    )


def test_shifting_time_equals_rotating_there() -> None:
    frequencies, space = rope.frequencies(2, 30.0), torch.rand(5, 2)
    keys = torch.randn(1, 1, 5, 2, 8)
    late = rope.angles(torch.tensor([[9.0]]), frequencies, space)
    early = rope.angles(torch.tensor([[2.0]]), frequencies, space)
    rotated = rope.rotate(keys, late.cos(), late.sin())
    torch.testing.assert_close(
        rope.shift_time(rotated, -7.0, frequencies),
        rope.rotate(keys, early.cos(), early.sin()),
        rtol=1e-4,
        atol=1e-5,
    )
