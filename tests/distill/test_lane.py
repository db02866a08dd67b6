"""A lane runs commands one after another in one process, and begins anew after a failure."""

from __future__ import annotations

from pathlib import Path

from distill.lane import Lane
from tests.distill.clip_maker import write_clips


def _train(tmp_path: Path, name: str) -> list[str]:
    data = tmp_path / "latents"
    if not data.is_dir():
        write_clips(data, latents=True)
    stage = [
        "train",
        "configs/stage/nano/1.yaml",
        "steps=1",
        "--data",
        str(data),
        "--device",
        "cpu",
    ]
    return [*stage, "--out", str(tmp_path / name)]


def test_commands_share_a_process_until_one_fails(tmp_path: Path) -> None:
    lane, log = Lane({}), tmp_path / "log"
    assert lane.run(_train(tmp_path, "a"), log) == 0
    first = lane._process
    assert "seconds" in log.read_text()
    assert lane.run(_train(tmp_path, "b"), tmp_path / "other") == 0
    assert lane._process is first
    assert lane.run(["train", "nowhere.yaml", "--data", "x", "--out", "y"], log) == 2
    assert log.read_text().strip() == "distill train: nowhere.yaml: no such config file"
    assert lane._process is None and first is not None and first.poll() is not None
    assert lane.run(["no such command"], log) != 0  # the process ends without an answer
    assert "invalid choice" in log.read_text()
    lane.close()
    lane.close()  # nothing is left to end


def test_a_renewed_lane_has_a_process_for_every_command(tmp_path: Path) -> None:
    lane = Lane({}, renew=True)
    assert lane.run(_train(tmp_path, "a"), tmp_path / "log") == 0
    assert lane._process is None
