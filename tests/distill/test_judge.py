"""The judge of prompts: what it learns from, what its file holds, and what it is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.__main__ import main
from distill.clips import ClipSet, write_manifest, write_shard
from distill.evaluate import Model, Truth, known_to, load_truth
from distill.judge import UNSAID, WORDS, Judge, JudgeConfig, labels_of, load_judge, save_judge
from distill.judge_training import (
    JudgeTraining,
    balance,
    judge_loss,
    labelled,
    train_judge,
    words_in,
)
from distill.prompt_change import WITHIN, Asking, prompt_change, visible
from distill.rollout import Views
from distill.scenes.changes import FRAMES as CHANGE_FRAMES
from tests.worldmodel import tiny
from worldmodel.checkpoint import save_model

CPU = torch.device("cpu")
FRAMES, CHANGED = 44, 12
DAY, NIGHT = "old town, day, clear, birds", "old town, night, clear, birds"
SMALL = JudgeConfig(words={"time": ("day", "night"), "weather": ("clear", "fog")}, widths=(8, 8))


def bright_and_dark_clips(folder: Path) -> ClipSet:
    """Noise that is bright by day and dark by night, and one clip that changes late."""
    random = np.random.default_rng(0)
    prompts = [DAY, NIGHT, [DAY] * CHANGED + [NIGHT] * (FRAMES - CHANGED)]
    dark = np.array([[prompt == NIGHT for prompt in _each(prompts[i])] for i in range(3)])
    noise = random.integers(0, 100, (3, FRAMES, 32, 64, 3))
    folder.mkdir()
    write_shard(
        folder / "00000.safetensors",
        cameras=np.stack([[c.camera_from_world for c in tiny.walk(FRAMES, i)] for i in range(3)]),
        intrinsics=np.tile(np.array([0.6, 1.05, 0.5, 0.5], np.float32), (3, FRAMES, 1)),
        prompts=prompts,
        metadata={},
        frames=(noise + np.where(dark, 0, 150)[..., None, None, None]).astype(np.uint8),
    )
    write_manifest(folder, source="noise", licence="Apache-2.0")
    return ClipSet(folder)


def _each(prompt: str | list[str]) -> list[str]:
    return [prompt] * FRAMES if isinstance(prompt, str) else prompt


def test_the_label_of_a_prompt_is_the_word_it_says_and_none_where_it_says_nothing() -> None:
    found = labels_of("snowfield, dusk, boats", WORDS)
    assert WORDS["place"][found["place"]] == "snowfield"
    assert WORDS["time"][found["time"]] == "dusk"
    assert found["weather"] == UNSAID


def test_the_judge_learns_the_words_that_its_clips_tell_apart(tmp_path: Path) -> None:
    assert words_in(bright_and_dark_clips(tmp_path / "clips")) == {"time": ("day", "night")}


def test_frames_in_which_a_change_is_still_on_its_way_are_no_examples(tmp_path: Path) -> None:
    known = labelled(bright_and_dark_clips(tmp_path / "clips"), {"time": ("day", "night")})
    third = known.frame[known.clip == 2]
    unsettled = range(CHANGED, CHANGED + CHANGE_FRAMES[1])
    assert set(third.tolist()) == set(range(FRAMES)) - set(unsettled)
    assert known.labels["time"][known.clip == 2].tolist() == [0] * CHANGED + [1] * (
        FRAMES - CHANGED - CHANGE_FRAMES[1]
    )


def test_what_is_rare_weighs_more_and_what_is_unsaid_nothing() -> None:
    labels = np.array([0, 0, 0, 1, UNSAID])
    torch.testing.assert_close(balance(labels, 2), torch.tensor([4 / 6, 4 / 2]))
    scores = {"time": torch.randn(3, 2)}
    unsaid = {"time": torch.full((3,), UNSAID)}
    assert float(judge_loss(scores, unsaid, {"time": torch.ones(2)})) == 0.0


def test_a_trained_judge_tells_day_from_night_and_sees_a_true_change(tmp_path: Path) -> None:
    clips, out = bright_and_dark_clips(tmp_path / "clips"), tmp_path / "judge.safetensors"
    measured = train_judge(clips, clips, out, JudgeTraining(steps=30, batch_size=16), CPU)
    held_out = measured["held_out"]
    assert held_out["accuracy"]["time"] > 0.95
    assert set(held_out["accuracy_by_word"]["time"]) == {"day", "night"}
    assert held_out["true_changes"] == {"changes": 1, "visible": {"10": 1.0, "30": 1.0}}
    judge, told = load_judge(out)
    assert told["held_out"] == held_out and len(told["digest"]) == 8
    night = torch.from_numpy(np.array(clips.array("frames", 1, 0, 1))).permute(0, 3, 1, 2)
    found = judge.probabilities(night / 127.5 - 1)["time"]
    assert found.argmax().item() == 1


def test_the_file_of_a_judge_is_small_and_gives_back_its_judgement(tmp_path: Path) -> None:
    judge, path = Judge(JudgeConfig(words=WORDS)).eval(), tmp_path / "judge.safetensors"
    save_judge(judge, {"held_out": {}}, path)
    assert path.stat().st_size <= 300_000
    again, _ = load_judge(path)
    frames = torch.rand(2, 3, 128, 224) * 2 - 1
    for name, found in judge.probabilities(frames).items():
        torch.testing.assert_close(again.probabilities(frames)[name], found, atol=0.02, rtol=0)


def test_a_judge_that_is_damaged_missing_or_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    with pytest.raises(FileNotFoundError, match="judge train"):
        load_judge(path)
    save_judge(Judge(SMALL), {}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged or truncated"):
        load_judge(path)
    model = Path(__file__).parents[2] / "assets/pocket/autoencoder-1-of-1.safetensors"
    with pytest.raises(ValueError, match="not a judge"):
        load_judge(model)


def test_a_word_is_visible_when_the_last_frames_together_say_so() -> None:
    never, late = torch.zeros(40, 2), torch.zeros(40, 2)
    never[:, 0], late[:9, 0], late[9:, 1] = 1.0, 1.0, 1.0
    found = torch.stack([never, late])
    word = torch.tensor([1, 1])
    assert visible(found, word, 10).tolist() == [False, False]  # one glance decides nothing
    assert visible(found, word, 11).tolist() == [False, True]
    assert visible(found, word, 30).tolist() == [False, True]


def world(clips: int = 3, frames: int = 4) -> Truth:
    random = torch.Generator().manual_seed(0)
    poses = [np.stack([c.camera_from_world for c in tiny.walk(frames, s)]) for s in range(clips)]
    return Truth(
        frames=torch.randint(0, 255, (clips, frames, 32, 64, 3), generator=random).byte(),
        latents=torch.randn(clips, frames, 8, 4, generator=random),
        views=Views(
            cameras=torch.from_numpy(np.stack(poses)),
            intrinsics=torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(clips, frames, 4),
            words=torch.zeros(clips, 2),
        ),
    )


def model(vocabulary: tuple[str, ...]) -> Model:
    return Model(
        playable=tiny.playable(),
        autoencoder=tiny.autoencoder(),
        transformer=tiny.transformer(vocabulary),
        device=CPU,
        dtype=torch.float32,
    )


class Brightness(Judge):
    """Says "night" of frames that a stub marked as made with that word."""

    marked: Tensor

    def probabilities(self, frames: Tensor) -> dict[str, Tensor]:
        night = (frames.mean((1, 2, 3)) < 0).float()
        clear = torch.ones(len(frames))
        return {
            "time": torch.stack([1 - night, night], -1),
            "weather": torch.stack([clear, 1 - clear], -1),
        }


def shows_the_words(_model: Model, known: Tensor, views: Views, _steps: int) -> Tensor:
    """Latents that hold how far the prompt says "night", each frame its own."""
    night = views.words[..., 1][..., None, None]
    return night.expand(-1, -1, *known.shape[2:])


def dark_where_marked(_model: Model, latents: Tensor) -> Tensor:
    return (1 - 2 * latents.mean((1, 2)))[:, None, None, None].expand(-1, 3, 32, 64)


def test_a_model_that_obeys_is_told_from_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["day, clear", "night, clear", "day, fog"]
    asking = Asking(Brightness(SMALL), {"digest": "stub"}, prompts)
    obeying, truth = model(("day", "night")), world()
    monkeypatch.setattr("distill.prompt_change.generate", shows_the_words)
    monkeypatch.setattr("distill.prompt_change.decode", dark_where_marked)
    found = prompt_change(obeying, truth, 2, asking)
    row = found.numbers["by_head"]["time"]
    assert set(found.numbers["by_head"]) == {"time"}, "the model knows no weather"
    assert found.numbers["visible"] == row["visible"] == {"10": 1.0, "30": 1.0}
    assert row["not_asked"] == {"10": 0.0, "30": 0.0}
    assert row["stays"] == {"10": 1.0, "30": 1.0}
    assert row["by_word"]["night"] == {"walks": 2, "visible": 1.0}
    assert found.asked[0].prompts == ["night", "day", "night"]
    assert found.asked[0].frames.shape == (3, 1 + WITHIN[-1], 32, 64, 3)
    assert found.numbers["curve"]["time"] == [1.0] * WITHIN[-1]

    def deaf(made_by: Model, known: Tensor, views: Views, steps: int) -> Tensor:
        first = replace(views, words=views.words[:, :1].expand_as(views.words))
        return shows_the_words(made_by, known, first, steps)

    monkeypatch.setattr("distill.prompt_change.generate", deaf)
    assert prompt_change(obeying, truth, 2, asking).numbers["visible"] == {"10": 0.0, "30": 0.0}


def test_a_real_rollout_changes_its_frames_from_the_change_on() -> None:
    asking = Asking(Judge(SMALL).eval(), {}, ["day, clear", "night", "birds"])
    found = prompt_change(model(("day", "night")), world(), 2, asking)
    (asked,) = found.asked
    assert asked.clips.tolist() == [0, 1], "the third prompt names no hour"
    assert found.numbers["walks"] == 2
    assert len(found.numbers["curve"]["time"]) == WITHIN[-1]


def test_an_evaluation_tells_the_model_the_words_it_knows_of_every_clip(tmp_path: Path) -> None:
    clips = bright_and_dark_clips(tmp_path / "clips")
    knows = model(("day", "night"))
    told = load_truth(clips, knows, 3, 3).views.words
    said = [[float(word in clips.prompt(clip)) for word in ("day", "night")] for clip in range(3)]
    assert told.tolist() == said and {tuple(row) for row in said} == {(1.0, 0.0), (0.0, 1.0)}
    assert not load_truth(clips, knows, 3, 3, words=False).views.words.any()


def test_words_that_a_model_does_not_know_are_left_out_and_none_shared_is_an_error() -> None:
    assert known_to(model(("day", "night")), DAY) == "day"
    with pytest.raises(ValueError, match="share no hours or weathers"):
        asking = Asking(Judge(SMALL).eval(), {}, ["day"] * 3)
        prompt_change(model(("snowfield",)), world(), 2, asking)


def test_the_command_trains_a_judge_and_refuses_to_lose_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bright_and_dark_clips(tmp_path / "clips")
    out = tmp_path / "judge.safetensors"
    words = ["judge", "train", "--data", str(tmp_path / "clips"), "--device", "cpu"]
    words += ["--held-out", str(tmp_path / "clips"), "--steps", "2", "--out"]
    assert main([*words, str(out)]) == 0
    assert '"accuracy"' in capsys.readouterr().out
    assert main([*words, str(out)]) == 2
    assert "already there" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "judge.bin")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err


def test_an_evaluation_with_a_judge_holds_numbers_plot_page_and_pictures_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TURN_FRAMES", "OUT_FRAMES"):
        monkeypatch.setattr(f"distill.returning.{name}", 3)
    clips = bright_and_dark_clips(tmp_path / "clips")
    words = JudgeConfig(words={"time": ("day", "night")}, widths=(8, 8))
    held_out = {"frames": 9, "accuracy": {"time": 0.9}, "true_changes": None}
    told = {"trained_on": "nothing", "held_out": held_out}
    save_judge(Judge(words), told, tmp_path / "judge.safetensors")
    vocabulary = ("day", "night")
    save_model(
        tmp_path / "model", tiny.playable(), tiny.autoencoder(), tiny.transformer(vocabulary)
    )
    out = tmp_path / "results" / "evaluation.json"
    command = ["evaluate", str(tmp_path / "model"), "--data", str(clips.folder), "--out", str(out)]
    command += ["--judge", str(tmp_path / "judge.safetensors"), "--quick", "--longest", "8"]
    command += ["--walks", "2", "--walk-frames", "12", "--still-frames", "4", "--device", "cpu"]
    assert main(command) == 0
    result = json.loads(out.read_text())
    assert set(result["prompt_change_visible"]) == {"10", "30"}
    assert result["prompt_change"]["by_head"]["time"]["walks"] == 3
    page = out.with_suffix(".md").read_text()
    assert "## Changes of the prompt" in page and "held-out clips have no changes" in page
    assert "evaluation-prompts.svg" in page and "evaluation-time.jpg" in page
    assert (out.parent / "evaluation-prompts.svg").is_file()
    assert Image.open(out.parent / "evaluation-time.jpg").size == (7 * 64, 3 * 32)
