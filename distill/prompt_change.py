"""Does the picture do what the prompt says when it changes in the middle of a walk.

Every held-out world is walked through with its own prompt, then one word of it is replaced, the hour or
the weather, and the walk goes on. A judge that was trained on true frames says what it sees. The same
walks without a change stand beside: there nothing may be seen. What the judge sees of changes in true
renders is in its own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.evaluate import BATCH_FRAMES, SEED, Model, Truth, decode, generate, known_to
from distill.judge import UNSAID, Judge, labels_of
from distill.long_play import walk_on
from worldmodel.autoencoder import frames_to_float, frames_to_uint8
from worldmodel.prompts import prompt_parts
from worldmodel.transformer import prompt_words

WITHIN = (10, 30)  # frames after the change
SETTLED = 3  # frames whose probabilities are averaged: one glance decides nothing
BEFORE = 12  # self-generated frames before the change
CHANGING = ("time", "weather")


@dataclass(frozen=True, slots=True)
class Asking:
    """Who judges, and what the true prompts are."""

    judge: Judge
    measured: dict[str, Any]  # what its file says about it
    prompts: list[str]  # of the clips, at the last known frame


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for of each walk of some clips, and what came."""

    head: str
    clips: Tensor  # [n] numbers of the clips whose prompt has such a word
    before: Tensor  # [n] numbers of the words before the change
    after: Tensor  # [n] and after it
    prompts: list[str]  # after the change
    frames: Tensor  # uint8 [n f H W 3], from the last frame before the change on


@dataclass(frozen=True, slots=True)
class PromptChange:
    numbers: dict[str, Any]
    asked: list[Asked]  # to be looked at


def visible(probabilities: Tensor, word: Tensor, within: int) -> Tensor:
    """Which walks [n] show their word [n] by frame `within` after the change.

    `probabilities` [n f words] are those of the frames from the change on. Those of the last frames up
    to that one are averaged.
    """
    glance = probabilities[:, max(within - SETTLED, 0) : within].mean(1)
    return glance.argmax(-1) == word


@torch.no_grad()
def prompt_change(model: Model, truth: Truth, known: int, asking: Asking) -> PromptChange:
    """Walk on from every clip, with its own prompt and with changed ones.

    Raises:
        ValueError: if the model knows no words that the judge can tell apart.
    """
    judge, words = asking.judge, _known_words(model, asking.judge)
    frames = BEFORE + WITHIN[-1]
    views = walk_on(model, truth, known, frames)
    prompts_here = asking.prompts[: len(truth.frames)]
    kept = [known_to(model, prompt) for prompt in prompts_here]

    def walked(prompts: Sequence[str], clips: Tensor) -> Tensor:
        """Frames from the last one before the change on, of some clips."""
        told = torch.stack(
            [
                _words(model, kept[clip], prompt, known + BEFORE, known + frames)
                for clip, prompt in zip(clips.tolist(), prompts, strict=True)
            ]
        )
        place = clips.to(truth.latents.device)
        chosen = replace(
            views,
            cameras=views.cameras[place],
            intrinsics=views.intrinsics[place],
            words=told.to(model.device),
        )
        context = truth.latents[place, :known]
        made = generate(model, context, chosen, model.playable.rollout.steps)
        return _shown(model, made[:, known + BEFORE - 1 :])

    everyone = torch.arange(len(kept))
    same = _judged(judge, walked(kept, everyone)[:, 1:])
    rows, curves, all_asked, seen = {}, {}, [], []
    for head, choices in words.items():
        clips, before, after, prompts = _changes(judge, head, choices, kept)
        if not len(clips):
            continue
        asked = Asked(head, clips, before, after, prompts, walked(prompts, clips))
        found = _judged(judge, asked.frames[:, 1:])[head]
        rows[head] = _row(judge, asked, found, same[head][clips])
        curves[head] = (found.argmax(-1) == after[:, None]).float().mean(0)
        curves[f"{head}, not asked"] = (
            (same[head][clips].argmax(-1) == after[:, None]).float().mean(0)
        )
        seen.append({within: visible(found, after, within) for within in WITHIN})
        all_asked.append(asked)
    if not rows:
        raise ValueError("--judge: the prompts of these clips name no hour or weather to change")
    numbers = {
        "visible": {
            str(within): _share(torch.cat([each[within] for each in seen])) for within in WITHIN
        },
        "rule": f"the mean judgement of {SETTLED} frames, the last of which is so many frames after"
        " the first frame with the new prompt, is the new word",
        "walks": sum(row["walks"] for row in rows.values()),
        "frames_before": BEFORE,
        "by_head": rows,
        "curve": {name: [round(x, 3) for x in line.tolist()] for name, line in curves.items()},
        "accuracy_on_true_frames": _accuracy(judge, truth.frames[:, known - 1], prompts_here),
        "accuracy_on_reconstructed_frames": _accuracy(
            judge, _shown(model, truth.latents[:, known - 1 : known])[:, 0], prompts_here
        ),
        "judge": asking.measured,
    }
    return PromptChange(numbers, all_asked)


