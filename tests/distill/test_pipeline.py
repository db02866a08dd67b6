"""The whole way at nano size: render, autoencoder, stages 0 to 3, export, sample, measure, play."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from distill.__main__ import main
from worldmodel.session import load_session
from worldmodel.types import Camera, Start


@pytest.mark.slow
def test_nano_goes_from_nothing_to_a_world_that_plays(tmp_path: Path) -> None:
    began = time.monotonic()
    run = str(tmp_path)

    def distill(*arguments: str) -> None:
        assert main([argument.replace("RUN", run) for argument in arguments]) == 0

    distill("render", "configs/data/nano.yaml", "--out", "RUN/clips", "--workers", "2")
    stage = "configs/stage/nano"
    distill("train", f"{stage}/autoencoder.yaml", "--data", "RUN/clips", "--out", "RUN/ae")
    distill("encode", "RUN/clips", "--autoencoder", "RUN/ae", "--out", "RUN/latents")
    distill("train", f"{stage}/0.yaml", "--data", "RUN/latents", "--out", "RUN/0")
    distill(
        "train", f"{stage}/1.yaml", "--data", "RUN/latents", "--init", "RUN/0", "--out", "RUN/1"
    )
    latents = ("--data", "RUN/latents")
    distil = ("train", f"{stage}/2-causal-cd.yaml", *latents, "--init", "RUN/1")
    distill(*distil, "--teacher", "RUN/1", "--out", "RUN/2")
    match = ("train", f"{stage}/3.yaml", *latents, "--init", "RUN/2")
    distill(*match, "--teacher", "RUN/0", "--out", "RUN/3")
    parts = ("--autoencoder", "RUN/ae", "--transformer", "RUN/3")
    distill("export", "configs/export/nano.yaml", *parts, "--out", "RUN/model")
    distill(
        "sample", "RUN/model", "--data", "RUN/clips", "--out", "RUN/sheet.png",
        "--clips", "2", "--columns", "0,1,8", "--device", "cpu",
    )  # fmt: skip
    distill(
        "evaluate", "RUN/model", "--data", "RUN/clips", "--out", "RUN/evaluation.json",
        "--clips", "2", "--longest", "8", "--steps", "2", "--device", "cpu",
        "--walks", "2", "--walk-frames", "20", "--still-frames", "10", "--videos", "1",
    )  # fmt: skip
    assert time.monotonic() - began < 180

    assert Image.open(tmp_path / "sheet.png").size == (3 * 112, 2 * (2 * 64 + 4))
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(result["rows"]) == {
        "autoencoder", "repeat last true frame", "2 steps", "wrong camera, 2 steps"
    }  # fmt: skip
    assert 5 < result["psnr_db"]["8"] < 60
    asked = {
        "model", "commit", "device", "steps", "context_frames", "worlds", "psnr_db",
        "psnr_margin_db", "ssim", "perceptual", "gradient_energy_ratio", "colour_drift",
        "camera_rotation_error_deg", "camera_direction_error_deg", "autoencoder_psnr_db", "baselines",
    }  # fmt: skip
    assert asked <= result.keys()
    assert Image.open(tmp_path / "evaluation-frames.jpg").size == (4 * 112, 2 * (2 * 64 + 4))
    assert Image.open(tmp_path / "evaluation-walks.jpg").size == (2 * 112, 2 * 64)
    with av.open(tmp_path / "evaluation-walk-1.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == 20
    assert result["camera"]["renderer's truth"]["rotation_error_deg"] < 0.5
    page = (tmp_path / "evaluation.md").read_text()
    assert "evaluation-walks.jpg" in page and "| 2 steps |" in page

    session = load_session(tmp_path / "model", device="cpu")
    camera = Camera(np.eye(4), session.spec.intrinsics)
    session.reset(Start(seed=1), camera)
    assert session.step([camera]).shape == (1, 64, 112, 3)


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    from tests.distill.clip_maker import write_clips

    data = write_clips(tmp_path / "data", latents=True)
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533",
        "-m", "distill", "train", "configs/stage/nano/1.yaml", "steps=6", "checkpoint_every_s=0.1",
        "--data", str(data), "--out", str(out), "--device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert report["processes"] == 2
    assert report["steps"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "configs/stage/none.yaml", "--data", "x", "--out", "OUT"],
            "no such config file",
        ),
        (
            ["train", "configs/stage/1.yaml", "stepz=3", "--data", "x", "--out", "OUT"],
            "did you mean",
        ),
        (
            ["train", "configs/stage/1.yaml", "--data", "nowhere", "--out", "OUT"],
            "no manifest.json",
        ),
        (["encode", "nowhere", "--autoencoder", "x", "--out", "OUT"], "no manifest.json"),
        (["evaluate", "nowhere", "--data", "x", "--out", "OUT"], "must end in .json"),
        (["evaluate", "nowhere", "--data", "x", "--out", "OUT.json"], "no manifest.json"),
        (["evaluate", "x", "--data", "x", "--out", "OUT.json", "--steps", "2,x"], "numbers"),
        (["evaluate", "x", "--data", "x", "--out", "OUT.json", "--clips", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([argument.replace("OUT", str(out)) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
