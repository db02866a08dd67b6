"""Other conventions become ours: worked out by hand, axis by axis."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from distill import motions
from distill.batches import relative_to_middle
from distill.importers import minwm
from distill.importers.axes import inverse, levelled, rotation_of, to_opencv
from distill.importers.fitting import Fit, fit_intrinsics
from distill.importers.resampling import runs, windows
from distill.importers.scale import metres_per_unit
from distill.importers.tracks import Array, Axes, Track, as_fractions, checked, rigid
from distill.importers.tum import interpolated
from distill.viewpoints import viewpoint_of
from worldmodel.motion import WALK_M_PER_S, Viewpoint

QUARTER = math.sqrt(0.5)


def pose(rotation: object, position: object = (0, 0, 0)) -> Array:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation, position
    return made


def track(cameras: Array, times: object = None, fps: float = 10.0) -> Track:
    count = len(cameras)
    seconds = np.arange(count) / fps if times is None else np.array(times, float)
    lens = np.tile([0.6, 1.05, 0.5, 0.5], (count, 1))
    return Track("t", seconds, cameras, lens, lambda _: iter(()))


def straight(places: object) -> Array:
    """Cameras that stand at those z, looking along z."""
    return np.stack([Viewpoint(z_m=z).camera_from_world() for z in places])  # type: ignore[attr-defined]


def seen(world_from_camera: Array, point: object) -> list[float]:
    """A point of the world in the camera's axes."""
    camera = inverse(world_from_camera) @ np.array([*point, 1.0])  # type: ignore[misc]
    return [round(float(x), 9) + 0.0 for x in camera[:3]]


def test_opengl_looks_along_its_minus_z_and_has_y_up() -> None:
    gl = pose(np.eye(3), (1.0, 2.0, 3.0))
    cv = to_opencv(gl[None], "opengl")[0]
    assert seen(cv, (1, 2, -4)) == [0, 0, 7], (
        "seven units ahead of a camera at z = 3 that looks to -z"
    )
    assert seen(cv, (1, 5, 3)) == [0, -3, 0], "what is above has negative y"
    assert seen(cv, (2, 2, 3)) == [1, 0, 0], "right stays right"


def test_unity_is_left_handed_with_y_up() -> None:
    """Yaw of 90 degrees to the right about y (Unity): the camera looks along its +x."""
    yaw = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    unity = pose(yaw, (0, 2, 0))
    cv = to_opencv(unity[None], "unity")[0]
    assert seen(cv, (5, -2, 0)) == [0, 0, 5], "(5, 2, 0) there is (5, -2, 0) here: ahead"
    assert viewpoint_of(inverse(cv)).yaw_rad == pytest.approx(math.pi / 2)
    assert -viewpoint_of(inverse(cv)).y_m == pytest.approx(2.0), "two units above the ground"
    assert np.linalg.det(cv[:3, :3]) == pytest.approx(1.0), "a mirror would have -1"


