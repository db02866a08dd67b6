"""Which place, hour and weather does a frame show: a small classifier trained on the renderer's frames.

It is an instrument, not a part of a model: the evaluation asks it whether a frame shows what a prompt
said. What it errs by on true frames it has not seen is written into its file and reported beside.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.scenes.places import ALL_BIOMES, ALL_TIMES, ALL_WEATHER
from worldmodel import config as strict
from worldmodel.checkpoint import assign
from worldmodel.prompts import prompt_parts

KIND = "judge"
WORDS = {
    "place": tuple(biome.name for biome in ALL_BIOMES),
    "time": tuple(time.name for time in ALL_TIMES),
    "weather": tuple(weather.name for weather in ALL_WEATHER),
}
UNSAID = -1  # the label of a prompt that says nothing about a head


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    words: dict[str, tuple[str, ...]]  # of each head: what it tells apart
    widths: tuple[int, ...] = (16, 32, 48, 64, 80)  # one per halving of the resolution
    kind: str = KIND

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise ValueError(f"holds a {self.kind}, not a judge")
        if not self.words or min(map(len, self.words.values())) < 2:
            raise ValueError("a judge needs at least two words to tell apart")


class Judge(nn.Module):
    """Frames [n 3 H W] in [-1, 1], of any size, to scores [n words] of each head."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = 3
        for target in config.widths:
            layers += [
                nn.Conv2d(width, target, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(target),
                nn.ReLU(),
            ]
            width = target
        self.layers = nn.Sequential(*layers)
        heads = {name: nn.Linear(2 * width, len(words)) for name, words in config.words.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        seen = self.layers(frames)
        pooled = torch.cat([seen.mean((-2, -1)), seen.amax((-2, -1))], dim=-1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, frames: Tensor) -> dict[str, Tensor]:
        """Of each head's words: float32 [n words]."""
        scores = self(frames.to(next(self.parameters()).device, torch.float32))
        return {name: functional.softmax(found, dim=-1) for name, found in scores.items()}


def labels_of(prompt: str, words: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """The number of the word that a prompt says, for each head; UNSAID where it says none."""
    parts = prompt_parts(prompt)
    return {
        name: next((i for i, word in enumerate(known) if word in parts), UNSAID)
        for name, known in words.items()
    }


def save_judge(judge: Judge, measured: dict[str, Any], path: Path) -> None:
    """One safetensors file, whole or not at all: kernels in bfloat16, all that is small in float32."""
    tensors = {
        name: value.detach().cpu().to(torch.bfloat16 if value.ndim > 1 else torch.float32)
        for name, value in judge.state_dict().items()
    }
    metadata = {
        "config": json.dumps(strict.to_plain(judge.config)),
        "measured": json.dumps(measured),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata)
    partial.replace(path)


def load_judge(path: Path) -> tuple[Judge, dict[str, Any]]:
    """A judge, ready to be asked, and what was measured when it was trained.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no judge here; `python -m distill judge train` makes one")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated weights ({error})") from error
    if not {"config", "measured"} <= metadata.keys():
        raise ValueError(f"{path}: holds weights of something else, not a judge")
    judge = Judge(strict.build(json.loads(metadata["config"]), JudgeConfig, where=str(path)))
    assign(judge, tensors, str(path))
    measured = json.loads(metadata["measured"])
    return judge.eval(), {"digest": _digest(path), **measured}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
