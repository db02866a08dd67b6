"""The example game: what it draws belongs to the pose it tells, and any number of processes plays it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.__main__ import main
from distill.clip_facts import problems
from distill.clips import ClipSet
from examples import dungeon
from worldmodel.motion import Command, Viewpoint

FORWARD = Command(forward=1.0)


def test_the_same_seed_is_the_same_dungeon_and_another_is_another() -> None:
    first, again, other = (dungeon.make().reset(seed).frame for seed in (3, 3, 4))
    assert first.shape == (128, 224, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_frame_is_the_one_of_the_pose_that_is_told() -> None:
    game = dungeon.make()
    game.reset(5)
    for _ in range(20):
        view = game.step(Command(forward=1.0, up=1.0, yaw_rad=0.05, pitch_rad=0.4))
    pose = view.world_from_camera
    yaw = float(np.arctan2(pose[0, 2], pose[2, 2]))
    x, y, z = pose[:3, 3]
    there = Viewpoint(x_m=x, y_m=y, z_m=z, yaw_rad=yaw)
    assert np.allclose(np.linalg.inv(there.camera_from_world()), pose), "it is level"
    assert -y in dungeon.EYES_M, "and does not climb"
    again = dungeon.draw(game._place, there, -y).astype(int)
    assert (np.abs(again - view.frame) > 2).mean() < 1e-3


@pytest.mark.parametrize("command", [FORWARD, Command(forward=-1.0, run=True), Command(right=1.0)])
def test_a_player_who_holds_a_key_stays_out_of_walls_and_gets_on(command: Command) -> None:
    game = dungeon.make()
    for seed in range(3):
        places = [game.reset(seed).world_from_camera[[0, 2], 3]]
        places += [game.step(command).world_from_camera[[0, 2], 3] for _ in range(150)]
        for side in (-0.4, 0.4):
            cells = np.floor((np.array(places) + side) / dungeon.CELL_M).astype(int)
            assert not game._place.solid[cells[:, 0], cells[:, 1]].any()
        lengths = np.linalg.norm(np.diff(places, axis=0), axis=1)
        assert lengths.sum() > 0.5 * 150 * 2.4 / 12, "most of the time it moves"


def test_rays_end_where_small_steps_along_them_do() -> None:
    game = dungeon.make()
    game.reset(8)
    place, point = game._place, game._viewpoint
    angles = np.linspace(-3, 3, 40)
    dx, dz = np.sin(angles), np.cos(angles)
    hits = dungeon.cast(place, point.x_m, point.z_m, dx, dz)
    along = np.arange(0, 60, 0.005)[:, None]
    cells = np.stack([point.x_m + along * dx, point.z_m + along * dz]) / dungeon.CELL_M
    inside = place.solid[tuple(np.clip(np.floor(cells), 0, dungeon.CELLS - 1).astype(int))]
    assert np.allclose(hits.depth_m, along[inside.argmax(0), 0], atol=0.02)


def test_any_number_of_processes_makes_the_same_clips(tmp_path: Path) -> None:
    size = ["--height-px", "32", "--width-px", "56", "--frames-per-clip", "8", "--static"]
    size += ["--scale", "keep", "--episodes", "4", "--episode-frames", "16", "--held-out", "0.25"]
    for workers in ("1", "3"):
        out = str(tmp_path / workers)
        command = ["import", "game", "examples.dungeon:make", "--out", out, "--workers", workers]
        assert main([*command, *size]) == 0
    for part, count in (("", 6), ("held-out", 2)):
        one, other = (ClipSet(tmp_path / workers / part) for workers in ("1", "3"))
        assert len(one) == len(other) == count and not list(problems(one.folder))
        for name in ("frames", "cameras", "intrinsics"):
            assert np.array_equal(one.shards[0].array(name), other.shards[0].array(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"], "nothing else is left"


def test_other_formats_are_not_played_by_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "poses", str(tmp_path), "--out", str(tmp_path / "clips")]
    assert main([*command, "--workers", "2"]) == 2
    assert "--workers must be at least 1, and is for games" in capsys.readouterr().err
