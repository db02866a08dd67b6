"""Statistics of how cameras move: right for known paths, and honest about what was never trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.__main__ import main
from distill.clips import ClipSet
from distill.motion_coverage import Motion, motion_of, motion_of_clips, motion_of_play
from distill.scenes.paths import viewpoints_for
from tests.distill.clip_maker import write_clips
from worldmodel import trajectory as keys
from worldmodel.types import Intrinsics, MotionLimits

LIMITS = MotionLimits(0.6, math.radians(10.0), (0.0, 12.0))
LENS = Intrinsics.from_field_of_view(math.radians(80.0), 112, 64)


def motion_along(trajectory: str) -> Motion:
    path = viewpoints_for(keys.parse(trajectory, 12.0), 12.0, LIMITS)
    cameras = np.stack([viewpoint.camera_from_world() for viewpoint in path])
    lens = np.tile([LENS.fx, LENS.fy, LENS.cx, LENS.cy], (1, len(path), 1))
    return motion_of(cameras[None], lens)


def write_play(folder: Path, cameras: np.ndarray) -> Path:  # type: ignore[type-arg]
    folder.mkdir()
    np.save(folder / "poses.npy", cameras)
    np.save(folder / "intrinsics.npy", np.tile([0.6, 1.05, 0.5, 0.5], (len(cameras), 1)))
    return folder


def test_walking_turning_looking_rising_and_resting_are_told_apart() -> None:
    walk, turn, look, rise, rest = (motion_along(f"{key}*10") for key in ("w", "l", "i", "u", "."))
    assert np.allclose(walk.step_m, 0.2) and walk.yaw_deg.max() < 1e-6
    assert turn.yaw_deg.min() > 1.0 and turn.step_m.max() < 1e-9
    assert np.allclose(turn.yaw_deg, turn.yaw_deg[0])
    assert look.pitch_deg.min() > 1.0 and look.gaze_deg[-1] > look.gaze_deg[0] + 10.0
    assert rise.height_m[-1] > 1.0 and rise.height_m[0] == 0.0
    assert [m.rest_share for m in (walk, turn, look, rise, rest)] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert np.allclose(walk.view_deg, 80.0) and walk.zoom_deg.max() < 1e-9


def test_a_full_turn_has_no_jump_where_the_angle_wraps() -> None:
    assert np.ptp(motion_along("l*90").yaw_deg) < 1e-6


def test_clips_and_an_exported_recording_are_read(tmp_path: Path) -> None:
    clips = ClipSet(write_clips(tmp_path / "clips"))
    trained = motion_of_clips(clips)
    assert len(trained.height_m) == len(clips) * 8 and len(trained.step_m) == len(clips) * 7
    played = motion_of_play(write_play(tmp_path / "play", clips.array("cameras", 2)))
    assert np.allclose(played.step_m, trained.step_m.reshape(-1, 7)[2])


def test_fewer_clips_are_taken_of_a_large_set(tmp_path: Path) -> None:
    clips = ClipSet(write_clips(tmp_path / "clips"))
    assert len(motion_of_clips(clips, most=2).step_m) == 2 * 7


def test_the_page_says_what_play_does_that_was_never_trained(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips")
    cameras = ClipSet(folder).array("cameras", 0).copy()
    same = write_play(tmp_path / "same", cameras)
    cameras[:, :3, 3] *= 50.0  # steps no training clip has
    faster = write_play(tmp_path / "faster", cameras)
    page = tmp_path / "motion.md"
    command = ["motion", str(folder), "--play", str(same), str(faster), "--out", str(page)]
    assert main(command) == 0
    text = page.read_text()
    step = text.partition("## step")[2].partition("##")[0]
    assert "| play: same |" in step and "| 0.0 % |" in step
    row = next(line for line in step.splitlines() if "faster" in line)
    assert float(row.split("|")[-2].strip(" %")) > 50.0
    for measure in ("step", "yaw", "height", "view"):
        assert (tmp_path / f"motion-{measure}.svg").read_text().startswith("<svg")
    assert main(command) == 2 and page.read_text() == text


def test_a_recording_that_is_not_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"poses\.npy: not there; export a recording"):
        motion_of_play(tmp_path)
    folder = write_play(tmp_path / "short", np.eye(4)[None])
    with pytest.raises(ValueError, match="not of one path of at least two frames"):
        motion_of_play(folder)


def test_zoom_is_counted() -> None:
    cameras = np.tile(np.eye(4), (1, 2, 1, 1))
    wide = replace(LENS, fx=0.5)
    lenses = np.array([[[k.fx, k.fy, k.cx, k.cy] for k in (LENS, wide)]])
    motion = motion_of(cameras, lenses)
    assert motion.zoom_deg == pytest.approx([10.0], abs=0.01) and motion.rest_share == 1.0