def test_unreal_is_left_handed_with_x_ahead_and_z_up() -> None:
    """A camera without rotation looks along x; yaw of 90 degrees about z looks along y, to its right."""
    level = to_opencv(pose(np.eye(3), (100.0, 20.0, 170.0))[None], "unreal")[0]
    assert np.allclose(level[:3, 3], (20, -170, 100)), "right, down, ahead"
    assert np.allclose(level[:3, :3], np.eye(3))
    turned = to_opencv(pose([[0, -1, 0], [1, 0, 0], [0, 0, 1]])[None], "unreal")[0]
    assert viewpoint_of(inverse(turned)).yaw_rad == pytest.approx(math.pi / 2)
    assert np.linalg.det(turned[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize("axes", ["opencv", "opengl", "unity", "unreal"])
def test_every_convention_keeps_distances_and_rigidity(axes: Axes) -> None:
    angles = np.linspace(0, 1, 5)
    poses = np.stack(
        [inverse(Viewpoint(a, 2 * a, -a, a, a / 3).camera_from_world()) for a in angles]
    )
    converted = to_opencv(poses, axes)
    assert np.allclose(rigid(converted), converted)
    assert np.allclose(motions.steps(inverse(converted)), motions.steps(inverse(poses)))


def test_a_quaternion_is_read_as_x_y_z_w() -> None:
    about_y = rotation_of(np.array([0.0, QUARTER, 0.0, QUARTER]))
    assert np.allclose(about_y @ (0, 0, 1), (1, 0, 0)), "90 degrees about y: ahead becomes right"
    with pytest.raises(ValueError, match="not unit length"):
        rotation_of(np.array([1.0, 2.0, 3.0, 4.0]))


def test_the_horizon_is_found_in_any_world_and_the_walk_begins_at_its_origin() -> None:
    walk = [
        Viewpoint(3 + 0.1 * k, -1 - 0.05 * k, 2 + 0.2 * k, 0.7 + 0.05 * k, -0.3 + 0.01 * k)
        for k in range(20)
    ]
    cameras = np.stack([viewpoint.camera_from_world() for viewpoint in walk])
    tilt = pose(rotation_of(np.array([0.36, 0.48, 0.0, 0.8])), (5, -7, 2))
    found = levelled(cameras @ tilt)
    first, last = viewpoint_of(found[0]), viewpoint_of(found[-1])
    assert (first.x_m, first.z_m, first.yaw_rad) == pytest.approx((0, 0, 0), abs=1e-9)
    assert first.pitch_rad == pytest.approx(-0.3) and last.pitch_rad == pytest.approx(-0.11)
    assert last.yaw_rad == pytest.approx(0.95)
    assert (-first.y_m, -last.y_m) == pytest.approx((0, 0.95), abs=1e-9), "heights above the lowest"
    relative = cameras @ inverse(cameras[0])
    assert np.allclose(found @ inverse(found[0]), relative), "what models see has not changed"


def test_without_turns_the_mean_of_the_cameras_tells_what_is_down() -> None:
    tilt = pose(rotation_of(np.array([0.0, 0.0, 0.6, 0.8])))
    found = levelled(straight([0, 1, 2, 3]) @ tilt)
    assert np.allclose(found, straight([0, 1, 2, 3]))


def test_a_walk_that_begins_with_a_look_straight_down_begins_with_yaw_0() -> None:
    views = [Viewpoint(yaw_rad=0.3 * k, pitch_rad=-math.pi / 2 + 0.1 * k) for k in range(8)]
    cameras = np.stack([view.camera_from_world() for view in views])
    tilt = pose(rotation_of(np.array([0.36, 0.48, 0.0, 0.8])))
    assert np.allclose(levelled(cameras @ tilt), cameras)


def test_rounded_poses_are_made_exact_and_what_is_no_rotation_is_refused() -> None:
    exact = np.stack([inverse(Viewpoint(yaw_rad=0.3 * k).camera_from_world()) for k in range(4)])
    mended = rigid(np.round(exact, 3))
    assert np.abs(mended[:, :3, :3] @ mended[:, :3, :3].swapaxes(1, 2) - np.eye(3)).max() < 1e-12
    assert np.abs(mended - exact).max() < 1e-3
    for spoil, message in (
        (lambda p: p[2, :3, :3].__imul__(1.1), "pose 2 cannot be rigid"),
        (lambda p: p[1, :, 0].__imul__(-1), "pose 1 mirrors"),
        (lambda p: p[3, 0].fill(np.nan), "pose 3 holds NaN"),
        (lambda p: p[1, 3].fill(1.0), "pose 1 cannot be rigid"),
    ):
        poses = exact.copy()
        spoil(poses)
        with pytest.raises(ValueError, match=message):
            rigid(poses)


def test_time_that_runs_backwards_and_lenses_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match=r"out of order: frame 2 is at 0\.1 s, frame 1 at 0\.2 s"):
        checked(track(straight([0, 1, 2]), times=[0, 0.2, 0.1]))
    wrong = track(straight([0, 1]))
    wrong.intrinsics[:, 2] = 112.0
    with pytest.raises(ValueError, match="are no lens"):
        checked(wrong)


def test_intrinsics_in_pixels_fractions_or_matrices_are_the_same_lens() -> None:
    want = [0.5, 0.9, 0.5, 0.45]
    k = np.array([[960.0, 0, 960], [0, 972, 486], [0, 0, 1]])
    for given in (k, np.stack([k, k]), np.array([960.0, 972, 960, 486]), np.array(want)):
        assert np.allclose(as_fractions(given, 1920, 1080), want)
    k[0, 1] = 3.0
    with pytest.raises(ValueError, match="skew"):
        as_fractions(k, 1920, 1080)


def test_keys_of_minwm_move_by_eight_hundredths_and_turn_by_three_degrees_per_latent() -> None:
    poses = minwm.walk("w-2, right-10, w*1")
    assert len(poses) == 1 + 4 * 13
    assert np.allclose(poses[8, :3, 3], (0, 0, 0.16))
    assert viewpoint_of(inverse(poses[48])).yaw_rad == pytest.approx(math.radians(30))
    ahead = np.array([math.sin(math.radians(30)), 0, math.cos(math.radians(30))])
    assert np.allclose(poses[-1, :3, 3], np.array([0, 0, 0.16]) + 0.08 * ahead)


@pytest.mark.parametrize(
    ("key", "position"),
    [("w", (0, 0, 0.08)), ("s", (0, 0, -0.08)), ("d", (0.08, 0, 0)), ("a", (-0.08, 0, 0)),
     ("u", (0, -0.08, 0)), ("dn", (0, 0.08, 0))],
)  # fmt: skip
def test_each_moving_key_of_minwm_goes_its_way(key: str, position: tuple[float, ...]) -> None:
    assert np.allclose(minwm.walk(f"{key}*1")[-1, :3, 3], position)


@pytest.mark.parametrize(
    ("key", "yaw", "pitch"),
    [("l", 3, 0), ("j", -3, 0), ("left", -3, 0), ("i", 0, 3), ("k", 0, -3), ("down", 0, -3)],
)
def test_each_turning_key_of_minwm_turns_its_way(key: str, yaw: float, pitch: float) -> None:
    view = viewpoint_of(inverse(minwm.walk(f"{key}*1")[-1]))
    assert np.degrees([view.yaw_rad, view.pitch_rad]) == pytest.approx((yaw, pitch), abs=1e-9)


def test_a_trajectory_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match="'q\\*3' is no key and count"):
        minwm.walk("w*2,q*3")


