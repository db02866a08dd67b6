from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.controls import (
    ControlSettings,
    InputSample,
    Player,
    apply_dead_zone,
    look_ahead,
    look_speed,
    mouse_look,
    walk,
)
from worldmodel.motion import KEY_LOOK_RAD_PER_S, MAX_PITCH_RAD

from .fakes import SPEC

SETTINGS = ControlSettings()


def press(*held: str, yaw: float = 0.0, pitch: float = 0.0) -> InputSample:
    return InputSample(held=frozenset(held), look_rad=(yaw, pitch))


def after(*samples: InputSample, settings: ControlSettings = SETTINGS) -> Player:
    player = Player()
    for sample in samples:
        player, _ = walk(player, sample, settings, SPEC)
    return player


def test_w_moves_forward_and_s_back() -> None:
    ahead, behind = after(press("forward")).viewpoint, after(press("back")).viewpoint
    assert ahead.z_m > 0 and ahead.x_m == 0
    assert behind.z_m == -ahead.z_m


def test_d_moves_right_e_up_and_shift_runs() -> None:
    assert after(press("right")).viewpoint.x_m > 0
    assert after(press("up")).viewpoint.y_m < 0  # y points down
    walked, ran = (after(press("forward", *run)).viewpoint.z_m for run in ((), ("run",)))
    assert ran == pytest.approx(2 * walked)


def test_mouse_right_turns_right_and_mouse_up_looks_up() -> None:
    assert mouse_look(10, -20, SETTINGS) == pytest.approx((0.025, 0.05))
    inverted = replace(SETTINGS, invert_mouse=True)
    assert mouse_look(10, -20, inverted) == pytest.approx((0.025, -0.05))
    assert after(press(yaw=0.1)).viewpoint.yaw_rad == pytest.approx(0.1)
    assert after(press(pitch=0.1)).viewpoint.pitch_rad == pytest.approx(0.1)


def test_look_keys_and_the_stick_are_a_speed() -> None:
    assert look_speed({"look_right", "look_up"}, (0.0, 0.0), SETTINGS) == pytest.approx(
        (KEY_LOOK_RAD_PER_S, KEY_LOOK_RAD_PER_S)
    )
    assert look_speed(set(), (-1.0, 0.0), SETTINGS) == pytest.approx((-1.4, 0.0))
    assert look_speed({"look_left", "look_right"}, (0.1, 0.0), SETTINGS) == (0.0, 0.0)


def test_after_turning_right_w_moves_along_the_new_view() -> None:
    quarter = [press(yaw=np.pi / 20)] * 10
    viewpoint = after(*quarter, press("forward")).viewpoint
    assert viewpoint.x_m > 0.19 and abs(viewpoint.z_m) < 0.02


@pytest.mark.parametrize("keys", [("forward", "right"), ("forward", "left", "up")])
def test_diagonals_are_not_faster(keys: tuple[str, ...]) -> None:
    straight, diagonal = after(press("forward")).viewpoint, after(press(*keys)).viewpoint
    length = np.linalg.norm([diagonal.x_m, diagonal.y_m, diagonal.z_m])
    assert length == pytest.approx(straight.z_m)


def test_opposite_keys_cancel_and_a_stick_adds_to_no_more_than_full_speed() -> None:
    assert after(press("forward", "back")).viewpoint.z_m == 0
    both = InputSample(held=frozenset({"forward"}), move_stick=(0.0, 1.0))
    assert after(both).viewpoint.z_m == after(press("forward")).viewpoint.z_m


def test_pitch_stops_at_its_limit() -> None:
    assert after(*[press(pitch=0.05)] * 60).viewpoint.pitch_rad == MAX_PITCH_RAD
    assert after(*[press(pitch=-1.25)] * 20).viewpoint.pitch_rad == -MAX_PITCH_RAD


