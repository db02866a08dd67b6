"""What a student sees of the frames before its own, in the stages that roll nothing out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.batches import LatentBatch
from distill.histories import CleanHistory, NoisyHistory
from distill.matching import DistributionMatching, Made
from distill.matching_config import DistributionMatchingConfig
from distill.objectives import Moment, teacher_forced
from tests.worldmodel import tiny
from worldmodel.attention import Cached, TeacherForcing
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.sampler import Sampler
from worldmodel.transformer import Geometry, WorldTransformer

FRAMES, CPU = 7, torch.device("cpu")


def _batch(seed: int = 0) -> LatentBatch:
    random = torch.Generator().manual_seed(seed)
    poses = np.stack([camera.camera_from_world for camera in tiny.walk(FRAMES)])
    return LatentBatch(
        latents=torch.randn(2, FRAMES, 8, 4, generator=random).half(),
        camera_from_anchor=torch.from_numpy(poses).expand(2, FRAMES, 4, 4).contiguous(),
        intrinsics=torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(2, FRAMES, 4),
        time=torch.arange(FRAMES).float().expand(2, FRAMES),
        words=torch.zeros(2, 1),
    )


def _memory(model: WorldTransformer, cache: CacheConfig) -> KVCache:
    config = model.config
    return KVCache(
        cache,
        layers=config.layers,
        batch=2,
        kv_heads=config.kv_heads,
        tokens_per_frame=config.tokens_per_frame,
        head_width=config.head_width,
        dtype=torch.float32,
        device=CPU,
    )


@pytest.mark.parametrize(("sink", "window"), [(0, 3), (1, 3), (2, 2), (0, 12)])
@torch.no_grad()
def test_a_noisy_history_is_a_memory_that_every_noisy_frame_leaves(sink: int, window: int) -> None:
    """One pass over the clip is frame after frame, each remembered as noisy as it is."""
    model, batch = tiny.transformer(), _batch()
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    geometry = model.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    noisy, sigma = batch.latents.float(), torch.rand(2, FRAMES)
    kernel = NoisyHistory(FRAMES, 8, cache, CPU)
    whole = model(noisy, sigma, batch.words, geometry, [kernel] * model.config.layers)
    memory = _memory(model, cache)
    sampler, made = Sampler(model, tiny.autoencoder(), memory), []
    for index in range(FRAMES):
        here = slice(index, index + 1)
        kernels = [Cached(memory, layer) for layer in range(model.config.layers)]
        place = geometry.frame(index)
        made.append(model(noisy[:, here], sigma[:, here], batch.words, place, kernels))
        sampler.commit_own(torch.tensor([cache.slot(index)]))
    torch.testing.assert_close(torch.cat(made, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sink", "window"), [(0, 3), (1, 3), (2, 2), (0, 12)])
@torch.no_grad()
def test_a_clean_history_that_is_computed_once_is_teacher_forcing(sink: int, window: int) -> None:
    model, batch = tiny.transformer(), _batch()
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    geometry = model.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    clean, words = batch.latents.float(), batch.words
    kernels = CleanHistory(FRAMES, 8, cache, CPU).kernels(model, clean, words, geometry)
    forced = [TeacherForcing(FRAMES, 8, cache, CPU)] * model.config.layers
    for sigma in (torch.rand(2, FRAMES), torch.full((2, FRAMES), 0.3)):
        noisy = torch.randn(2, FRAMES, 8, 4)
        once = model(noisy, sigma, words, geometry, kernels)
        both = teacher_forced(model, clean, noisy, sigma, words, geometry, forced)
        torch.testing.assert_close(once, both, rtol=1e-4, atol=1e-4)


def _objective(history: str) -> DistributionMatching:
    config = DistributionMatchingConfig(
        kind="distribution_matching",
        history=history,  # type: ignore[arg-type]
        student_steps=2,
        shift=3.0,
        critic_updates=5,
    )
    networks = [tiny.transformer() for _ in range(3)]
    tiny.shaken(networks[1], 0.05)
    kernel = NoisyHistory if history == "noisy" else TeacherForcing
    return DistributionMatching(config, *networks, tiny.CACHE, kernel(FRAMES, 8, tiny.CACHE, CPU))


def _made(objective: DistributionMatching, batch: LatentBatch) -> Tensor:
    with torch.no_grad():
        return objective._made(batch, Moment(0, 0.0, torch.Generator().manual_seed(0))).latents


def _changed(batch: LatentBatch, frame: int) -> LatentBatch:
    latents = batch.latents.clone()
    latents[:, frame] += 1.0
    return replace(batch, latents=latents)


@pytest.mark.parametrize("history", ["clean", "noisy"])
def test_a_student_without_a_rollout_sees_true_frames_and_none_after_its_own(history: str) -> None:
    objective, batch = _objective(history), _batch()
    difference = (_made(objective, _changed(batch, 3)) - _made(objective, batch)).abs()
    per_frame = difference.amax((0, 2, 3))
    assert per_frame[:3].max() == 0
    assert per_frame[4:].max() > 1e-4


@pytest.mark.parametrize("history", ["clean", "noisy"])
@pytest.mark.parametrize("role", ["student", "critic"])
def test_gradients_reach_only_the_role_that_is_trained(history: str, role: str) -> None:
    objective = _objective(history)
    moment = Moment(0, 0.0, torch.Generator().manual_seed(1))
    objective.loss(role, _batch(), moment)[0].backward()
    for name, network in {**objective.trained, "teacher": objective._teacher}.items():
        touched = any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
        assert touched == (name == role), name


@torch.no_grad()
def _score(
    objective: DistributionMatching,
    sigma: Tensor,
    words: Tensor,
    place: Geometry,
    made: Tensor,
    context: Tensor,
) -> Tensor:
    return objective._score(objective._teacher, context, made, sigma, words, place)


def test_the_scores_of_causal_dmd_see_true_frames_and_those_of_the_others_the_whole_clip() -> None:
    batch = _batch()
    for history, causal in (("clean", True), ("noisy", False)):
        objective = _objective(history)
        geometry = objective._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
        noisy, sigma = torch.randn(2, FRAMES, 8, 4), torch.full((2, FRAMES), 0.5)
        score = partial(_score, objective, sigma, batch.words, geometry)
        true, moved = batch.latents.float(), noisy.clone()
        moved[:, 3] += 1.0
        by_noisy = (score(moved, true) - score(noisy, true)).abs().amax((0, 2, 3))
        assert bool((by_noisy[[2, 4]] == 0).all()) == causal
        other = _changed(batch, 3).latents.float()
        by_true = (score(noisy, other) - score(noisy, true)).abs().amax((0, 2, 3))
        assert bool(by_true[4] > 1e-4) == causal
        assert by_true[:4].max() == 0


@pytest.mark.parametrize("key", ["known_frames", "block_frames", "invented_share"])
def test_rollout_keys_without_a_rollout_are_refused(key: str) -> None:
    config = _objective("clean").config
    with pytest.raises(ValueError, match=f"no rollout; drop {key}"):
        replace(config, **{key: 0.5 if key == "invented_share" else 2})


@pytest.mark.parametrize("history", ["clean", "noisy"])
def test_without_a_rollout_the_critic_makes_its_own(history: str) -> None:
    """Its passes are captured graphs, which cannot take what another call has left."""
    objective, made = _objective(history), list[int]()
    make = objective._made

    def counted(batch: LatentBatch, moment: Moment) -> Made:
        made.append(1)
        return make(batch, moment)

    objective._made = counted  # type: ignore[method-assign]
    for role in ("student", "critic", "critic"):
        objective.loss(role, _batch(), Moment(0, 0.0, torch.Generator().manual_seed(0)))
    assert len(made) == 3