def test_an_image_between_two_poses_gets_the_pose_in_between() -> None:
    rows = np.array(
        [
            [10.00, 0, 0, 0, 0, 0, 0, 1],
            [10.04, 0, 0, 2, 0, math.sin(0.1), 0, math.cos(0.1)],
            [10.50, 0, 0, 9, 0, 0, 0, 1],
        ]
    )
    kept, poses = interpolated(rows, np.array([9.0, 10.0, 10.01, 10.3, 11.0]))
    assert kept.tolist() == [1, 2], "0.46 s without a pose are too many, and ends are ends"
    assert np.allclose(poses[1, :3, 3], (0, 0, 0.5))
    assert viewpoint_of(inverse(poses[1])).yaw_rad == pytest.approx(0.05, abs=1e-4)


def test_a_point_stays_where_it_is_in_the_picture_when_that_is_cut_and_resized() -> None:
    """The same point of the world, painted and projected, before and after."""
    for source, widest in (((300, 400), None), ((200, 640), None), ((360, 640), 50.0)):
        height, width = source
        lens = np.array([0.7, 0.7 * width / height, 0.52, 0.47])
        point = np.array([0.12, -0.06, 1.0])
        frame = np.zeros((height, width, 3), np.uint8)
        x, y = (lens[0] * point[0] + lens[2]) * width, (lens[1] * point[1] + lens[3]) * height
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8.0**2))
        frame[:] = spot[..., None].astype(np.uint8)
        fit = Fit(128, 224, widest)
        box = fit.box(width, height, lens[0])
        small = fit.frame(frame, box).astype(float)[..., 0]
        assert small.shape == (128, 224)
        after = fit_intrinsics(lens, width, height, box)
        rows, columns = np.mgrid[0:128, 0:224] + 0.5
        found = (small * columns).sum() / small.sum(), (small * rows).sum() / small.sum()
        expected = (after[:2] * point[:2] + after[2:]) * (224, 128)
        assert found == pytest.approx(tuple(expected), abs=0.15), source
        if widest is not None:
            across = math.degrees(2 * math.atan(0.5 / after[0]))
            assert across == pytest.approx(widest, abs=0.3)


