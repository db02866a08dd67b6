"""The profile counts the work that must be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.speed import profile_stage, step_flops
from distill.stages import load_stage


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


@pytest.mark.parametrize("name", ["autoencoder", "0", "1"])
def test_a_stage_can_be_profiled_without_data(name: str) -> None:
    stage, model = load_stage(Path(f"configs/stage/nano/{name}.yaml"), [])
    result = profile_stage(stage, model, torch.device("cpu"), steps=1, kernels=3)
    assert result["step_ms"] > 0
    assert 0 < result["share_of_ceiling"] < 1
    assert result["kernels"] == []
