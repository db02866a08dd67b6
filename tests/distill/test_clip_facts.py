"""`python -m distill data info|check|view`: what a folder holds, what is broken, how it looks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill import motions
from distill.__main__ import main
from distill.clip_facts import problems
from distill.clip_view import pose_lines
from distill.clips import ClipSet, write_manifest, write_shard
from tests.distill.clip_maker import write_clips
from worldmodel.motion import Viewpoint


def rewrite(folder: Path, name: str, change: object) -> None:
    """Write the first shard again with `change` applied to one of its arrays."""
    shard = ClipSet(folder).shards[0]
    names = ("cameras", "intrinsics", "frames")
    arrays = {key: np.array(shard.array(key)) for key in names}
    change(arrays[name])  # type: ignore[operator]
    prompts, path = shard.prompts, shard.path
    write_shard(path, prompts=prompts, metadata={}, **arrays)  # type: ignore[arg-type]


def test_steps_and_turns_are_those_of_a_walk_worked_out_by_hand() -> None:
    walk = [Viewpoint(), Viewpoint(z_m=2.0), Viewpoint(z_m=2.0, yaw_rad=math.radians(90))]
    cameras = np.stack([viewpoint.camera_from_world() for viewpoint in walk])
    assert np.allclose(motions.positions(cameras), [(0, 0, 0), (0, 0, 2), (0, 0, 2)])
    assert np.allclose(motions.steps(cameras), [2, 0])
    assert np.allclose(np.degrees(motions.turns_rad(cameras)), [0, 90])
    assert motions.typical(np.array([0.0, 0.0, 2.0, 2.0, 3.0])) == 2.0
    assert motions.typical(np.zeros(4)) == 0.0


def test_info_tells_counts_motion_and_lens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_clips(tmp_path / "c")
    assert main(["data", "info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clips"], told["frames_per_clip"], told["frame_px"]) == (6, 8, [64, 112])
    across = 2 * math.degrees(math.atan(0.5 / 0.6))
    assert told["field_of_view_deg"] == pytest.approx([across, across], abs=0.01)
    assert 0 < told["step_m"]["typical"] <= told["step_m"]["most"] <= 0.6
    assert told["prompts"] == {"meadow": 6}
    assert main(["data", "info", str(folder)]) == 0
    assert "licence: Apache-2.0" in capsys.readouterr().out


def test_check_finds_nothing_in_a_good_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(write_clips(tmp_path / "c"))]) == 0
    assert "6 clips, nothing is broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cameras", lambda x: x[1, 3, :3, :3].__imul__(2.0), "clip 1: poses that are not rigid"),
        ("cameras", lambda x: x[2, 0].fill(np.nan), "clip 2: poses hold NaN"),
        ("cameras", lambda x: x[0, 7:, 0, 3].__iadd__(90.0), "clip 0: the camera jumps"),
        ("intrinsics", lambda x: x[1].__imul__(224.0), "clip 1: intrinsics that no lens has"),
        (
            "frames",
            lambda x: x[2, 4].fill(7),
            "clip 2: 1 frames of one colour, the first is frame 4",
        ),
    ],
)
def test_check_names_what_is_broken(
    name: str, change: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_clips(tmp_path / "c")
    rewrite(folder, name, change)
    assert [message in line for line in problems(folder)] == [True]
    assert main(["data", "check", str(folder)]) == 2
    captured = capsys.readouterr()
    assert message in captured.out and "00000.safetensors" in captured.out
    assert len(captured.err.strip().splitlines()) == 1


def test_check_names_every_broken_file_not_only_the_first(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c", shards=3)
    (folder / "00000.safetensors").unlink()
    shard = folder / "00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    found = list(problems(folder))
    assert len(found) == 2
    assert "00000.safetensors: listed" in found[0] and "00002.safetensors: truncated" in found[1]


def test_a_shard_that_the_manifest_does_not_list_is_named(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "c")
    extra = folder / "00009.safetensors"
    extra.write_bytes((folder / "00000.safetensors").read_bytes())
    assert list(problems(folder)) == [f"{extra}: not in the manifest, so nothing reads it"]
    write_manifest(folder, source="noise", licence="Apache-2.0")
    assert not list(problems(folder))


def test_view_writes_a_sheet_with_poses_and_a_plan(tmp_path: Path) -> None:
    folder, out = write_clips(tmp_path / "c"), tmp_path / "view.png"
    command = ["data", "view", str(folder), "--out", str(out), "--clips", "3", "--columns", "4"]
    assert main(command) == 0
    assert Image.open(out).size == (4 * 112, 3 * (64 + 24))
    plan = out.with_suffix(".svg").read_text()
    assert plan.count("<polyline") == 6
    assert main(command) == 2, "what is there is not overwritten"
    assert main([*command, "--overwrite"]) == 0


def test_the_pose_under_a_frame_reads_as_position_height_and_look() -> None:
    pose = Viewpoint(1.0, -2.5, 3.0, math.radians(30), math.radians(-10)).camera_from_world()
    assert pose_lines(pose) == ("1.00 2.50 3.00", "30 -10")
