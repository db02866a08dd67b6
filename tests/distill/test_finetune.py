"""Play, record, distil, play: a model learns from a walk of its own, through the file people use."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import play
from distill import card
from distill.__main__ import main
from distill.clips import ClipSet
from distill.run import load_autoencoder, load_transformer
from distill.stages import ModelConfig
from tests.distill.clip_maker import write_clips
from tests.worldmodel import tiny
from worldmodel import config as strict
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import PlayableConfig, load_model, save_model
from worldmodel.transformer import WorldTransformer
from worldmodel.upscaler import Upscaler

FINETUNE = "configs/pipeline/finetune.yaml"
SMALL = [
    "stages=configs/stage/nano", "export=configs/export/nano.yaml", "longest=8", "clips=2",
    "walks=2", "walk_frames=12", "still_frames=10", "name=walked",
]  # fmt: skip


def write_base(folder: Path) -> Path:
    """A nano model that plays; its weights do something, and nobody trained them."""
    config = strict.load("configs/model/nano.yaml", ModelConfig)
    assert config.upscaler is not None
    torch.manual_seed(5)
    autoencoder = tiny.shaken(Autoencoder(config.autoencoder), 0.05)
    transformer = tiny.shaken(WorldTransformer(config.transformer), 0.05)
    playable = strict.load("configs/export/nano.yaml", PlayableConfig)
    upscaler = tiny.shaken(Upscaler(config.upscaler), 0.02)
    playable = replace(playable, static_world=False)
    save_model(folder, playable, autoencoder, transformer, upscaler=upscaler)
    return folder


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything ran: base/, walk/ (a recording), clips/, mine/."""
    root = tmp_path_factory.mktemp("loop")
    began = time.process_time()
    base = write_base(root / "base")
    command = ["--headless", "--model", str(base), "--fps", "12", "--out", str(root / "walk.mp4")]
    walk = "w*24,wl*20,wj*20,d*10,.*4,wi*4,wk*4,s*10"
    assert play.main([*command, "--trajectory", walk, "--record", str(root / "walk")]) == 0
    size = ["--height-px", "64", "--width-px", "112", "--frames-per-clip", "16"]
    clips = str(root / "clips")
    more = ["--held-out", "0.3", "--licence", "CC0-1.0", "--source", "a walk of a test"]
    assert main(["import", "recording", str(root / "walk"), "--out", clips, *size, *more]) == 0
    words = [f"data={clips}", f"from={base}", *SMALL]
    run = ["pipeline", FINETUNE, *words, "--out", str(root / "mine"), "--here", "--device", "cpu"]
    assert main(run) == 0
    assert time.process_time() - began < 40
    return root


@pytest.mark.slow
def test_the_model_was_trained_on_what_was_played_and_measured_on_what_was_held_out(
    loop: Path,
) -> None:
    train, held_out = ClipSet(loop / "clips"), ClipSet(loop / "clips" / "held-out")
    assert (len(train), len(held_out)) == (4, 2)
    before, after = (
        json.loads((loop / "mine" / name / "evaluation.json").read_text())
        for name in ("evaluation-before", "evaluation")
    )
    assert before["worlds"] == after["worlds"] == 2
    assert before["ruler"]["digest"] == after["ruler"]["digest"], "measured by the same features"
    assert after["autoencoder_psnr_db"] > before["autoencoder_psnr_db"], "it learned these pictures"
    assert np.isfinite(after["psnr_db"]["8"])


@pytest.mark.slow
def test_the_export_plays_as_its_clips_were_played(loop: Path) -> None:
    folder = loop / "mine" / "export"
    playable, _, _ = load_model(folder)
    assert (playable.name, playable.licence) == ("walked", "CC0-1.0")
    assert (playable.rollout.steps, playable.frames_per_second) == (2, 12.0)
    assert not playable.static_world, "nobody said that nothing moves in it"
    base = strict.load(loop / "base" / "model.yaml", PlayableConfig)
    assert playable.intrinsics.fx == pytest.approx(base.intrinsics.fx, abs=1e-6)
    assert playable.limits.translation_m_per_frame == pytest.approx(2.4 / 12, abs=1e-5)
    out = loop / "again"
    command = ["--headless", "--model", str(folder), "--frames", "4", "--out", str(out)]
    assert play.main([*command, "--start", "1-walk-0"]) == 0
    sizes = {Image.open(path).size for path in out.glob("*.png")}
    assert sizes == {(224, 128)}, "drawn as the base draws, from latents of clips of 112x64"