def _known_words(model: Model, judge: Judge) -> dict[str, list[int]]:
    """Of each head that may change, the numbers of the words that the model knows, too."""
    vocabulary = model.transformer.config.vocabulary
    found = {
        head: [i for i, word in enumerate(judge.config.words[head]) if word in vocabulary]
        for head in CHANGING
        if head in judge.config.words
    }
    found = {head: numbers for head, numbers in found.items() if len(numbers) > 1}
    if not found:
        raise ValueError("--judge: it and the model share no hours or weathers to change between")
    return found


def _changes(
    judge: Judge, head: str, choices: list[int], prompts: list[str]
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Clips whose prompt has a word of the head, that word, another one, and the prompt with it."""
    words, rows = judge.config.words, []
    for clip, prompt in enumerate(prompts):
        before = labels_of(prompt, words)[head]
        if before == UNSAID:
            continue
        random = np.random.default_rng((SEED, clip, CHANGING.index(head)))
        after = int(random.choice([choice for choice in choices if choice != before]))
        parts = prompt_parts(prompt)
        told = [words[head][after] if part == words[head][before] else part for part in parts]
        rows.append((clip, before, after, ", ".join(told)))
    clips, before_all, after_all = (
        torch.tensor([row[i] for row in rows], dtype=torch.long) for i in range(3)
    )
    return clips, before_all, after_all, [row[3] for row in rows]


def _words(model: Model, before: str, after: str, change: int, frames: int) -> Tensor:
    """The words [f v] of a walk of `frames` frames whose prompt changes at frame `change`."""
    vocabulary = model.transformer.config.vocabulary
    old, new = (torch.tensor(prompt_words(vocabulary, prompt)) for prompt in (before, after))
    return torch.stack([old if frame < change else new for frame in range(frames)])


def _shown(model: Model, latents: Tensor) -> Tensor:
    """uint8 [n f H W 3] on the CPU, decoded a few at a time."""
    flat = latents.flatten(0, 1).split(BATCH_FRAMES)
    frames = torch.cat([frames_to_uint8(decode(model, part)).cpu() for part in flat])
    return frames.unflatten(0, latents.shape[:2])


def _judged(judge: Judge, frames: Tensor) -> dict[str, Tensor]:
    """Probabilities [n f words] of each head on the CPU, of frames uint8 [n f H W 3]."""
    parts = [
        judge.probabilities(frames_to_float(part))
        for part in frames.flatten(0, 1).split(BATCH_FRAMES)
    ]
    return {
        name: torch.cat([part[name].cpu() for part in parts]).unflatten(0, frames.shape[:2])
        for name in judge.config.words
    }


def _row(judge: Judge, asked: Asked, found: Tensor, same: Tensor) -> dict[str, Any]:
    """`found` and `same`: probabilities [n f words] with the change and without."""
    words = judge.config.words[asked.head]
    last = visible(found, asked.after, WITHIN[-1])

    def shares(probabilities: Tensor, word: Tensor) -> dict[str, float]:
        return {str(within): _share(visible(probabilities, word, within)) for within in WITHIN}

    return {
        "walks": len(asked.clips),
        "visible": shares(found, asked.after),
        "not_asked": shares(same, asked.after),  # the same walks and words, without the change
        "stays": shares(same, asked.before),  # without the change: still what the prompt says
        "by_word": {
            words[i]: {
                "walks": int((asked.after == i).sum()),
                "visible": _share(last[asked.after == i]),
            }
            for i in sorted(set(asked.after.tolist()))
        },
    }


def _accuracy(judge: Judge, frames: Tensor, prompts: list[str]) -> dict[str, float]:
    """Of each head on frames uint8 [n H W 3] of known prompts."""
    found = _judged(judge, frames[:, None])
    shares = {}
    for name, words in judge.config.words.items():
        told = torch.tensor([labels_of(prompt, {name: words})[name] for prompt in prompts])
        said = told != UNSAID
        if bool(said.any()):
            shares[name] = _share((found[name][:, 0].argmax(-1) == told)[said])
    return shares


def _share(these: Tensor) -> float:
    return round(float(these.float().mean()), 4)
