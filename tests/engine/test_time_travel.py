from __future__ import annotations

import numpy as np

from engine.controls import Player
from engine.history import HistorySettings, Moment
from engine.scene import Scene
from engine.time_travel import Timeline, TimeTravel
from worldmodel.motion import Viewpoint
from worldmodel.types import Camera, Start

from .fakes import SPEC, FakeWorld


def walked(steps: int) -> tuple[FakeWorld, TimeTravel]:
    """A world that was walked through, and its past: a moment for the beginning and every step."""
    world, past = FakeWorld(), TimeTravel(HistorySettings(snapshot_every=3))
    for number in range(steps + 1):
        camera = Camera(Viewpoint(z_m=float(number)).camera_from_world(), SPEC.intrinsics)
        if number == 0:
            frames = world.reset(Start(), camera)[np.newaxis]
        else:
            frames = world.step([camera])
        moment = Moment(number, frames, (camera,), Player(), Scene("a", 0))
        past.remember(moment, world.snapshot, jump=number == 0)
    return world, past


def number_of(moment: Moment | None) -> int:
    assert moment is not None
    return moment.number


def test_one_goes_back_and_forth_as_far_as_there_is_a_past() -> None:
    _, past = walked(6)
    assert not past.in_the_past and not past.leads(1) and past.leads(-1)
    assert [number_of(past.go(by)) for by in (-1, -2, 1, -9, 2)] == [5, 3, 4, 0, 2]
    assert past.timeline(0.5) == Timeline(7, 2, 0.5) and past.leads(1)
    assert number_of(past.go(99)) == 6 and past.in_the_past and not past.leads(1)


def test_a_branch_is_the_world_of_then_and_forgets_what_came_after() -> None:
    world, past = walked(6)
    past.go(-2)
    past.bring_back(world)  # as for a save: one still looks at the past
    assert len(world.cameras) == 5 and past.timeline(1.0).at == 4
    assert past.branch(world) == 4 and not past.in_the_past
    assert len(world.cameras) == 5 and past.timeline(1.0) == Timeline(5, None, 1.0)
    past.bring_back(world)  # nothing to do at the end
    assert len(world.cameras) == 5


def test_without_memory_there_is_no_past() -> None:
    past = TimeTravel(HistorySettings(memory_mb=0.0))
    assert past.go(-1) is None and not past.in_the_past
