from __future__ import annotations

import pytest

from engine.pacing import RateMeter, choose_world_rate, draw_period_s, frame_due, next_step_s


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [(2, 6), (6.6, 6), (8.7, 6), (8.8, 8), (13.0, 10), (13.3, 12), (22.1, 20), (33, 30), (500, 30)],
)
def test_the_world_runs_at_the_fastest_rate_held_with_a_tenth_to_spare(
    measured: float, chosen: float
) -> None:
    assert choose_world_rate(measured) == chosen


def test_small_delays_do_not_add_up() -> None:
    assert next_step_s(due_s=10.0, began_s=10.03, period_s=0.1) == pytest.approx(10.1)


def test_a_late_world_never_hurries() -> None:
    assert next_step_s(due_s=10.0, began_s=17.0, period_s=0.1) == pytest.approx(17.1)


def test_frames_of_one_step_are_shown_in_world_time() -> None:
    shown = [frame_due(5.0, 5.0 + i * 0.025, 4, 20.0) for i in range(-1, 12)]
    assert shown == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_a_rate_is_that_of_the_recent_events() -> None:
    meter = RateMeter(window_s=1.0)
    assert meter.rate(0.0) == 0.0
    for index in range(30):
        meter.add(index * 0.1)
    assert meter.rate(2.9) == pytest.approx(10.0)
    assert meter.rate(9.0) == 0.0


def test_drawing_never_outruns_the_display_even_if_flips_promise_to_wait_and_do_not() -> None:
    now_s, drawn = 0.0, 0
    while now_s < 1.0:
        drawn += 1
        now_s += draw_period_s(60.0, 0.001, vsync=True, software=False)
    assert 60 <= drawn <= 67


def test_a_flip_that_waits_is_never_waited_for_twice() -> None:
    assert draw_period_s(60.0, 1 / 60, vsync=True, software=False) < 1 / 60


def test_without_vsync_drawing_keeps_the_rate_of_the_display() -> None:
    assert draw_period_s(120.0, 0.001, vsync=False, software=False) == 1 / 120


def test_a_processor_that_draws_and_computes_draws_half_the_time_at_most() -> None:
    assert draw_period_s(60.0, 0.03, vsync=True, software=True) == pytest.approx(0.06)
    assert draw_period_s(60.0, 0.001, vsync=False, software=True) == 1 / 32  # and no more often
    assert draw_period_s(30.0, 0.001, vsync=False, software=True) == 1 / 30
