"""Contact sheets of camera following: what the model is told, and what lies where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.evaluate import Model
from distill.rollout import rollout
from distill.scenes.world import make_world
from distill.walks import LABEL_PX, walk_sheet
from tests.worldmodel import tiny
from worldmodel.transformer import prompt_words

WORLD = 800_000_025


def _model(vocabulary: tuple[str, ...]) -> Model:
    return Model(
        playable=tiny.playable(),
        autoencoder=tiny.autoencoder(),
        transformer=tiny.transformer(vocabulary),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def test_a_walk_is_generated_with_the_words_of_its_world_below_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = make_world(WORLD).prompt.split(", ")
    model = _model((*words[:1], "a word of no world"))
    told: list[Tensor] = []

    def listening(*inputs: Any, **more: Any) -> Tensor:
        told.append(inputs[4].words)
        return rollout(*inputs, **more)

    monkeypatch.setattr("distill.walks.rollout", listening)
    table = tmp_path / "walks.yaml"
    row = f"{{name: w, world: {WORLD}, trajectory: 'w*3', frames_per_second: 12.0}}"
    table.write_text(f"walks: [{row}]\n")
    sheet = walk_sheet(model, table, steps=1, columns=2)
    assert told[0].tolist() == [prompt_words(model.transformer.config.vocabulary, words[0])]
    assert told[0].tolist() == [[1.0, 0.0]]
    config = model.autoencoder.config
    assert sheet.shape == (LABEL_PX + 2 * config.height_px, 2 * config.width_px, 3)
