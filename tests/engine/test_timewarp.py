"""Looking around between two frames: the warp against true pictures of both cameras."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace

import moderngl
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.timewarp import NO_WARP, frame_from_view, uncovered
from engine.viewer import Viewer
from worldmodel.motion import Viewpoint, world_from_camera_rotation
from worldmodel.types import Camera, Intrinsics

LENS = Intrinsics.from_field_of_view(math.radians(80.0), 224, 128)
SOURCE, SCREEN = (224, 128), (448, 256)


@pytest.fixture(scope="module")
def context() -> Iterator[moderngl.Context]:
    if sys.platform != "linux":
        pytest.skip("needs EGL to draw off screen")
    context = moderngl.create_context(require=330, standalone=True, backend="egl")  # type: ignore[arg-type]
    yield context
    context.release()


@pytest.fixture
def viewer(context: moderngl.Context) -> Iterator[Viewer]:
    with context:
        yield Viewer(context, sharpness=0.0)


def camera(yaw_deg: float, pitch_deg: float = 0.0, lens: Intrinsics = LENS) -> Camera:
    viewpoint = Viewpoint(yaw_rad=math.radians(yaw_deg), pitch_rad=math.radians(pitch_deg))
    return Camera(viewpoint.camera_from_world(), lens)


def picture(seen_from: Camera, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What a camera sees of a world that is infinitely far away: colours by direction."""
    x = (np.arange(size[0]) + 0.5) / size[0]
    y = (np.arange(size[1]) + 0.5) / size[1]
    lens = seen_from.intrinsics
    across, down = np.meshgrid((x - lens.cx) / lens.fx, (y - lens.cy) / lens.fy)
    rays = np.stack([across, down, np.ones_like(across)], axis=-1)
    world = rays @ seen_from.camera_from_world[:3, :3]  # world_from_camera, applied to rows
    world /= np.linalg.norm(world, axis=-1, keepdims=True)
    yaw, pitch = np.arctan2(world[..., 0], world[..., 2]), -np.arcsin(world[..., 1])
    waves = [np.sin(9 * yaw + 3 * pitch), np.sin(14 * pitch + 1), np.cos(7 * yaw - 11 * pitch)]
    return np.asarray(np.round(127.5 + 110 * np.stack(waves, axis=-1)), np.uint8)