@pytest.mark.slow
def test_the_card_tells_data_licence_and_recipe(loop: Path) -> None:
    folder = loop / "mine" / "export"
    text = (folder / "README.md").read_text()
    assert "a walk of a test, licence: CC0-1.0. 4 clips of 16 frames" in text
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert [line.split(",")[0].split(" in ")[0] for line in lines] == [
        "- begun with the model nano (Apache-2.0)",
        "- autoencoder: reconstruction",
        "- begun with the model nano (Apache-2.0)",
        "- stage-1: flow matching",
        "- stage-2: consistency",
        "- stage-3: distribution matching",
    ]
    assert "| frames | 64x112, drawn at 128x224, 12 a second |" in text
    starts = sorted((folder / "starts").glob("*.png"))
    assert len(starts) == 4 and Image.open(starts[0]).size == (112, 64)


@pytest.mark.slow
def test_other_data_under_the_same_name_is_refused(
    loop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = loop / "clips" / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(before.replace("a walk of a test", "another walk"))
    words = [f"data={loop / 'clips'}", f"from={loop / 'base'}", *SMALL]
    run = ["pipeline", FINETUNE, *words, "--out", str(loop / "mine"), "--here", "--device", "cpu"]
    assert main(run) == 2
    assert "done with other settings (digest differ)" in capsys.readouterr().err
    manifest.write_text(before)
    assert main(run) == 0, "nothing to do"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say data=..."),
        (["dat=x"], "the words of configs/pipeline/finetune.yaml are data, from"),
        (["data"], "expected NAME=VALUE"),
        (["data=nowhere"], "clips: nowhere is needed, and has no manifest.json"),
    ],
)
def test_what_the_file_asks_for_must_be_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", FINETUNE, *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_model_folder_begins_a_stage_and_encodes_but_teaches_no_stage_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base")
    frames = str(write_clips(tmp_path / "frames"))
    latents = str(tmp_path / "latents")
    encode = ["encode", frames, "--autoencoder", str(base), "--out", latents, "--device", "cpu"]
    assert main(encode) == 0
    stage = ["train", "configs/stage/nano/1.yaml", "steps=1", "--data", latents, "--device", "cpu"]
    assert main([*stage, "--init", str(base), "--out", str(tmp_path / "1")]) == 0
    moved = load_transformer(tmp_path / "1").state_dict()["blocks.0.q.weight"]
    began = load_transformer(base).state_dict()["blocks.0.q.weight"]
    assert 0 < float((moved - began).norm()) < 0.3 * float(began.norm())
    third = ["train", "configs/stage/nano/3.yaml", "--data", latents, "--init", str(base)]
    capsys.readouterr()
    assert main([*third, "--teacher", str(base), "--out", str(tmp_path / "3")]) == 2
    assert "a playable model is a causal network" in capsys.readouterr().err


def test_a_model_is_played_within_the_motion_of_its_clips(tmp_path: Path) -> None:
    clips = ClipSet(write_clips(tmp_path / "frames"))
    playable = card.adapted(strict.load("configs/export/nano.yaml", PlayableConfig), clips)
    assert playable.intrinsics.fx == pytest.approx(0.6) and playable.limits.height_m[0] == 0.0
    assert 0.1 < playable.limits.translation_m_per_frame <= 0.6
    assert playable.licence == "Apache-2.0" and playable.static_world
    with pytest.raises(ValueError, match="frames of 64x112 px, but the model's are 32x64 px"):
        card.write_starts(clips, tmp_path / "starts", tiny.autoencoder().config)


def test_the_shipped_model_is_one_to_begin_with() -> None:
    encoder, network = (
        load_autoencoder(Path("assets/pocket")),
        load_transformer(Path("assets/pocket")),
    )
    wanted = strict.load("configs/model/pocket.yaml", ModelConfig)
    assert (encoder.config, network.config) == (wanted.autoencoder, wanted.transformer)
