"""Train the judge on rendered clips, whose prompts are the labels, and measure it on held-out ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from distill.clips import ClipSet
from distill.judge import UNSAID, WORDS, Judge, JudgeConfig, labels_of, save_judge
from distill.prompt_change import WITHIN, visible
from distill.scenes.changes import FRAMES as CHANGE_FRAMES
from worldmodel.autoencoder import frames_to_float

MEASURED_FRAMES = 4096  # of the held-out clips, spread over them


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTraining:
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise ValueError("a judge is trained for at least one step, on at least one frame")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames that show what their prompt says, by their places in a data set."""

    clips: ClipSet
    clip: NDArray[np.int64]  # [n]
    frame: NDArray[np.int64]  # [n]
    labels: dict[str, NDArray[np.int64]]  # of each head [n]

    def batch(
        self, chosen: NDArray[np.int64], device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames [n 3 H W] in [-1, 1], and their labels."""
        places = zip(self.clip[chosen], self.frame[chosen], strict=True)
        frames = np.stack([self.clips.array("frames", int(c), int(f), 1)[0] for c, f in places])
        labels = {name: torch.from_numpy(found[chosen]) for name, found in self.labels.items()}
        pixels = frames_to_float(torch.from_numpy(frames).to(device))
        return pixels, {name: found.to(device) for name, found in labels.items()}


def labelled(clips: ClipSet, words: dict[str, tuple[str, ...]]) -> Labelled:
    """All frames but those in which a change of prompt is still on its way into the picture."""
    clip: list[int] = []
    frame: list[int] = []
    labels: dict[str, list[int]] = {name: [] for name in words}
    for index in range(len(clips)):
        shard, row = clips.locate(index)
        runs = shard.prompt_runs[row]
        ends = [*(first for first, _ in runs[1:]), clips.frames_per_clip]
        for (first, prompt), end in zip(runs, ends, strict=True):
            settled = range(first + (CHANGE_FRAMES[1] if first else 0), end)
            clip += [index] * len(settled)
            frame += settled
            for name, label in labels_of(prompt, words).items():
                labels[name] += [label] * len(settled)
    arrays = {name: np.array(found) for name, found in labels.items()}
    return Labelled(clips, np.array(clip), np.array(frame), arrays)


def words_in(clips: ClipSet) -> dict[str, tuple[str, ...]]:
    """The words that the prompts of some clips use, of those that a judge can know.

    Raises:
        ValueError: if there is nothing to tell apart.
    """
    parts = {prompt for shard in clips.shards for runs in shard.prompt_runs for _, prompt in runs}
    said = {
        name: {label for prompt in parts if (label := labels_of(prompt, WORDS)[name]) != UNSAID}
        for name in WORDS
    }
    found = {
        name: tuple(word for i, word in enumerate(known) if i in said[name])
        for name, known in WORDS.items()
        if len(said[name]) > 1
    }
    if not found:
        raise ValueError(
            f"{clips.folder}: its prompts name no two places, times or weathers to tell apart"
        )
    return found


def train_judge(
    clips: ClipSet, held_out: ClipSet, out: Path, training: JudgeTraining, device: torch.device
) -> dict[str, Any]:
    """Train on `clips`, measure on `held_out`, write `out`; returns what was measured."""
    torch.manual_seed(training.seed)
    random = np.random.default_rng(training.seed)
    known = labelled(clips, words_in(clips))
    judge = Judge(JudgeConfig(words=words_in(clips))).to(device).train()
    weights = {
        name: balance(known.labels[name], len(words)).to(device)
        for name, words in judge.config.words.items()
    }
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps + 1, pct_start=0.1
    )
    for _ in tqdm(range(training.steps), desc="judge", unit="step"):
        chosen = random.integers(len(known.clip), size=training.batch_size)
        frames, labels = known.batch(chosen, device)
        loss = judge_loss(judge(varied(frames)), labels, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    measured = {
        "trained_on": f"{len(clips)} clips of {clips.folder.name}, {training.steps} steps",
        "held_out": measure_judge(judge.eval(), held_out),
    }
    save_judge(judge, measured, out)
    return measured


def varied(frames: Tensor) -> Tensor:
    """Frames [n 3 H W], some mirrored, all softened by a random amount.

    Generated frames are softer than rendered ones; the judge must not take that for weather.
    """
    n, device = len(frames), frames.device
    mirrored = torch.rand(n, 1, 1, 1, device=device) < 0.5
    frames = torch.where(mirrored, frames.flip(-1), frames)
    soft = functional.avg_pool2d(frames, 3, stride=1, padding=1, count_include_pad=False)
    return torch.lerp(frames, soft, torch.rand(n, 1, 1, 1, device=device))


def judge_loss(
    scores: dict[str, Tensor], labels: dict[str, Tensor], weights: dict[str, Tensor]
) -> Tensor:
    """The sum of the heads' cross entropies; a frame whose prompt says nothing counts for nothing."""
    losses = [
        functional.cross_entropy(
            found, labels[name], weights[name], ignore_index=UNSAID, reduction="sum"
        )
        / len(found)
        for name, found in scores.items()
    ]
    return torch.stack(losses).sum()


def balance(labels: NDArray[np.int64], words: int) -> Tensor:
    """Weights of the words, the rarer the larger: a judge must not guess what is common."""
    counts = np.bincount(labels[labels != UNSAID], minlength=words).clip(1)
    return torch.tensor(counts.sum() / (words * counts), dtype=torch.float32)


def measure_judge(judge: Judge, clips: ClipSet) -> dict[str, Any]:
    """Accuracy on frames that show their prompt, and how soon true changes are seen."""
    known = labelled(clips, judge.config.words)
    count = min(MEASURED_FRAMES, len(known.clip))
    chosen = np.linspace(0, len(known.clip) - 1, count).astype(np.int64)
    device = next(judge.parameters()).device
    right: dict[str, list[Tensor]] = {name: [] for name in judge.config.words}
    told: dict[str, list[Tensor]] = {name: [] for name in judge.config.words}
    for part in np.array_split(chosen, max(count // 64, 1)):
        frames, labels = known.batch(part, device)
        for name, found in judge.probabilities(frames).items():
            right[name].append((found.argmax(-1) == labels[name]).cpu())
            told[name].append(labels[name].cpu())
    heads = {
        name: _accuracy(torch.cat(right[name]), torch.cat(told[name]), words)
        for name, words in judge.config.words.items()
    }
    return {
        "clips": len(clips),
        "data": clips.folder.name,
        "frames": count,
        "accuracy": {name: found for name, (found, _) in heads.items()},
        "accuracy_by_word": {name: found for name, (_, found) in heads.items()},
        "true_changes": true_changes(judge, clips),
    }


def _accuracy(
    right: Tensor, told: Tensor, words: tuple[str, ...]
) -> tuple[float | None, dict[str, float]]:
    """Over all frames whose prompt says one of the words, and of each word's frames."""
    said = told != UNSAID
    by_word = {
        word: round(float(right[told == i].float().mean()), 3)
        for i, word in enumerate(words)
        if bool((told == i).any())
    }
    return (round(float(right[said].float().mean()), 4) if bool(said.any()) else None), by_word


def true_changes(judge: Judge, clips: ClipSet) -> dict[str, Any] | None:
    """Of changes in rendered clips, how many are judged as the new word in time; None of none."""
    seen: dict[int, list[Tensor]] = {within: [] for within in WITHIN}
    for index in range(len(clips)):
        shard, row = clips.locate(index)
        for (_, before), (first, after) in pairwise(shard.prompt_runs[row]):
            left = clips.frames_per_clip - first
            name, word = _changed(judge, before, after)
            if name is None or left < WITHIN[0]:
                continue
            frames = np.array(clips.array("frames", index, first, min(left, WITHIN[-1])))
            found = judge.probabilities(frames_to_float(torch.from_numpy(frames)))[name]
            for within in WITHIN:
                if left >= within:
                    seen[within].append(visible(found[None].cpu(), torch.tensor([word]), within))
    if not seen[WITHIN[0]]:
        return None
    return {
        "changes": len(seen[WITHIN[0]]),
        "visible": {
            str(within): round(float(torch.cat(found).float().mean()), 4)
            for within, found in seen.items()
            if found
        },
    }


def _changed(judge: Judge, before: str, after: str) -> tuple[str | None, int]:
    """The head that two prompts differ in, and the word it must find."""
    old, new = (labels_of(prompt, judge.config.words) for prompt in (before, after))
    for name in judge.config.words:
        if new[name] not in (old[name], UNSAID):
            return name, new[name]
    return None, UNSAID
