"""What initialisations cost and lead to, measured world by world and set side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distill.__main__ import main
from distill.evaluate import Truth
from distill.features import Ruler
from distill.margins import Extent, compared
from distill.metrics import psnr_db
from distill.rollout import Views
from distill.table import (
    RowConfig,
    TableConfig,
    difference,
    drawn_worlds,
    page,
    read_table,
    write_table,
)
from tests.distill.clip_maker import write_clips
from worldmodel import config as strict
from worldmodel.autoencoder import frames_to_float

WORLDS = 12
CONFIG = TableConfig(
    reference="cd",
    steps=(1, 2),
    near=8,
    far=32,
    rows=(
        RowConfig(name="cd", cost=("2-cd",), before="before-cd", after=("cd-1", "cd-2")),
        RowConfig(name="ode", cost=("paths", "2-ode"), after=("ode-1", "ode-2")),
        RowConfig(name="ar", after=("ar-1",)),
    ),
)


def _write_margins(folder: Path, steps: int, psnr: Any, **changes: Any) -> None:
    """As `python -m distill margins` does; `psnr` of every world at both horizons."""
    folder.mkdir(parents=True)
    psnr = [float(x) for x in np.broadcast_to(psnr, WORLDS)]
    repeated = [*[10.0] * (WORLDS - 1), None]  # in the last world nothing moves
    values = {"psnr_db": [*psnr[:-1], None], "gradient_energy_ratio": [0.5] * WORLDS}
    values["perceptual"] = [*[0.2] * (WORLDS - 1), None]
    numbers = {
        "model": "m", "commit": "c", "device": "d", "dtype": "float32", "torch": "t", "seed": 1,
        "worlds": WORLDS, "context_frames": 4, "ruler": "r",
        "repeated": {"psnr_db": {"8": repeated, "32": repeated}},
        "rows": {str(steps): {name: {"8": x, "32": x} for name, x in values.items()}},
    }  # fmt: skip
    (folder / "margins.json").write_text(json.dumps(numbers | changes))
    Image.new("RGB", (6, 8)).save(folder / "margins.png")


def _write_facts(path: Path, **facts: Any) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(facts))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    spread = np.linspace(-3, 3, WORLDS)  # worlds differ by more than students do
    for name, steps, psnr in (
        ("cd-1", 1, 14 + spread), ("cd-2", 2, 14 + spread), ("before-cd", 2, 12 + spread),
        ("ode-1", 1, 13.5 + spread), ("ode-2", 2, 14 + spread[::-1]),
    ):  # fmt: skip
        _write_margins(tmp_path / name, steps, psnr)
    report = {"steps": 10, "processes": 2}
    _write_facts(tmp_path / "2-cd/report.json", seconds=30.0, seconds_at_speed=10.0, **report)
    _write_facts(tmp_path / "2-ode/report.json", seconds=40.0, seconds_at_speed=20.0, **report)
    _write_facts(
        tmp_path / "paths/manifest.json",
        seconds=70.0, seconds_at_speed=40.0, extra_bytes=3_000_000_000,
    )  # fmt: skip
    return tmp_path


def test_a_difference_that_every_world_shows_is_told_from_one_that_worlds_make(runs: Path) -> None:
    text = page(read_table(CONFIG, runs))
    (row,) = (line for line in text.splitlines() if line.startswith("| ode | **"))
    cells = row.split(" | ")
    assert cells[1] == "**-0.50 (-0.50 to -0.50)**"  # 1 step: half a decibel in every world
    assert cells[5].startswith("+0.5") and "(-" in cells[5]  # 2 steps: the other way round in half
    assert "| cd | +3.73 | +3.73 | 0.200 | 0.50 | +3.73 |" in text  # without the last world


def test_curation_and_all_gpus_count_and_compilation_stands_apart(runs: Path) -> None:
    lines = page(read_table(CONFIG, runs)).splitlines()
    assert "| cd | 0.0 | 20.0 | 20.0 | 1.0 | 0.0 | 60.0 | 0 |" in lines
    assert "| ode | 40.0 | 40.0 | 80.0 | 4.0 | 70.0 | 80.0 | 3.00 |" in lines


def test_what_was_not_made_is_left_out_and_named(runs: Path) -> None:
    text = page(read_table(CONFIG, runs))
    assert text.endswith("Not there: ar-1.")
    assert "| ar | +" not in text


def test_students_measured_on_other_worlds_are_refused(runs: Path) -> None:
    _write_margins(runs / "ar-1", 1, 13.0, repeated={"psnr_db": {"8": [9.0], "32": [9.0]}})
    with pytest.raises(ValueError, match="ar-1: measured on other worlds than cd-1"):
        read_table(CONFIG, runs)
    with pytest.raises(ValueError, match=r"no margins\.json"):
        read_table(CONFIG, runs / "nowhere")


def test_the_command_writes_a_page_numbers_and_a_picture(runs: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "table.yaml", tmp_path / "table.md"
    path.write_text(json.dumps(strict.to_plain(CONFIG)))
    command = ["table", str(path), "--runs", str(runs), "--out", str(out)]
    assert main(command) == 0
    numbers = json.loads(out.with_suffix(".json").read_text())
    ode = numbers["after_stage_3"]["ode"]["1"]
    assert ode["difference"]["near"] == [-0.5, -0.5, -0.5]
    assert len(ode["by_world"]["far"]) == WORLDS and ode["by_world"]["far"][-1] is None
    assert numbers["cost"]["ode"]["extra_bytes"] == 3_000_000_000
    students = 5
    assert Image.open(out.with_suffix(".jpg")).size == (6, (1 + students) * (4 + 14))
    assert main(command) == 2  # nothing is overwritten unasked


def test_numbers_that_came_without_pictures_make_a_page_without_one(
    runs: Path, tmp_path: Path
) -> None:
    for picture in runs.glob("*/margins.png"):
        picture.unlink()
    write_table(CONFIG, runs, tmp_path / "table.md")
    assert (tmp_path / "table.md").is_file() and not (tmp_path / "table.jpg").exists()


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    random, draws = np.random.default_rng(0), drawn_worlds(40)
    covered = 0
    for _ in range(100):
        apart = random.normal(0.3, 1.0, 40)
        _, low, high = difference(apart, np.zeros(40), draws)
        covered += low <= 0.3 <= high
    assert 86 <= covered <= 100


def test_frames_are_compared_world_by_world_and_not_where_nothing_moves() -> None:
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 6, 8, 8, 3), generator=random, dtype=torch.uint8)
    cameras = torch.eye(4, dtype=torch.float64).repeat(2, 6, 1, 1)
    cameras[0, :, 2, 3] = torch.arange(6)  # only the first world's camera moves
    views = Views(cameras=cameras, intrinsics=torch.zeros(2, 6, 4), words=torch.zeros(2, 1))
    made = frames.flip(0)
    truth = Truth(frames=frames, latents=torch.zeros(2, 6, 1, 1), views=views)
    encoder = nn.Module()
    encoder.layers = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2))
    ruler = Ruler("r", encoder)
    found = compared(made, truth, Extent(known=2, longest=4), ruler)
    expected = psnr_db(*(frames_to_float(x[:1, 5]) for x in (made, frames)))
    assert found["psnr_db"]["4"] == [pytest.approx(float(expected), abs=1e-3), None]
    assert found["perceptual"]["4"][0] > 0.0 and found["perceptual"]["4"][1] is None
    own = compared(frames, truth, Extent(known=2, longest=4), ruler)
    assert own["perceptual"]["4"] == [0.0, None]
    energies = own["gradient_energy_ratio"]["1"]
    assert sum(x or 0.0 for x in energies) / 2 == pytest.approx(1.0, abs=1e-4)


def test_margins_of_a_run_are_measured_without_exporting_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips")
    latents = write_clips(tmp_path / "latents", latents=True)
    for stage, data in (("autoencoder", clips), ("1", latents)):
        command = ["train", f"configs/stage/nano/{stage}.yaml", "steps=1", "--data", str(data)]
        assert main([*command, "--out", str(tmp_path / stage), "--device", "cpu"]) == 0
    out = tmp_path / "margins.json"
    parts = ["--autoencoder", str(tmp_path / "autoencoder"), "--transformer", str(tmp_path / "1")]
    extent = ["--steps", "1,2", "--clips", "3", "--longest", "4", "--known", "2"]
    command = ["margins", "configs/export/nano.yaml", *parts, "--data", str(clips), *extent]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    numbers = json.loads(out.read_text())
    assert set(numbers["rows"]) == {"1", "2"}
    assert [len(x) for x in numbers["rows"]["2"]["psnr_db"].values()] == [3, 3]  # horizons 1 and 4
    assert Image.open(out.with_suffix(".png")).size == (2 * 112, 3 * 64)
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 2
    other = str(tmp_path / "other.json")
    assert main([*command, "--out", other, "--device", "cpu", "--fp8"]) == 2
    assert "fp8 needs an NVIDIA GPU" in capsys.readouterr().err.splitlines()[-1]


def test_the_paper_s_table_names_steps_of_its_pipeline() -> None:
    from distill.pipeline_steps import PipelineConfig

    table = strict.load("configs/table/initialisations.yaml", TableConfig)
    steps = strict.load("configs/pipeline/initialisations.yaml", PipelineConfig).all_steps()
    assert set(table.reads) <= {step.name for step in steps}
    assert len(table.rows) == 7
