"""Teachers of stage 3: what they make by themselves, and that they may be larger than their students."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill import lineage
from distill.__main__ import main
from distill.clips import ClipSet
from distill.evaluate import decode_clips
from distill.matching import DistributionMatching
from distill.objectives import Moment
from distill.processes import Processes
from distill.speed import random_batch
from distill.stage_networks import build_networks
from distill.stage_objectives import build_objective
from distill.stages import ModelConfig, load_stage
from distill.teacher_samples import Extent, sampled, write_samples
from tests.distill.clip_maker import write_clips
from tests.distill.network_maker import tiny_model
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import save_model, save_module
from worldmodel.transformer import WorldTransformer

ALONE = Processes(0, 1, torch.device("cpu"))
NANO = Path("configs/stage/nano/3.yaml")


class _Knowing(WorldTransformer):
    """Knows the true clip, whatever noise it is shown."""

    clip: Tensor
    seen: list[Tensor]

    def forward(  # type: ignore[override]
        self, latents: Tensor, sigma: Tensor, *_others: Any
    ) -> Tensor:
        self.seen.append(sigma)
        return (latents - self.clip) / sigma.clamp_min(1e-9)[..., None, None]


@pytest.mark.parametrize("given", [0, 2])
@pytest.mark.parametrize("level", [1.0, 0.6])
def test_a_teacher_that_knows_the_truth_makes_it_from_any_noise(level: float, given: int) -> None:
    model = tiny_model()
    clip = torch.randn(2, 8, 8, 4)
    network = _Knowing(tiny.transformer_config())
    network.clip, network.seen = clip, []
    model = replace(model, transformer=network)
    extent = Extent(frames=8, denoising_steps=6)
    poses = torch.eye(4, dtype=torch.float64).expand(2, 8, 4, 4)
    lens = torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(2, 8, 4)
    place = network.geometry(poses, lens, torch.arange(8.0).expand(2, 8))
    made = sampled(model, clip, place, torch.zeros(2, 1), level, given, extent)
    torch.testing.assert_close(made, clip, rtol=1e-4, atol=1e-4)
    first, whole = network.seen[0], flow.schedule(6, extent.shift)
    assert first[:, given:].unique().tolist() == pytest.approx([level])
    assert not first[:, :given].any()
    assert len(network.seen) == 1 + int(((whole < level - 1e-6) & (whole > 0)).sum())


def test_a_teacher_that_is_led_away_from_a_worse_one_goes_on_beyond_itself() -> None:
    """The worse one knows half of the clip: with a weight of 2 all that it lacks is added once more."""
    model, clip = tiny_model(), torch.randn(2, 4, 8, 4)
    teachers = []
    for share in (1.0, 0.5):
        network = _Knowing(tiny.transformer_config())
        network.clip, network.seen = share * clip, []
        teachers.append(replace(model, transformer=network))
    poses = torch.eye(4, dtype=torch.float64).expand(2, 4, 4, 4)
    lens = torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(2, 4, 4)
    place = teachers[0].transformer.geometry(poses, lens, torch.arange(4.0).expand(2, 4))
    extent = Extent(frames=4, denoising_steps=6, autoguidance=2.0)
    made = sampled(teachers[0], clip, place, torch.zeros(2, 1), 1.0, 0, extent, teachers[1])
    torch.testing.assert_close(made, 1.5 * clip, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="autoguidance must be at least 1"):
        Extent(autoguidance=0.5)


def test_what_a_teacher_makes_is_held_against_the_truth_and_shown(tmp_path: Path) -> None:
    _, config = load_stage(NANO, [])
    assert isinstance(config, ModelConfig)
    torch.manual_seed(0)
    autoencoder, network = Autoencoder(config.autoencoder), WorldTransformer(config.transformer)
    model = replace(tiny_model(), autoencoder=autoencoder.eval(), transformer=network.eval())
    clips = ClipSet(write_clips(tmp_path / "clips", frames=12))
    extent = Extent(clips=3, frames=6, first=4, denoising_steps=2, levels=(1.0, 0.5), given=(0, 2))
    out = tmp_path / "teacher.json"
    measured = write_samples(model, clips, extent, out)
    assert json.loads(out.read_text()) == measured
    found = [(row["given"], row["from_level"]) for row in measured["rows"]]
    assert found == [(0, 1.0), (0, 0.5), (2, 1.0), (2, 0.5)]
    picture = np.asarray(Image.open(out.with_suffix(".png")))
    assert picture.shape == (3 * 64, (1 + 4) * 3 * 112, 3)
    assert np.array_equal(picture[:64, :112], clips.array("frames", 0, 4, 6)[0])
    assert decode_clips(model, torch.zeros(1, 1, 28, 8)).shape[-3:] == (64, 112, 3)
    with pytest.raises(ValueError, match=r"clips of 12 frames; 6 of them .* --first 9 on"):
        write_samples(model, clips, replace(extent, first=9), tmp_path / "other.json")
    with pytest.raises(ValueError, match="at least two must be made"):
        Extent(frames=4, given=(3,))
    with pytest.raises(ValueError, match=r"levels of noise lie in \(0, 1\]"):
        Extent(levels=(0.0,))


def _teacher(folder: Path, **changes: Any) -> Path:
    _, model = load_stage(NANO, [])
    assert isinstance(model, ModelConfig)
    config = replace(model.transformer, **changes)
    folder.mkdir()
    network = WorldTransformer(config)
    save_module(folder, "transformer", network, config, torch.float32)
    return folder


@pytest.mark.parametrize("role", ["student", "critic"])
def test_a_teacher_and_its_critic_may_be_larger_than_the_student(role: str, tmp_path: Path) -> None:
    stage, model = load_stage(NANO, ["objective.critic_knows_step=true"])
    assert isinstance(model, ModelConfig)
    ours = model.transformer
    more = {"layers": ours.layers + 2, "heads": 2 * ours.heads, "width": 2 * ours.width}
    teacher = _teacher(tmp_path / "teacher", **more)
    networks = build_networks(stage, model, None, teacher)
    for network in networks.values():
        tiny.shaken(network, 0.05)  # a new one changes nothing
    objective = build_objective(stage, model, networks, teacher)
    assert isinstance(objective, DistributionMatching)
    assert objective._plain.config == ours
    for judge in (objective._teacher, objective._critic):
        assert (judge.config.layers, judge.config.width) == (more["layers"], more["width"])
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    batch = random_batch(stage, model, ALONE.device)
    loss, _ = objective.loss(role, batch, moment)
    loss.backward()
    touched = networks[role].parameters()
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in touched)


def test_the_real_score_is_led_away_from_a_worse_teacher(tmp_path: Path) -> None:
    """Towards what only the better one knows, the student is pushed further."""
    stage, model = load_stage(NANO, ["objective.autoguidance=3.0"])
    runs = [_teacher(tmp_path / name) for name in ("teacher", "worse")]
    networks = build_networks(stage, model, None, runs[0])
    objective = build_objective(stage, model, networks, runs[0], worse_teacher=runs[1])
    assert isinstance(objective, DistributionMatching)
    words = torch.ones(1, 2)

    def score(network: object, _words: Tensor) -> Tensor:
        return torch.full((1,), 2.0 if network is objective._teacher else 0.5)

    assert objective._real(score, words).tolist() == [2.0 + 2.0 * 1.5]
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    loss, _ = objective.loss("student", random_batch(stage, model, ALONE.device), moment)
    assert bool(loss.isfinite())
    worse = objective._worse
    assert worse is not None
    assert not any(p.requires_grad for p in worse.parameters())


def test_a_worse_teacher_is_asked_for_and_refused_without_autoguidance(tmp_path: Path) -> None:
    stage, model = load_stage(NANO, [])
    teacher = _teacher(tmp_path / "teacher")
    guided = load_stage(NANO, ["objective.autoguidance=2.0"])[0]
    with pytest.raises(ValueError, match=r"autoguidance needs --worse-teacher: the run folder of"):
        lineage.check(guided.objective, None, teacher)
    networks = build_networks(stage, model, None, teacher)
    with pytest.raises(ValueError, match=r"--worse-teacher is of no use without objective\.autog"):
        build_objective(stage, model, networks, teacher, worse_teacher=teacher)
    with pytest.raises(ValueError, match="a playable model is a causal network"):
        lineage.check(guided.objective, None, teacher, Path("assets/pocket"))
    with pytest.raises(ValueError, match="autoguidance must be at least 1"):
        load_stage(NANO, ["objective.autoguidance=0.5"])


@pytest.mark.parametrize(
    "changes", [{"latent_channels": 4}, {"metres_per_unit": 7.0}, {"grid": (4, 6)}]
)
def test_a_teacher_that_sees_other_latents_or_places_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    stage, model = load_stage(NANO, [])
    teacher = _teacher(tmp_path / "teacher", **changes)
    with pytest.raises(ValueError, match="a teacher may be larger than its student, but sees"):
        build_networks(stage, model, None, teacher)


def test_a_network_that_sees_no_later_frames_is_no_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", frames=12), tmp_path / "teacher.json"
    given = ["--model", "assets/pocket", "--data", str(clips), "--out", str(out)]
    assert main(["teacher", "assets/pocket", *given]) == 2
    assert "a bidirectional one is needed: the run folder of stage 0" in capsys.readouterr().err
    assert not out.exists()


def test_a_teacher_is_asked_by_a_command_that_makes_the_folder_it_writes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = load_stage(NANO, [])
    assert isinstance(model, ModelConfig)
    teacher, playable = _teacher(tmp_path / "teacher"), tmp_path / "model"
    autoencoder = Autoencoder(model.autoencoder)
    save_model(playable, tiny.playable(), autoencoder, WorldTransformer(model.transformer))
    clips, out = write_clips(tmp_path / "clips", frames=20), tmp_path / "new" / "teacher.json"
    asked = ["--levels", "0.5", "--given", "0,2", "--first", "2", "--denoising-steps", "2"]
    folders = ["--model", str(playable), "--data", str(clips), "--out", str(out)]
    assert main(["teacher", str(teacher), *folders, *asked]) == 0
    assert [row["given"] for row in json.loads(out.read_text())["rows"]] == [0, 2]
    guided = ["--overwrite", "--worse-teacher", str(teacher)]
    assert main(["teacher", str(teacher), *folders, *asked, *guided]) == 2
    assert "belong together" in capsys.readouterr().err
    assert main(["teacher", str(teacher), *folders, *asked, *guided, "--autoguidance", "2.0"]) == 0
    assert json.loads(out.read_text())["autoguidance"] == 2.0
    assert out.with_suffix(".png").is_file()