def test_roll_stays_zero_over_many_random_commands() -> None:
    random = np.random.default_rng(0)
    player, actions = Player(), ["forward", "left", "right", "up", "down", "back", "run"]
    for _ in range(1000):
        held = random.choice(actions, size=3)
        sample = press(*held, yaw=random.normal(0, 0.2), pitch=random.normal(0, 0.2))
        player, (camera,) = walk(player, sample, SETTINGS, SPEC)
        camera_right_in_world = camera.camera_from_world[0, :3]
        assert abs(camera_right_in_world[1]) < 1e-12  # the right axis stays level


def test_a_quick_flick_is_carried_over_to_the_next_frames() -> None:
    turns = [after(press(yaw=0.5), *[press()] * n).viewpoint.yaw_rad for n in range(5)]
    assert turns == pytest.approx([0.2, 0.4, 0.5, 0.5, 0.5])


def test_the_carried_look_is_bounded_and_a_move_back_cancels_it() -> None:
    longest = SETTINGS.look_carry_s * 12 * 0.2
    player = after(press(yaw=1e3))
    assert player.owed_yaw_rad == pytest.approx(longest)
    turned, _ = walk(player, press(yaw=-(longest + 0.1)), SETTINGS, SPEC)
    assert turned.viewpoint.yaw_rad == pytest.approx(player.viewpoint.yaw_rad - 0.1)


def test_the_view_of_this_instant_does_not_jump_when_a_step_takes_the_input() -> None:
    random = np.random.default_rng(1)
    player = Player()
    for _ in range(500):
        asked = (float(random.normal(0, 0.4)), float(random.normal(0, 0.4)))
        before = look_ahead(player, asked, SETTINGS, SPEC)
        player, _ = walk(player, InputSample(look_rad=asked), SETTINGS, SPEC)
        after_it = look_ahead(player, (0.0, 0.0), SETTINGS, SPEC)
        assert math.remainder(after_it.yaw_rad - before.yaw_rad, math.tau) == pytest.approx(0.0)
        assert after_it.pitch_rad == pytest.approx(before.pitch_rad)


def test_at_rest_the_view_of_this_instant_is_exactly_the_camera_of_the_frame() -> None:
    player = after(press(yaw=0.1234, pitch=0.0567), press(), press())
    seen = look_ahead(player, (0.0, 0.0), SETTINGS, SPEC)
    assert np.array_equal(seen.camera_from_world(), player.camera(SPEC).camera_from_world)


def test_a_step_of_several_cameras_gets_one_command_each() -> None:
    chunk = replace(SPEC, cameras_per_step=4, frames_per_step=4)
    sample = press("forward", yaw=0.1)
    player, cameras = walk(Player(), sample, SETTINGS, chunk)
    assert len(cameras) == 4
    assert player.viewpoint.yaw_rad == pytest.approx(0.1)
    depths = [np.linalg.inv(camera.camera_from_world)[2, 3] for camera in cameras]
    assert np.all(np.diff(depths) > 0.19)


def test_one_camera_for_four_frames_covers_their_time() -> None:
    limits = replace(SPEC.limits, translation_m_per_frame=10.0)
    latent = replace(SPEC, frames_per_step=4, limits=limits)
    player, cameras = walk(Player(), press("forward"), SETTINGS, latent)
    assert len(cameras) == 1
    assert player.viewpoint.z_m == pytest.approx(4 * after(press("forward")).viewpoint.z_m)


def test_a_stick_rests_inside_its_dead_zone_and_keeps_its_direction() -> None:
    assert apply_dead_zone((0.1, 0.1), 0.15) == (0.0, 0.0)
    x, y = apply_dead_zone((0.3, 0.6), 0.15)
    assert y == pytest.approx(2 * x)
    assert apply_dead_zone((0.0, 1.0), 0.15) == pytest.approx((0.0, 1.0))


def test_an_inverted_stick_looks_down_when_pushed_up_and_keys_stay_as_they_are() -> None:
    inverted = replace(SETTINGS, invert_stick=True)
    plain = look_speed(set(), (0.6, 0.8), SETTINGS)
    assert look_speed(set(), (0.6, 0.8), inverted) == pytest.approx((plain[0], -plain[1]))
    keys = look_speed({"look_up"}, (0.0, 0.0), inverted)
    assert keys == look_speed({"look_up"}, (0.0, 0.0), SETTINGS)