def test_square_pixels_stay_square_and_a_zoom_stays_a_zoom() -> None:
    lens = np.array([[0.5, 0.5 * 16 / 9, 0.5, 0.5], [1.0, 16 / 9, 0.5, 0.5]])
    box = Fit(128, 224).box(1920, 1080, 0.5)
    after = fit_intrinsics(lens, 1920, 1080, box)
    pixels = after[:, :2] * (224, 128)
    assert np.allclose(pixels[:, 0], pixels[:, 1], rtol=2e-3)
    assert np.allclose(after[1, :2] / after[0, :2], 2.0)


def test_a_source_unit_is_as_long_as_makes_its_walk_ours() -> None:
    slow = track(straight(0.03 * np.arange(20)), fps=10.0)  # 0.3 units a second
    assert metres_per_unit([slow]) == pytest.approx(WALK_M_PER_S / 0.3)
    resting = np.concatenate([np.zeros(30), 0.03 * np.arange(20)])
    assert metres_per_unit([track(straight(resting))]) == pytest.approx(WALK_M_PER_S / 0.3)
    assert metres_per_unit([track(straight(np.zeros(5)))]) == 1.0


def test_frames_are_chosen_by_the_clock_and_never_repeated() -> None:
    thirty = track(straight(0.1 * np.arange(31)), fps=30.0)
    assert runs(thirty, 10.0) == [list(range(0, 31, 3))]
    assert runs(thirty, 30.0) == [list(range(31))]
    twelve = runs(thirty, 12.0)[0]
    assert np.abs(np.array(twelve) - 2.5 * np.arange(13)).max() <= 0.5
    assert len(set(twelve)) == 13
    with pytest.raises(ValueError, match="30 frames a second, 60 are wanted"):
        runs(thirty, 60.0)


def test_a_walk_is_cut_where_frames_are_missing_and_where_the_camera_jumps() -> None:
    times = [0, 0.1, 0.2, 0.3, 0.9, 1.0, 1.1, 1.2]
    assert runs(track(straight(0.1 * np.arange(8)), times), 10.0) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    places = [0, 0.1, 0.2, 0.3, 50, 50.1, 50.2, 50.3]
    assert runs(track(straight(places)), 10.0) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_clips_cover_every_run_and_never_reach_over_a_cut() -> None:
    assert windows([10, 3, 8], 4) == [0, 4, 6, 13, 17]
    assert windows([3], 4) == []
    assert windows([9], 4) == [0, 4], "a clip that would repeat most of another is none"


def test_clips_are_trained_on_from_an_anchor_that_is_level_where_their_middle_camera_stands() -> (
    None
):
    """So down is down in every batch, however far heads are bent, and nothing else has changed."""
    walked = [Viewpoint(2.0 + n, 1.0, -3.0, 0.5 + 0.1 * n, 0.1 * n - 0.4) for n in range(9)]
    cameras = np.stack([viewpoint.camera_from_world() for viewpoint in walked])
    found = [viewpoint_of(camera) for camera in relative_to_middle(cameras)]
    middle = walked[4]
    assert astuple(found[4]) == pytest.approx((0.0, 0.0, 0.0, 0.0, middle.pitch_rad), abs=1e-12)
    for ours, theirs in zip(found, walked, strict=True):
        assert ours.pitch_rad == pytest.approx(theirs.pitch_rad)
        assert ours.yaw_rad == pytest.approx(theirs.yaw_rad - middle.yaw_rad)
        assert ours.y_m == pytest.approx(theirs.y_m - middle.y_m)
    steps = relative_to_middle(cameras)[1:] @ np.linalg.inv(relative_to_middle(cameras)[:-1])
    np.testing.assert_allclose(steps, cameras[1:] @ np.linalg.inv(cameras[:-1]), atol=1e-12)


def test_a_middle_camera_that_looks_straight_down_has_a_level_anchor_too() -> None:
    camera = Viewpoint(1.0, 2.0, 3.0, 0.0, -math.pi / 2).camera_from_world()
    anchored = relative_to_middle(camera[None])[0]
    np.testing.assert_allclose(anchored[:3, 3], 0.0, atol=1e-9)
    np.testing.assert_allclose(np.abs(anchored[2, 1]), 1.0)  # it still looks along the vertical
