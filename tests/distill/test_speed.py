"""The profile counts the work that must be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.batches import LatentBatch
from distill.networks import make_transformer
from distill.objectives import FlowMatching, Moment
from distill.processes import Processes
from distill.speed import Extent, profile_stage, random_batch, step_flops
from distill.stages import load_stage
from tests.distill.clip_maker import write_clips
from worldmodel.attention import attend_all

ALONE = Processes(0, 1, torch.device("cpu"))
WAN = ["model=configs/model/wan-nano.yaml", "compile=false", "frames=4", "accumulate=1"]


def test_teacher_forced_attention_counts_what_the_mask_allows() -> None:
    stage, model = load_stage(Path("configs/stage/nano/1.yaml"), ["frames=5"])
    # 1 sink and 3 window frames: clean 1 2 3 4 4, noisy 1 2 3 4 5
    pairs, tokens, config = 14 + 15, 28, model.transformer
    per_layer = 2 * 64 * 32 * (2 + 1) + 2 * 64 * 128
    matrices = 6 * config.layers * per_layer * 2 * 5 * tokens
    attention = 14 * config.layers * pairs * tokens**2 * config.width
    assert step_flops(stage, model) == stage.batch_size * (matrices + attention)


def test_twice_the_batch_is_twice_the_work() -> None:
    for name in ("autoencoder", "0", "1"):
        stage, model = load_stage(Path(f"configs/stage/nano/{name}.yaml"), [])
        double = replace(stage, batch_size=2 * stage.batch_size)
        assert step_flops(double, model) == pytest.approx(2 * step_flops(stage, model))


@pytest.mark.parametrize("name", ["autoencoder", "0", "1", "2-causal-cd"])
def test_a_stage_can_be_profiled_without_data(name: str) -> None:
    stage, model = load_stage(Path(f"configs/stage/nano/{name}.yaml"), [])
    result = profile_stage(stage, model, ALONE, Extent(steps=1, kernels=3))
    assert result["step_ms"] > 0
    assert 0 < result["share_of_ceiling"] < 1
    assert result["kernels"] == []


def test_the_work_of_a_wan_pass_is_what_torch_counts_in_its_matrices() -> None:
    stage, model = load_stage(Path("configs/stage/wan-0.yaml"), WAN)
    network = make_transformer(model.transformer)
    batch = random_batch(stage, model, ALONE.device)
    assert isinstance(batch, LatentBatch)
    geometry = network.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    kernels, sigma = [attend_all] * model.transformer.layers, torch.ones(1, 4)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # others are not counted on a CPU
        network(batch.latents.float(), sigma, batch.words, geometry, kernels)
    # a backward pass is two forward ones; what is left out is work that does not grow with tokens
    counted = 3 * counter.get_total_flops()
    assert step_flops(stage, model, backward_attention=2.0) == pytest.approx(counted, rel=0.15)
    assert step_flops(stage, model, backward_attention=2.0) < counted


def test_a_consistency_step_is_two_passes_more_than_it_trains_and_three_with_guidance() -> None:
    path = Path("configs/stage/wan-2-causal-cd.yaml")
    guided, model = load_stage(path, WAN)
    plain, _ = load_stage(path, [*WAN, "objective.guidance=1.0"])
    trained, _ = load_stage(Path("configs/stage/wan-1.yaml"), WAN)
    once = step_flops(trained, model, backward_attention=2.0) / 3
    assert step_flops(plain, model, backward_attention=2.0) == pytest.approx(5 * once)
    assert step_flops(guided, model, backward_attention=2.0) == pytest.approx(6 * once)


@pytest.mark.parametrize("name", ["wan-0", "wan-2-causal-cd", "wan-3"])
def test_a_wan_stage_is_profiled_with_random_weights_and_from_disk(
    name: str, tmp_path: Path
) -> None:
    stage, model = load_stage(Path(f"configs/stage/{name}.yaml"), WAN)
    extent = Extent(steps=1, warm=0, parts=False, data=tmp_path / "noise")
    result = profile_stage(stage, model, ALONE, extent)
    assert result["step_ms"] > 0
    assert 0 < result["from_disk_share_of_synthetic"] < 10
    assert ("mfu" in result) == (name != "wan-3")


@pytest.mark.parametrize("change", [False, True])
def test_the_batch_that_is_profiled_has_words_as_the_data_have(
    change: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was captured with one prompt a clip takes no batch with one a frame."""
    stage, model = load_stage(Path("configs/stage/nano/1.yaml"), [])
    data, shapes = write_clips(tmp_path / "data", frames=stage.frames, latents=True), set()
    if change:
        monkeypatch.setattr("distill.clips.ClipSet.prompts_change", True)
        monkeypatch.setattr(
            "distill.clips.ClipSet.frame_prompts", lambda *_: ["meadow"] * stage.frames
        )
    plain = FlowMatching.loss

    def watched(self: FlowMatching, role: str, batch: LatentBatch, moment: Moment) -> Any:
        shapes.add(tuple(batch.words.shape))
        return plain(self, role, batch, moment)

    monkeypatch.setattr(FlowMatching, "loss", watched)
    profile_stage(stage, model, ALONE, Extent(steps=1, warm=0, parts=False, data=data))
    assert len(shapes) == 1 and len(shapes.pop()) == (3 if change else 2)
