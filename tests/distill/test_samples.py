"""What a run shows of itself: pictures, scalars, speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.__main__ import main
from distill.batches import FrameBatch
from distill.optimizers import ExponentialAverage
from distill.run import load_transformer
from distill.samples import Samples, rollout_of, sheet
from distill.stage_networks import build_network
from distill.stages import load_stage
from tests.distill.clip_maker import write_clips
from tests.distill.network_maker import write_autoencoder
from worldmodel.autoencoder import Autoencoder, frames_to_float, frames_to_uint8

NANO = "configs/stage/nano"


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    return write_autoencoder(tmp_path / "autoencoder")


def _train(stage: str, out: Path, *arguments: str) -> int:
    data = out.parent / f"data-{stage}"
    write_clips(data, latents=stage != "autoencoder")
    command = ["train", f"{NANO}/{stage}.yaml", "steps=4", "batch_size=3"]
    overrides = [a for a in arguments if "=" in a]
    others = [a for a in arguments if "=" not in a]
    return main([*command, *overrides, "--data", str(data), "--out", str(out), *others])


@pytest.mark.parametrize(
    ("stage", "rows", "columns"), [("autoencoder", 1, 3), ("0", 3, 8), ("1", 3, 8)]
)
def test_a_run_draws_what_it_makes_at_the_interval_it_was_told(
    stage: str, rows: int, columns: int, tmp_path: Path, decoder: Path
) -> None:
    out = tmp_path / "run"
    assert _train(stage, out, "sample_every=2", "--autoencoder", str(decoder)) == 0
    sheets = sorted(path.name for path in (out / "samples").iterdir())
    assert sheets == ["0000002.png", "0000004.png"]
    picture = Image.open(out / "samples" / "0000004.png")
    assert picture.size == (columns * 112, rows * 2 * 64)
    assert np.asarray(picture).std() > 1


def test_frames_are_drawn_through_latents_as_wide_as_the_decoder_learns_them(tmp_path: Path) -> None:
    stage, model = load_stage(Path(f"{NANO}/autoencoder.yaml"), [])
    network = build_network(stage, model, None)
    assert isinstance(network, Autoencoder)
    with torch.no_grad():  # raw latents of any scale: nobody has calibrated them
        network.encoder.layers[-1].weight.mul_(50.0)
    batch = FrameBatch(torch.randint(0, 256, (5, 64, 112, 3), dtype=torch.uint8))
    samples = Samples(stage=stage, model=model, autoencoder=None, batch=batch, out=tmp_path)
    path = samples.write(ExponentialAverage(network, 0.9), network, 0)
    with torch.no_grad():
        made = frames_to_uint8(network(frames_to_float(batch.frames), torch.zeros(1)))
    assert np.array_equal(np.asarray(Image.open(path)), sheet(batch.frames[None], made[None]))


def test_drawing_leaves_the_training_as_it_would_have_been(tmp_path: Path, decoder: Path) -> None:
    for name, more in (("plain", []), ("drawn", ["sample_every=1", "--autoencoder", str(decoder)])):
        assert _train("1", tmp_path / name, *more) == 0
    plain, drawn = (load_transformer(tmp_path / name) for name in ("plain", "drawn"))
    for key, weight in plain.state_dict().items():
        assert torch.equal(weight, drawn.state_dict()[key]), key


def test_pictures_of_latents_without_an_autoencoder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train("1", tmp_path / "run", "sample_every=2") == 2
    assert "need --autoencoder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_student_is_drawn_as_it_was_trained_to_be_sampled() -> None:
    stage, _ = load_stage(Path("configs/stage/3.yaml"), ["objective.commit=own"])
    how = rollout_of(stage)
    assert (how.steps, how.shift, how.solver, how.commit) == (2, 3.0, "consistency", "own")
    higher, _ = load_stage(Path("configs/stage/3.yaml"), ["objective.student_shift=12.0"])
    assert rollout_of(higher).shift == 12.0
    teacher, _ = load_stage(Path("configs/stage/1.yaml"), [])
    assert (rollout_of(teacher).steps, rollout_of(teacher).solver) == (16, "euler")


def test_truth_stands_above_what_was_made() -> None:
    truth = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    picture = sheet(truth, truth + 9)
    assert picture.shape == (2 * 2 * 4, 3 * 5, 3)
    assert picture[:4].max() == 0
    assert picture[4:8].min() == 9


def test_the_log_tells_speed_and_goes_to_tensorboard(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    out = tmp_path / "run"
    assert _train("0", out, "steps=41", "tensorboard=true") == 0
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 20, 40]
    assert rows[1]["clips_per_second"] > 0
    events = event_accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == [0, 20, 40]
    assert scalars[2].value == pytest.approx(rows[2]["loss"])


def test_tensorboard_that_is_not_installed_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert _train("0", tmp_path / "run", "tensorboard=true") == 2
    assert "pip install -e '.[train]'" in capsys.readouterr().err