def psnr(seen: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    error = np.mean((seen.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / error))


def covered(frame: Camera, view: Camera) -> NDArray[np.bool_]:
    """Which pixels of the screen the frame has something for."""
    x = (np.arange(SCREEN[0]) + 0.5) / SCREEN[0]
    y = (np.arange(SCREEN[1]) + 0.5) / SCREEN[1]
    points = np.stack([*np.meshgrid(x, y), np.ones(SCREEN[::-1])], axis=-1)
    seen = points @ frame_from_view(frame, view).T
    uv = seen[..., :2] / seen[..., 2:]
    return np.asarray(np.all((uv >= 0) & (uv <= 1), axis=-1), np.bool_)


@pytest.mark.parametrize(
    ("yaw", "pitch"), [(5, 0), (-5, 0), (0, 5), (0, -5), (4, 3), (12, -7)], ids=str
)
def test_a_warped_frame_is_what_the_turned_camera_would_have_seen(
    viewer: Viewer, yaw: float, pitch: float
) -> None:
    generated, now = camera(20, 10), camera(20 + yaw, 10 + pitch)
    viewer.show(picture(generated, SOURCE))
    truth, inside = picture(now, SCREEN), covered(generated, now)
    warped = viewer.capture(SCREEN, frame_from_view(generated, now))
    unwarped = viewer.capture(SCREEN)
    assert inside.mean() > 0.7
    assert psnr(warped[inside], truth[inside]) > 38
    assert psnr(unwarped[inside], truth[inside]) < 25


def test_a_narrower_lens_enlarges_the_middle(viewer: Viewer) -> None:
    tele = replace(LENS, fx=1.5 * LENS.fx, fy=1.5 * LENS.fy)
    generated, now = camera(0), camera(0, lens=tele)
    viewer.show(picture(generated, SOURCE))
    zoomed = viewer.capture(SCREEN, frame_from_view(generated, now))
    assert psnr(zoomed, picture(now, SCREEN)) > 38


def test_turning_right_moves_the_picture_left_and_looking_up_moves_it_down() -> None:
    middle = np.array([0.5, 0.5, 1.0])
    right = frame_from_view(camera(0), camera(5)) @ middle
    assert right[0] / right[2] > 0.55  # the view's middle shows what lay right in the frame
    up = frame_from_view(camera(0), camera(0, 5)) @ middle
    assert up[1] / up[2] < 0.45


def test_the_same_camera_is_no_warp_at_all() -> None:
    moved = Viewpoint(x_m=3.0, y_m=-1.0, z_m=2.0, yaw_rad=0.3, pitch_rad=0.1)
    rotation = world_from_camera_rotation(0.3, 0.1)
    assert np.array_equal(moved.camera_from_world()[:3, :3], rotation.T)
    same_look = Camera(replace(moved, z_m=5.0).camera_from_world(), LENS)
    assert frame_from_view(Camera(moved.camera_from_world(), LENS), same_look) is NO_WARP


def test_warping_by_the_identity_changes_no_bit(viewer: Viewer) -> None:
    viewer.show(picture(camera(0), SOURCE))
    assert np.array_equal(viewer.capture(SCREEN), viewer.capture(SCREEN, np.eye(3)))


def test_there_and_back_again_is_where_one_began() -> None:
    one, other = camera(10, -20), camera(35, 5, lens=replace(LENS, fx=0.9, fy=1.4))
    there_and_back = frame_from_view(one, other) @ frame_from_view(other, one)
    assert there_and_back / there_and_back[2, 2] == pytest.approx(np.eye(3), abs=1e-12)


def test_beyond_the_rim_the_picture_goes_on_softly(viewer: Viewer) -> None:
    generated, now = camera(0), camera(30)
    viewer.show(picture(generated, SOURCE))
    seen = viewer.capture(SCREEN, frame_from_view(generated, now)).astype(float)
    inside = covered(generated, now)
    row = SCREEN[1] // 2
    rim = int(np.flatnonzero(inside[row])[-1])
    assert rim < SCREEN[0] - 60
    assert np.abs(seen[row, rim + 2] - seen[row, rim - 1]).max() < 12  # no seam
    vertical = np.abs(np.diff(seen, axis=0)).mean(axis=(0, 2))
    assert vertical[-1] < 0.6 * vertical[rim]  # blurred along the rim, not streaked
    assert seen[:, -1].max() > 40  # and not black


@pytest.mark.parametrize(
    ("yaw", "pitch"), [(0.5, 0), (10, 0), (-10, 4), (25, -20), (-40, 30), (70, 0), (120, 10)]
)
def test_every_pixel_the_frame_does_not_reach_lies_in_a_strip_that_is_drawn(
    viewer: Viewer, yaw: float, pitch: float
) -> None:
    generated, now = camera(0, 5), camera(yaw, 5 + pitch)
    warp = frame_from_view(generated, now)
    bare = ~covered(generated, now)
    x = (np.arange(SCREEN[0]) + 0.5) / SCREEN[0]
    y = (np.arange(SCREEN[1]) + 0.5) / SCREEN[1]
    across, down = np.meshgrid(x, y)
    in_a_strip = np.zeros_like(bare)
    for left, top, right, bottom in uncovered(warp):
        in_a_strip |= (across >= left) & (across <= right) & (down >= top) & (down <= bottom)
    assert not np.any(bare & ~in_a_strip)
    viewer.show(np.full((*SOURCE[::-1], 3), 200, np.uint8))
    assert viewer.capture(SCREEN, warp).min() > 30  # nothing was left black


def test_bars_stay_dark_when_the_view_turns(viewer: Viewer, context: moderngl.Context) -> None:
    viewer.show(np.full((*SOURCE[::-1], 3), 200, np.uint8))
    target = context.simple_framebuffer((300, 300), components=4)
    viewer.draw(target, (300, 300), 1.0, frame_from_view(camera(0), camera(20, 10)))
    picture = np.frombuffer(target.read(components=4), np.uint8).reshape(300, 300, 4)[..., :3]
    assert picture[:60].max() < 20 and picture[-60:].max() < 20 and picture[150].min() > 30


def test_a_view_from_behind_is_drawn_without_trouble(viewer: Viewer) -> None:
    viewer.show(picture(camera(0), SOURCE))
    assert np.isfinite(viewer.capture(SCREEN, frame_from_view(camera(0), camera(179)))).all()
