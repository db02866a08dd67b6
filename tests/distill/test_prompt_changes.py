"""A prompt that changes while the camera moves: from the renderer through the clips to training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.batches import LatentBatch, LatentBatches
from distill.clips import ClipSet, write_manifest, write_shard
from distill.encode import encode_clips
from distill.matching import DistributionMatching
from distill.matching_config import DistributionMatchingConfig
from distill.objectives import Moment, teacher_forced
from distill.processes import Processes
from distill.render import RenderConfig, render_dataset
from distill.rollout import Views, rollout
from distill.scenes.changes import FRAMES as CHANGE_FRAMES
from distill.scenes.changes import draw_change
from distill.scenes.mix import WorldMix
from distill.scenes.paths import PathMix
from distill.scenes.world import make_world, relit
from distill.self_rollout import Plan, Player, self_rollout
from distill.stages import ModelConfig
from distill.trajectories import _prompts
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.attention import TeacherForcing
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import RolloutConfig
from worldmodel.config import load

CONFIGS = Path(__file__).parents[2] / "configs"
CPU, FRAMES, VOCABULARY = torch.device("cpu"), 6, ("day", "night")
CHANGED = 3  # the first frame of other words


def batch() -> LatentBatch:
    random = torch.Generator().manual_seed(0)
    poses = np.stack([camera.camera_from_world for camera in tiny.walk(FRAMES)])
    return LatentBatch(
        latents=torch.randn(2, FRAMES, 8, 4, generator=random).half(),
        camera_from_anchor=torch.from_numpy(poses).expand(2, FRAMES, 4, 4).contiguous(),
        intrinsics=torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(2, FRAMES, 4),
        time=torch.arange(FRAMES).float().expand(2, FRAMES),
        words=torch.tensor([[1.0, 0.0]] * 2),
    )


def per_frame(words: Tensor, changes: bool) -> Tensor:
    """The words of a clip for each frame; with `changes` the other ones from CHANGED on."""
    each = words[:, None].repeat(1, FRAMES, 1)
    if changes:
        each[:, CHANGED:] = 1.0 - each[:, CHANGED:]
    return each


def teacher_forced_with(words: Tensor) -> Tensor:
    model, given = tiny.transformer(VOCABULARY), batch()
    geometry = model.geometry(given.camera_from_anchor, given.intrinsics, given.time)
    kernels = [TeacherForcing(FRAMES, 8, tiny.CACHE, CPU)] * model.config.layers
    clean, sigma = given.latents.float(), torch.full((2, FRAMES), 0.6)
    with torch.no_grad():
        return teacher_forced(model, clean, 0.5 * clean, sigma, words, geometry, kernels)


def rolled_out_with(words: Tensor) -> Tensor:
    given = batch()
    views = Views(cameras=given.camera_from_anchor, intrinsics=given.intrinsics, words=words)
    start = given.latents[:, :1].float()
    how = RolloutConfig(steps=2, first_frame_steps=2, shift=3.0)
    model = tiny.transformer(VOCABULARY)
    return rollout(model, tiny.autoencoder(), tiny.CACHE, start, views, how=how, seed=1)


def self_rolled_out_with(words: Tensor) -> Tensor:
    model, given = tiny.transformer(VOCABULARY), batch()
    geometry = model.geometry(given.camera_from_anchor, given.intrinsics, given.time)
    levels = flow.schedule(2, 3.0).tolist()
    plan = Plan(
        levels=levels,
        exit_step=1,
        first_levels=levels,
        first_exit_step=1,
        commit="clean",
        block_frames=1,
    )
    player = Player(model, tiny.CACHE, clips=2, frames=FRAMES)
    random = torch.Generator().manual_seed(5)
    start = given.latents[:, :1].float()
    return self_rollout(model, player, geometry, words, start, plan, random).detach()


@pytest.mark.parametrize("run", [teacher_forced_with, rolled_out_with, self_rolled_out_with])
def test_words_of_every_frame_are_the_words_of_the_clip_where_they_do_not_change(run) -> None:  # type: ignore[no-untyped-def]
    words = batch().words
    assert run(per_frame(words, changes=False)).allclose(run(words), atol=1e-5)


@pytest.mark.parametrize("run", [teacher_forced_with, rolled_out_with, self_rolled_out_with])
def test_a_change_of_words_changes_its_own_frame_and_none_before(run) -> None:  # type: ignore[no-untyped-def]
    words = batch().words
    same, changed = run(words), run(per_frame(words, changes=True))
    assert changed[:, :CHANGED].allclose(same[:, :CHANGED], atol=1e-5)
    difference = (changed - same).abs().amax((0, 2, 3))
    assert (difference[CHANGED:] > 1e-3).all()


def test_distribution_matching_scores_the_frames_with_their_own_words() -> None:
    """Of a part of the clip the words of that part: the loss is that of the clip cut by hand."""
    config = DistributionMatchingConfig(
        kind="distribution_matching",
        student_steps=2,
        shift=3.0,
        known_frames=1,
        critic_updates=1,
        scored_frames=4,
    )
    given = batch()
    losses = []
    for words in (given.words, per_frame(given.words, False), per_frame(given.words, True)):
        student, critic, teacher = (tiny.transformer(VOCABULARY) for _ in range(3))
        objective = DistributionMatching(config, student, critic, teacher, tiny.CACHE)
        moment = Moment(3, 0.0, torch.Generator().manual_seed(2))
        loss = objective.loss("critic", replace(given, words=words), moment)[0]
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] != pytest.approx(losses[1], rel=1e-4)


def changing_clips(folder: Path, prompts: list[str | list[str]]) -> ClipSet:
    count = len(prompts)
    write_shard(
        folder / "00000.safetensors",
        cameras=np.tile(np.eye(4), (count, FRAMES, 1, 1)),
        intrinsics=np.ones((count, FRAMES, 4), np.float32),
        prompts=prompts,
        metadata={},
        latents=np.zeros((count, FRAMES, 28, 8), np.float16),
    )
    write_manifest(folder, source="zeros", licence="Apache-2.0")
    return ClipSet(folder)


def words_of(clips: ClipSet, frames: int, dropout: float = 0.0) -> LatentBatch:
    return LatentBatches(
        clips,
        VOCABULARY,
        batch_size=len(clips),
        frames=frames,
        time_reversal=0.0,
        prompt_dropout=dropout,
        seed=0,
        rank=0,
        ranks=1,
    ).at(0)


def test_prompts_that_change_are_read_as_they_were_written(tmp_path: Path) -> None:
    change = ["day"] * 2 + ["night"] * 4
    clips = changing_clips(tmp_path, [change, "day"])
    assert clips.prompts_change
    assert clips.frame_prompts(0) == change and clips.frame_prompts(1) == ["day"] * FRAMES
    assert [clips.prompt(clip) for clip in range(2)] == ["day", "day"]


def test_shards_without_changes_are_as_they_were(tmp_path: Path) -> None:
    clips = changing_clips(tmp_path, ["day", ["night"] * FRAMES])
    assert set(clips.shards[0].metadata) == {"prompts"}
    assert not clips.prompts_change and clips.frame_prompts(1) == ["night"] * FRAMES
    assert words_of(clips, FRAMES).words.shape == (2, 2)


def test_as_many_prompts_as_frames_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 prompts for the 6 frames of a clip"):
        changing_clips(tmp_path, [["day", "night"]])


def test_a_batch_has_the_words_of_each_frame_of_its_crop(tmp_path: Path) -> None:
    clips = changing_clips(tmp_path, [["day"] * 3 + ["night"] * 3])
    whole = words_of(clips, FRAMES).words
    assert torch.equal(whole, per_frame(torch.tensor([[1.0, 0.0]]), changes=True))
    crop = words_of(clips, 5).words  # begins with frame 0 or 1
    assert crop.shape == (1, 5, 2)
    assert any(torch.equal(crop, whole[:, start : start + 5]) for start in (0, 1))
    assert not words_of(clips, FRAMES, dropout=1.0).words.any()


def test_trajectories_write_the_prompts_that_words_stand_for() -> None:
    words = per_frame(torch.tensor([[1.0, 0.0]]), changes=True)[0]
    assert _prompts(VOCABULARY, words) == ["day"] * 3 + ["night"] * 3
    assert _prompts(VOCABULARY, words[0]) == "day"


def test_a_rendered_change_follows_its_prompt_and_survives_encoding(tmp_path: Path) -> None:
    config = load(CONFIGS / "data" / "nano.yaml", RenderConfig)
    mix = WorldMix(weather={"clear": 0.5, "fog": 0.5}, changing=1.0)
    small = replace(config, shards=1, worlds_per_shard=1, clips_per_world=2, frames_per_clip=20)
    still = PathMix(0.0, 0.0, 0.0, still=1.0, out_and_back=0.0, full_turn=0.0, fly=0.0)
    render_dataset(replace(small, supersampling=1, worlds=mix, paths=still), tmp_path / "frames")
    frames = ClipSet(tmp_path / "frames")
    for clip in range(2):
        prompts = frames.frame_prompts(clip)
        first = next(i for i in range(20) if prompts[i] != prompts[0])
        pictures = frames.array("frames", clip).astype(int)
        differs = np.abs(pictures - pictures[0]).mean((1, 2, 3))
        assert differs[:first].max() < 0.5 < differs[first]
        settled = np.abs(np.diff(pictures[first + CHANGE_FRAMES[1] :], axis=0))
        assert settled.mean() < 0.1 if settled.size else first > 10
        assert frames.one_way(clip)
    model = load(CONFIGS / "model" / "nano.yaml", ModelConfig)
    alone = Processes(0, 1, CPU)
    encode_clips(frames, Autoencoder(model.autoencoder), tmp_path / "latents", alone)
    latents = ClipSet(tmp_path / "latents")
    for clip in range(2):
        assert latents.frame_prompts(clip) == frames.frame_prompts(clip) and latents.one_way(clip)


def test_a_change_is_to_another_hour_or_weather_and_ends_in_it() -> None:
    mix = load(CONFIGS / "data" / "worlds.yaml", RenderConfig).worlds
    world = make_world(4, mix=mix)
    differ = set()
    for seed in range(12):
        change = draw_change(world, mix, 64, np.random.default_rng(seed))
        prompts, lights = change.prompts(64), change.lights(64)
        assert prompts[0] != prompts[-1] and world.prompt in (prompts[0], prompts[-1])
        end = change.frame + change.frames - 1
        assert all(light is change.after.light for light in lights[end:])
        assert all(light is change.before.light for light in lights[: change.frame])
        differ.add(change.before.time != change.after.time)
    assert differ == {True, False}


def test_the_same_world_relit_to_its_own_hour_and_weather_is_the_same() -> None:
    world = make_world(3)
    again = relit(world, world.time, world.weather)
    assert again.light is world.light and again.terrain is world.terrain


def test_where_nothing_can_change_that_is_said() -> None:
    with pytest.raises(ValueError, match="nothing can change"):
        WorldMix(times={"day": 1.0}, changing=0.5)
