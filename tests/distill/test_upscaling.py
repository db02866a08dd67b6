"""Training what draws frames larger, and how large frames are measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.__main__ import main
from distill.run import load_autoencoder, needed_upscaler
from distill.stage_networks import build_network
from distill.stages import load_stage
from tests.distill.clip_maker import write_clips
from tests.distill.network_maker import write_autoencoder
from worldmodel.checkpoint import save_module
from worldmodel.upscaler import Upscaler

NANO = "configs/stage/nano"


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    return write_autoencoder(tmp_path / "autoencoder")


def _clips(folder: Path) -> Path:
    return write_clips(folder, shards=1, clips=2, frames=4, larger=2)


def _train(data: Path, out: Path, *more: str) -> int:
    command = ["train", f"{NANO}/upscaler.yaml", "steps=6", "batch_size=3"]
    return main([*command, "--data", str(data), "--out", str(out), "--device", "cpu", *more])


def test_an_upscaler_learns_and_the_autoencoder_stays(tmp_path: Path, autoencoder: Path) -> None:
    data, run = _clips(tmp_path / "data"), tmp_path / "run"
    assert _train(data, run, "sample_every=6", "--init", str(autoencoder)) == 0
    assert sorted(path.name for path in run.glob("*.safetensors")) == [
        "checkpoint.safetensors",
        "upscaler-1-of-1.safetensors",
    ]
    learned = needed_upscaler(run)
    new = Upscaler(learned.config).state_dict()
    moved = {name for name, weight in learned.state_dict().items() if not weight.equal(new[name])}
    assert {"first.weight", "pairs.0.second.weight", "last.weight"} <= moved
    assert Image.open(run / "samples" / "0000006.png").size == (3 * 224, 2 * 128)


def test_samples_show_what_the_autoencoder_at_hand_decodes(
    tmp_path: Path, autoencoder: Path
) -> None:
    """Its statistics of latents are no parameters; without them a picture would be of other latents."""
    network = load_autoencoder(autoencoder)
    network.latent_mean.fill_(0.5)
    network.latent_std.fill_(3.0)
    save_module(autoencoder, "autoencoder", network, network.config, torch.float32)
    data, run = _clips(tmp_path / "data"), tmp_path / "run"
    still = "optimizer.learning_rate=0.0", "optimizer.muon_learning_rate=0.0"
    more = *still, "objective.adversarial_weight=0.0", "critic_optimizer=null"
    assert _train(data, run, *more, "sample_every=6", "--init", str(autoencoder)) == 0
    picture = torch.from_numpy(np.asarray(Image.open(run / "samples" / "0000006.png")).copy())
    truth, made = (
        half[:, :224].permute(2, 0, 1)[None].float() / 127.5 - 1 for half in picture.split(128)
    )
    with torch.no_grad():
        small = torch.nn.functional.avg_pool2d(truth, 2)
        decoded = network.decode(network.encode(small))
        repeated = decoded.repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)
    assert float((made - repeated).abs().max()) < 0.02


def test_an_upscaler_without_an_autoencoder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(_clips(tmp_path / "data"), tmp_path / "run") == 2
    assert "part: upscaler keeps the latents of --init" in capsys.readouterr().err


def test_a_model_config_without_an_upscaler_trains_none(
    tmp_path: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.yaml"
    lines = Path("configs/model/nano.yaml").read_text().splitlines()
    model.write_text("\n".join(line for line in lines if not line.startswith("upscaler")))
    data = _clips(tmp_path / "data")
    assert _train(data, tmp_path / "run", f"model={model}", "--init", str(autoencoder)) == 2
    assert "whose config has an `upscaler`" in capsys.readouterr().err


def test_large_frames_are_measured_beside_a_filter(
    tmp_path: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, model = load_stage(Path(f"{NANO}/upscaler.yaml"), [])
    network = build_network(stage, model, autoencoder)
    save_module(autoencoder, "upscaler", network.upscaler, model.upscaler, torch.float32)
    out = tmp_path / "found.json"
    parts = ["--autoencoder", str(autoencoder), "--upscaler", str(autoencoder), "--device", "cpu"]
    command = ["upscaling", *parts, "--every", "2", "--out", str(out)]
    assert main([*command, "--data", str(_clips(tmp_path / "data"))]) == 0
    found = json.loads(out.read_text())
    assert found["frames"] == 4 and found["commit"] and found["dtype"] in ("float32", "bfloat16")
    assert found["ways"]["upscaler"] == found["ways"]["repeated pixels"]  # a new one repeats
    assert found["ways"]["bicubic"] != found["ways"]["upscaler"]
    assert Image.open(out.with_suffix(".png")).size == (3 * 224, 2 * 128)

    small = write_clips(tmp_path / "small")
    assert main([*command, "--overwrite", "--data", str(small)]) == 2
    assert "frames of 64x112 px; this model draws 128x224" in capsys.readouterr().err
