"""From converted base weights and clips of frames to a two-step Wan model that plays, at nano size."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.__main__ import main
from distill.clips import ClipSet, write_manifest, write_shard
from tests.worldmodel import tiny, tiny_wan
from worldmodel.autoencoder import frames_to_float
from worldmodel.checkpoint import read_playable
from worldmodel.convert import convert
from worldmodel.models import load_decoder, open_prompts
from worldmodel.session import load_session
from worldmodel.types import Start
from worldmodel.wan_vae import WanVae, WanVaeConfig

FRAMES = 23  # 6 latents, of 21
VAE = WanVaeConfig(height_px=32, width_px=48, vae_channels=16, base_width=4)
KIND = "{kind: wan_vae, height_px: 32, width_px: 48, vae_channels: 16, base_width: 4}"
SMALL = [
    "stage_0_steps=2", "stage_1_steps=2", "stage_2_steps=2", "stage_3_steps=2", "clips_per_step=1",
    "model=configs/model/wan-nano.yaml", "frames=6", "compile=false", "name=walked",
]  # fmt: skip


def write_base(folder: Path) -> Path:
    """A converted model without cameras, that knows one prompt."""
    pytest.importorskip("diffusers")
    folder.mkdir(parents=True)
    wanted = tiny_wan.model_config("transformer.camera=false", f"decoder={KIND}")
    source, vae = folder / "source.safetensors", folder / "vae.safetensors"
    save_file(tiny_wan.published(tiny_wan.transformer(wanted.transformer), "wan"), source)
    torch.manual_seed(4)
    save_file(WanVae(VAE).vae.state_dict(), vae)
    convert(source, folder / "base", wanted, decoder=vae)
    open_prompts(folder / "base").store("meadow", torch.randn(5, 20))
    return folder / "base"


def write_frames(folder: Path, prompt: str = "meadow") -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    walks = [tiny.walk(FRAMES, seed=seed) for seed in (0, 1)]
    cameras = np.stack([np.stack([one.camera_from_world for one in walk]) for walk in walks])
    coarse = random.integers(0, 255, (2, FRAMES, 4, 6, 3), dtype=np.uint8)
    write_shard(
        folder / "00000.safetensors",
        cameras=cameras,
        intrinsics=np.tile(np.array([0.6, 1.05, 0.5, 0.5], np.float32), (2, FRAMES, 1)),
        prompts=[prompt, ""],
        metadata={},
        frames=coarse.repeat(8, axis=2).repeat(8, axis=3),
    )
    facts = {"frames_per_second": 12.0}
    write_manifest(folder, source="noise", licence="CC0-1.0", **{"import": facts})
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything ran: base/base, clips/, run/."""
    root = tmp_path_factory.mktemp("finetune-wan")
    words = [f"data={write_frames(root / 'clips')}", f"from={write_base(root / 'base')}", *SMALL]
    command = ["pipeline", "configs/pipeline/finetune-wan.yaml", *words, "--out", str(root / "run")]
    assert main([*command, "--here", "--device", "cpu"]) == 0
    return root


def test_a_base_becomes_a_two_step_model_that_plays(mine: Path) -> None:
    export = mine / "run" / "export"
    playable = read_playable(export)
    assert (playable.name, playable.licence) == ("walked", "CC0-1.0")
    assert (playable.rollout.steps, playable.frames_per_second) == (2, 12.0)
    session = load_session(export, device="cpu")
    walk = tiny.walk(3)
    session.reset(Start(seed=1, prompt="meadow"), walk[0])
    frames = [session.step([camera]) for camera in walk[1:]]
    assert [shown.shape for shown in frames] == [(4, 32, 48, 3)] * 2
    card = (export / "README.md").read_text()
    assert "begun with the model wan-nano" in card
    assert "stage-3: distribution matching, 2 steps" in card


def test_limits_of_play_are_those_of_a_latent_frame(mine: Path) -> None:
    cameras = np.concatenate([shard.array("cameras") for shard in ClipSet(mine / "clips").shards])
    places = np.linalg.inv(cameras)[:, ::4, :3, 3][:, :6]
    steps = np.linalg.norm(np.diff(places, axis=1), axis=-1)
    found = read_playable(mine / "run" / "export").limits.translation_m_per_frame
    assert steps.mean() < found <= steps.max() + 1e-6


def test_every_stage_moved_the_weights_it_began_with(mine: Path) -> None:
    def weights(name: str) -> dict[str, Tensor]:
        (file,) = (mine / "run" / name).glob("transformer-*.safetensors")
        return load_file(file)

    stages = [weights(f"stage-{index}") for index in range(4)]
    for before, after in pairwise(stages):
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], after[key]) for key in before)
    branch = [key for key in stages[0] if "camera_o" in key]
    assert branch
    assert any(stages[3][key].any() for key in branch), "the camera branch begins to speak"


def test_a_clip_is_encoded_as_one_frame_and_then_four(mine: Path) -> None:
    frames, latents = ClipSet(mine / "clips"), ClipSet(mine / "run" / "latents")
    assert latents.frames_per_clip == 6
    assert latents.manifest["frames_per_latent"] == 4
    assert latents.manifest["licence"] == "CC0-1.0"
    vae = load_decoder(mine / "base" / "base")
    assert isinstance(vae, WanVae)
    clip = torch.from_numpy(np.array(frames.array("frames", 1)))
    with torch.inference_mode():
        first = vae.encode(frames_to_float(clip[:1]))
        five = vae.encode(frames_to_float(clip[:5]))
    stored = torch.from_numpy(np.array(latents.array("latents", 1))).float()
    torch.testing.assert_close(stored[:1], first[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(stored[:2], five[0], rtol=2e-3, atol=2e-3)
    assert np.array_equal(latents.array("cameras", 1), frames.array("cameras", 1)[:24:4])


def test_prompts_lie_beside_the_latents_once(mine: Path) -> None:
    (stored,) = (mine / "run" / "latents" / "prompts").iterdir()
    known = open_prompts(mine / "base" / "base")
    assert stored.name == known.path_of("meadow").name
    assert torch.equal(
        load_file(stored)["embeddings"], load_file(known.path_of("meadow"))["embeddings"]
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("unknown prompt", "no embeddings of 'a castle' and 0 more prompts; say --umt5 DIR"),
        ("other size", "frames of 64x112 px, the model reads 32x48"),
        ("tiny decoder", "its decoder cannot encode; convert with Wan's own autoencoder"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(
    what: str, message: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.distill.clip_maker import write_clips

    base = mine / "base" / "base"
    clips = write_frames(tmp_path / "clips", "a castle" if what == "unknown prompt" else "meadow")
    if what == "other size":
        clips = write_clips(tmp_path / "larger")
    elif what == "tiny decoder":
        base = tiny_wan.model_folder(tmp_path)
    out = tmp_path / "latents"
    command = ["encode", str(clips), "--autoencoder", str(base), "--out", str(out)]
    assert main([*command, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "manifest.json").exists()


def test_the_record_of_a_run_says_what_it_cost(mine: Path) -> None:
    report = json.loads((mine / "run" / "stage-2" / "report.json").read_text())
    assert report["steps"] == 2
    assert report["init"].endswith("stage-1")
    assert report["last"]["loss"] > 0
