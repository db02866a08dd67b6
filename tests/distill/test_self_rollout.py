"""The rollout of training is the rollout of play, with gradients where they are wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import scaled_dot_product_attention

from distill import losses
from distill.batches import LatentBatch, relative_to_middle, to_device
from distill.discriminator import Discriminator, seen_by
from distill.gradients import Gradients
from distill.matching import DistributionMatching, Made
from distill.matching_config import DistributionMatchingConfig
from distill.objectives import Moment
from distill.processes import Processes
from distill.render import RenderConfig
from distill.rollout import Views, rollout
from distill.self_rollout import Plan, Player, self_rollout
from distill.stage_networks import build_networks
from distill.stages import ModelConfig, load_stage
from distill.streams import (
    EASING_FRAMES,
    Stream,
    WalksConfig,
    continued,
    first_frames,
    from_middle,
    to_and_fro,
)
from distill.viewpoints import viewpoint_of
from tests.worldmodel import tiny
from worldmodel import config as strict
from worldmodel import flow
from worldmodel.attention import attend_all
from worldmodel.autoencoder import frames_to_uint8
from worldmodel.checkpoint import RolloutConfig
from worldmodel.kv_cache import CacheConfig
from worldmodel.motion import WALK_M_PER_S, Viewpoint
from worldmodel.sampler import Commit
from worldmodel.session import WorldSession
from worldmodel.transformer import Geometry, WorldTransformer
from worldmodel.types import Start

FRAMES, STEPS, FIRST_STEPS, SHIFT = 8, 2, 4, 3.0
CONFIG = DistributionMatchingConfig(
    kind="distribution_matching",
    student_steps=STEPS,
    shift=SHIFT,
    known_frames=1,
    critic_updates=5,
)
ONE_STEP = replace(CONFIG, student_steps=1)  # so that there is one stream


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


def _plan(exit_step: int = STEPS - 1, commit: Commit = "clean", block_frames: int = 1) -> Plan:
    return Plan(
        levels=flow.schedule(STEPS, SHIFT).tolist(),
        exit_step=exit_step,
        first_levels=flow.schedule(FIRST_STEPS, SHIFT).tolist(),
        first_exit_step=FIRST_STEPS - 1,
        commit=commit,
        block_frames=block_frames,
    )


def _own(
    batch: LatentBatch,
    plan: Plan,
    known: int = 1,
    seed: int = 5,
    student: WorldTransformer | None = None,
) -> Tensor:
    student = student or tiny.transformer()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    player = Player(student, tiny.CACHE, clips=len(batch.words), frames=FRAMES)
    random = torch.Generator().manual_seed(seed)
    given = batch.latents[:, :known].float()
    return self_rollout(student, player, geometry, batch.words, given, plan, random)


class _SlowMemory:
    """One layer's frames as a list: the plainest form of what a rollout remembers."""

    def __init__(self, cache: CacheConfig) -> None:
        self.cache = cache
        self.frames: list[tuple[Tensor, Tensor]] = []
        self.new: list[tuple[Tensor, Tensor]] = []

    def visible(self) -> list[tuple[Tensor, Tensor]]:
        sinks = self.cache.sink_frames
        return self.frames[:sinks] + self.frames[sinks:][-self.cache.window_frames :]

    def reading(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.new = [(k[:, [i]].detach(), v[:, [i]].detach()) for i in range(k.shape[1])]
        return self._mix(q, [*self.visible(), (k, v)])

    def writing(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.frames += [(k[:, [i]].detach(), v[:, [i]].detach()) for i in range(k.shape[1])]
        return self._mix(q, self.visible())

    def _mix(self, q: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        def flat(x: Tensor) -> Tensor:
            return x.flatten(1, 2).transpose(1, 2)

        keys = flat(torch.cat([key for key, _ in seen], 1))
        values = flat(torch.cat([value for _, value in seen], 1))
        mixed = scaled_dot_product_attention(flat(q), keys, values, enable_gqa=True)
        return mixed.transpose(1, 2).unflatten(1, q.shape[1:3])


def _differentiable_on_the_way(
    student: WorldTransformer, geometry: Geometry, batch: LatentBatch, known: int, plan: Plan
) -> Tensor:
    """A rollout as the papers describe it: gradients switched on at each block's exit step."""
    random = torch.Generator().manual_seed(5)
    memories = [_SlowMemory(tiny.CACHE) for _ in student.blocks]
    reading, writing = [m.reading for m in memories], [m.writing for m in memories]
    frames: list[Tensor] = []
    while (start := sum(x.shape[1] for x in frames)) < FRAMES:
        count = 1 if start < known else min(plan.block_frames, FRAMES - start)
        place = geometry.frames(start, start + count)
        latent = batch.latents[:, start : start + count].float()
        own = start >= known and plan.commit == "own"
        if start >= known:
            levels, exit_step = plan.levels, plan.exit_step
            if start == 0:
                levels, exit_step = plan.first_levels, plan.first_exit_step
            noisy = torch.randn(latent.shape, generator=random)
            for step in range(len(levels) - 1 if own else exit_step + 1):
                sigma = torch.full(noisy.shape[:2], levels[step])
                with torch.set_grad_enabled(step == exit_step):
                    velocity = student(noisy, sigma, batch.words, place, reading)
                    x0 = flow.x0_from_velocity(noisy, velocity, sigma)
                latent = x0 if step == exit_step else latent
                if step + 2 < len(levels) and (own or step < exit_step):
                    noise = torch.randn(latent.shape, generator=random)
                    lower = torch.full(noisy.shape[:2], levels[step + 1])
                    noisy = flow.interpolate(x0.detach(), noise, lower)
        with torch.no_grad():
            if own:
                for memory in memories:
                    memory.frames += memory.new
            else:
                student(latent.detach(), torch.zeros(latent.shape[:2]), batch.words, place, writing)
        frames.append(latent)
    return torch.cat(frames, 1)


@pytest.mark.parametrize("commit", ["clean", "own"])
@pytest.mark.parametrize(("known", "size"), [(1, 1), (0, 1), (1, 3), (2, 4)])
@pytest.mark.parametrize("exit_step", [0, 1])
def test_one_pass_over_all_exit_steps_has_the_frames_and_gradients_of_a_slow_rollout(
    commit: Commit, known: int, size: int, exit_step: int
) -> None:
    batch, plan = _batch(), _plan(exit_step, commit, size)
    fast, slow = tiny.transformer(), tiny.transformer()
    made = _own(batch, plan, known, student=fast)
    geometry = slow.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    expected = _differentiable_on_the_way(slow, geometry, batch, known, plan)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    (made * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, a), b in zip(fast.named_parameters(), slow.parameters(), strict=True):
        if b.grad is None:
            assert a.grad is None or a.grad.abs().max() == 0, name
            continue
        assert a.grad is not None, name
        assert (a.grad - b.grad).norm() <= 2e-3 * b.grad.norm() + 1e-5, name


@pytest.mark.parametrize("commit", ["clean", "own"])
@pytest.mark.parametrize("known", [0, 1, 3])
def test_run_to_the_last_step_it_is_the_rollout_of_evaluation(commit: Commit, known: int) -> None:
    batch = _batch()
    views = Views(cameras=batch.camera_from_anchor, intrinsics=batch.intrinsics, words=batch.words)
    how = RolloutConfig(
        steps=STEPS,
        first_frame_steps=FIRST_STEPS,
        shift=SHIFT,
        solver="consistency",
        commit=commit,
    )
    played = rollout(
        tiny.transformer(),
        tiny.autoencoder(),
        tiny.CACHE,
        batch.latents[:, :known].float(),
        views,
        how=how,
        seed=5,
    )
    own = _own(batch, _plan(commit=commit), known).detach()
    torch.testing.assert_close(own, played, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_run_to_the_last_step_it_is_what_is_played(commit: Commit) -> None:
    """From a world without a picture on: the first frame has its own steps in both."""
    cameras = tiny.walk(FRAMES)
    how = RolloutConfig(
        steps=STEPS,
        first_frame_steps=FIRST_STEPS,
        shift=SHIFT,
        solver="consistency",
        commit=commit,
    )
    playable = replace(tiny.playable(), rollout=how)
    cpu = torch.device("cpu")
    session = WorldSession(playable, tiny.autoencoder(), tiny.transformer(), cpu, torch.float32)
    played = [session.reset(Start(seed=5), cameras[0])]
    played += [session.step([camera])[0] for camera in cameras[1:]]
    whole = _batch()
    one = LatentBatch(*(getattr(whole, field.name)[:1] for field in fields(whole)))
    latents = _own(one, _plan(commit=commit), known=0).detach()
    with torch.no_grad():
        trained = frames_to_uint8(tiny.autoencoder().decode(latents[0])).numpy()
    assert np.abs(trained.astype(int) - np.stack(played).astype(int)).max() <= 1


def test_a_student_that_commits_its_own_remembers_the_same_whichever_step_exits() -> None:
    """Only what is scored differs: the steps after the exit run too, as they will in play."""
    early, late = (_own(_batch(), _plan(exit_step, "own")) for exit_step in (0, 1))
    assert (early[:, 1:] - late[:, 1:]).abs().amax((0, 2, 3)).min() > 1e-3
    finished = _own(_batch(), _plan(1, "own"))
    assert torch.equal(late, finished)
    clean = _own(_batch(), _plan(1, "clean"))
    assert torch.equal(clean[:, :2], late[:, :2])  # both saw the same start frame
    assert (clean[:, 2] - late[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("commit", ["clean", "own"])
def test_frames_of_a_block_see_each_other_and_no_later_block(size: int, commit: Commit) -> None:
    batch = _batch()
    plan = _plan(commit=commit, block_frames=size)
    before = _own(batch, plan).detach()
    moved = batch.camera_from_anchor.clone()
    last_of_block = size  # frame 0 is known, the block holds frames 1 to `size`
    moved[:, last_of_block, 0, 3] += 1.0
    changed = LatentBatch(batch.latents, moved, batch.intrinsics, batch.time, batch.words)
    difference = (_own(changed, plan).detach() - before).abs().amax((0, 2, 3))
    assert difference[0] == 0
    assert difference[1:].min() > 1e-4  # its own block and, through memory, all later ones
    moved = batch.camera_from_anchor.clone()
    moved[:, size + 1, 0, 3] += 1.0
    changed = LatentBatch(batch.latents, moved, batch.intrinsics, batch.time, batch.words)
    difference = (_own(changed, plan).detach() - before).abs().amax((0, 2, 3))
    assert difference[: size + 1].max() == 0


def _objective() -> DistributionMatching:
    networks = [tiny.transformer() for _ in range(3)]
    tiny.shaken(networks[1], 0.05)  # a critic that disagrees with the teacher
    return DistributionMatching(CONFIG, networks[0], networks[1], networks[2], tiny.CACHE)


def _touched(network: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in network.parameters())


@pytest.mark.parametrize("role", ["student", "critic"])
def test_gradients_reach_only_the_role_that_is_trained(role: str) -> None:
    objective = _objective()
    moment = Moment(0, 0.0, torch.Generator().manual_seed(1))
    objective.loss(role, _batch(), moment)[0].backward()
    assert _touched(objective.trained[role])
    assert not _touched(objective.trained["critic" if role == "student" else "student"])
    assert not _touched(objective._teacher)


def test_a_critic_learns_the_rollouts_its_student_was_judged_for_and_then_others() -> None:
    objective, seen = _objective(), list[Tensor]()
    rollout = objective._rollout

    def counted(batch: LatentBatch, moment: Moment) -> Any:
        seen.append((made := rollout(batch, moment)).latents)
        return made

    objective._rollout = counted  # type: ignore[method-assign]
    moment = Moment(0, 0.0, torch.Generator().manual_seed(1))
    for _ in range(2):  # two parts of one step
        objective.loss("student", _batch(), moment)
    for part in range(2):
        objective.loss("critic", _batch(), moment)
        assert objective._shown is not None
        assert torch.equal(objective._shown.latents, seen[part])
        assert not objective._shown.latents.requires_grad
    assert len(seen) == 2
    objective.loss("critic", _batch(), Moment(1, 0.0, moment.random))
    assert len(seen) == 3


@pytest.mark.parametrize("exit_step", [0, 1])
def test_gradients_flow_through_the_exit_step_only(exit_step: int) -> None:
    """The network that is trained runs once, at the noise level of the exit step."""
    calls: list[float] = []
    student = tiny.transformer()
    plain = student.forward

    def watched(latent: Tensor, sigma: Tensor, *others: Any) -> Tensor:
        calls.extend(sigma.unique().tolist())
        return plain(latent, sigma, *others)

    student.forward = watched  # type: ignore[method-assign, assignment]
    rolled = _own(_batch(), _plan(exit_step), student=student)
    assert calls == pytest.approx([_plan().levels[exit_step]])
    assert rolled.requires_grad
    with torch.no_grad():
        assert not _own(_batch(), _plan(exit_step), student=student).requires_grad
    assert len(calls) == 1


def test_only_the_last_frames_of_a_long_rollout_are_scored_and_trained() -> None:
    objective = DistributionMatching(
        replace(CONFIG, scored_frames=3), *(tiny.transformer() for _ in range(3)), tiny.CACHE
    )
    batch, starts = _batch(), set()

    def seen_from(start: int) -> Tensor:
        these = slice(start, start + 3)
        cameras, lenses = batch.camera_from_anchor[:, these], batch.intrinsics[:, these]
        return objective._plain.geometry(from_middle(cameras), lenses, batch.time[:, :3]).matrix

    for step in range(40):
        moment = Moment(step, 0.0, torch.Generator().manual_seed(0))
        made = objective._rollout(batch, moment)
        place = made.geometry
        assert made.latents.shape[1] == place.matrix.shape[1] == 3
        (start,) = (
            index for index in range(FRAMES - 2) if torch.equal(seen_from(index), place.matrix)
        )
        starts.add(start)
    assert starts == set(range(FRAMES - 2))


def test_a_stream_goes_on_from_its_last_frames_along_the_cameras_of_its_clips() -> None:
    config = replace(ONE_STEP, scored_frames=4, stream_share=0.999, truth_weight=0.5)
    networks = [tiny.transformer() for _ in range(3)]
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    first, window = _batch(), tiny.CACHE.window_frames
    moments = [Moment(step, 0.0, torch.Generator().manual_seed(step)) for step in range(4)]
    made = objective._rollout(first, moments[0])
    assert made.latents.shape[1] == 4
    place = 4
    for moment in moments[1:]:
        before = objective._streams[0]
        assert before.made.shape[1] == min(window, 4)
        again = objective._rollout(replace(first, latents=first.latents + 9.0), moment)
        assert torch.equal(again.latents[:, 0], before.made[:, -1])  # one of four is remembered
        remembered = before.made.shape[1]
        steps = to_and_fro(torch.arange(place - remembered, place + 3), FRAMES)
        cameras = from_middle(first.camera_from_anchor[:, steps[-4:]])
        lenses = first.intrinsics[:, steps[-4:]]
        expected = objective._plain.geometry(cameras, lenses, torch.arange(4.0).expand(2, -1))
        torch.testing.assert_close(again.geometry.matrix, expected.matrix)
        again.latents.sum().backward()
        place += 3
        made = again
    assert torch.equal(objective._streams[0].made[:, -1], made.latents[:, -1].detach())


def test_all_frames_of_a_stream_came_out_of_the_same_step_as_they_do_in_play() -> None:
    config = replace(CONFIG, scored_frames=4, stream_share=0.999)
    networks = [tiny.transformer() for _ in range(3)]
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    ends: dict[int, Tensor] = {}
    for number in range(12):
        moment = Moment(number, 0.0, torch.Generator().manual_seed(number))
        made = objective._rollout(_batch(), moment)
        (step,) = made.steps.unique().tolist()
        if step in ends:
            assert torch.equal(made.latents[:, 0].detach(), ends[step])
        ends[step] = made.latents[:, -1].detach()
    assert set(ends) == {0, 1}
    resumed = DistributionMatching(config, *networks, tiny.CACHE)
    resumed.load_state(objective.state())
    for step, stream in objective._streams.items():
        assert torch.equal(resumed._streams[step].made, stream.made)
        assert resumed._streams[step].position == stream.position


@pytest.mark.parametrize("role", ["student", "critic"])
def test_given_frames_are_those_that_were_there_and_have_little_noise(role: str) -> None:
    config = replace(
        ONE_STEP, scored_frames=8, stream_share=0.999, given_share=1.0, given_noise=0.01
    )
    networks = [tiny.transformer() for _ in range(3)]
    tiny.shaken(networks[1], 0.05)
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    seen: list[tuple[Tensor, Tensor]] = []
    score = objective._score

    def watched(network: nn.Module, context: Tensor, noisy: Tensor, *rest: Any) -> Tensor:
        seen.append((noisy, rest[0]))
        return score(network, context, noisy, *rest)

    objective._score = watched  # type: ignore[method-assign]
    for number, there in enumerate((1, 2)):  # the true first frame, then a quarter of the stream
        moment = Moment(number, 0.0, torch.Generator().manual_seed(number))
        loss, _ = objective.loss(role, _batch(), moment)
        for _, sigma in seen:
            assert sigma[:, :there].max() < 0.01
            assert (sigma[:, there:] == sigma[:, -1:]).all() and sigma[:, -1].min() > 0.01
        seen.clear()
    assert loss.isfinite() and loss.requires_grad


def test_what_is_given_is_not_learned() -> None:
    """A critic that is wrong about given frames alone has nothing to learn."""
    config = replace(ONE_STEP, scored_frames=8, stream_share=0.999, given_share=1.0)
    objective = DistributionMatching(config, *(tiny.transformer() for _ in range(3)), tiny.CACHE)
    asked: list[Tensor] = []

    def right_about_new_ones(
        _network: nn.Module, _context: Tensor, noisy: Tensor, sigma: Tensor, *_others: Any
    ) -> Tensor:
        made = made_by[0]
        velocity = (noisy - made) / sigma[..., None, None]
        velocity[:, :1] += 5.0
        asked.append(noisy)
        return velocity.requires_grad_()

    made_by: list[Tensor] = []
    rollout = objective._rollout

    def kept(batch: LatentBatch, moment: Moment) -> Made:
        made = rollout(batch, moment)
        made_by.append(made.latents)
        return made

    objective._rollout = kept  # type: ignore[method-assign]
    objective._score = right_about_new_ones  # type: ignore[method-assign]
    loss, _ = objective.loss("critic", _batch(), Moment(0, 0.0, torch.Generator().manual_seed(0)))
    assert len(asked) == 1
    assert float(loss.detach()) < 1e-6


def test_a_critic_that_knows_steps_hears_which_step_every_frame_came_out_of() -> None:
    stage, model = load_stage(
        Path("configs/stage/nano/3.yaml"), ["objective.critic_knows_step=true"]
    )
    assert isinstance(stage.objective, DistributionMatchingConfig)
    assert isinstance(model, ModelConfig)
    networks = build_networks(stage, model, None, None, untrained=True)
    student, critic = networks["student"], networks["critic"]
    assert isinstance(student, WorldTransformer) and isinstance(critic, WorldTransformer)
    steps = stage.objective.student_steps
    assert student.config == model.transformer
    assert len(critic.config.vocabulary) == len(student.config.vocabulary) + steps
    objective = DistributionMatching(stage.objective, student, critic, student, model.cache)
    words = torch.rand(2, max(len(student.config.vocabulary), 1))
    step = torch.tensor([[0, 1, 1], [1, 0, 0]])
    seen = [x[:, :3] for x in (_batch().camera_from_anchor, _batch().intrinsics, _batch().time)]
    made = Made(torch.zeros(2, 3, 1, 1), student.geometry(*seen), words, step)
    told = objective._told_critic(made)
    named = len(student.config.vocabulary)
    assert told.shape == (2, 3, named + steps)
    assert torch.equal(told[0, 1, :named], words[0, :named])
    assert torch.equal(told[..., named:].argmax(-1), step)
    assert torch.equal(told[..., named:].sum(-1), torch.ones(2, 3))


def test_a_stream_is_judged_beside_frames_it_may_have_forgotten_and_remembers_what_play_would() -> None:
    config = replace(
        ONE_STEP, scored_frames=4, stream_share=0.999, spread_share=1.0, spread_frames=9
    )
    objective = DistributionMatching(config, *(tiny.transformer() for _ in range(3)), tiny.CACHE)
    moments = [Moment(step, 0.0, torch.Generator().manual_seed(step)) for step in range(12)]
    batch, position, apart = _batch(), 4, set()
    objective._rollout(batch, moments[0])
    for moment in moments[1:]:
        before = objective._streams[0]
        assert before.position == position
        there = before.made.shape[1]
        assert there == min(position, 6)  # what is judged reaches back as far
        task = objective._task(batch, np.random.default_rng(moment.step), moment, 0)
        assert task.remembered == tiny.CACHE.window_frames
        assert list(task.judged[1:]) == [there, there + 1, there + 2]
        apart.add(there + 2 - task.judged[0])
        made = objective._rollout(batch, moment)
        old = [frame for frame in range(there) if made.latents[:, 0].equal(before.made[:, frame])]
        assert len(old) == 1
        after = objective._streams[0]
        assert torch.equal(after.made[:, -3:], made.latents[:, 1:].detach())
        position += 3
    assert len(apart) > 2 and apart <= {*range(3, 9)}


def test_what_a_stream_remembers_does_not_depend_on_what_else_is_judged() -> None:
    near = replace(CONFIG, scored_frames=4, stream_share=0.999)
    made = []
    for config in (near, replace(near, spread_share=1.0, spread_frames=9)):
        networks = [tiny.transformer() for _ in range(3)]
        objective = DistributionMatching(config, *networks, tiny.CACHE)
        moments = [Moment(step, 0.0, torch.Generator().manual_seed(step)) for step in range(5)]
        made.append([objective._rollout(_batch(), moment).latents[:, -3:] for moment in moments])
    for ours, theirs in zip(*made, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frames_that_are_judged_together_are_seen_from_their_middle_at_their_own_times() -> None:
    objective = DistributionMatching(CONFIG, *(tiny.transformer() for _ in range(3)), tiny.CACHE)
    batch, frames = _batch(), [1, 4, 5]
    geometry, _ = objective._views(batch, frames)
    cameras = from_middle(batch.camera_from_anchor[:, frames])
    times = torch.tensor([[0.0, 3.0, 4.0]]).expand(2, -1)
    expected = objective._plain.geometry(cameras, batch.intrinsics[:, frames], times)
    for ours, theirs in zip(geometry.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"spread_share": 0.5}, "needs stream_share"),
        ({"spread_share": 0.5, "stream_share": 0.5, "spread_frames": 4}, "more than scored_frames"),
        ({"spread_share": 0.5, "stream_share": 0.5, "scored_frames": None}, "scored_frames None"),
        ({"given_share": 1.5}, "given_share lies in"),
        ({"given_share": 0.5, "known_frames": 0}, "given_share needs frames that are there"),
        ({"discriminator_noise": 1.0}, "discriminator_noise lies in"),
    ],
)
def test_frames_that_are_not_there_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{"scored_frames": 4, **keys})


@pytest.mark.parametrize(
    ("stage", "key", "message"),
    [
        ("1", "spread_share=0.5", "for flow_matching with history: full"),
        ("3", "spread_share=0.5", "objective.spread_share"),
        ("0", "spread_share=1.5", "lie in"),
        ("0", "spread_share=0.5 spread_frames=16", "more than frames 16"),
    ],
)
def test_only_whole_clips_are_spread(stage: str, key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_stage(Path(f"configs/stage/{stage}.yaml"), key.split())


def test_to_and_fro_turns_round_at_both_ends() -> None:
    assert to_and_fro(torch.arange(10), 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert to_and_fro(torch.arange(3), 1).tolist() == [0, 0, 0]


def test_a_stream_that_goes_on_is_where_it_was_and_walks_as_the_other_clips_do() -> None:
    batch, others, known = _batch(), _batch(seed=5), 3
    stream = Stream(batch, batch.latents[:, :known].float(), FRAMES)
    onward = stream.onward(others.camera_from_anchor)
    before, after = stream.ahead(0), onward.ahead(FRAMES - 1)
    path = continued(before.camera_from_anchor[:, -1], others.camera_from_anchor)
    expected = from_middle(torch.cat([before.camera_from_anchor, path[:, 1:]], dim=1))
    torch.testing.assert_close(after.camera_from_anchor, expected)
    assert torch.equal(after.intrinsics[:, :known], before.intrinsics)
    assert torch.equal(onward.made, stream.made)
    assert onward.turns_within(FRAMES)
    assert not onward.turns_within(FRAMES - 1)


def test_numbers_stay_small_however_far_a_stream_has_walked() -> None:
    """What is far from the anchor is rounded coarsely; where the anchor is does not matter otherwise."""
    frames, known = 400, 3
    walk = [Viewpoint(5.0, -1.0, 0.4 * n, 0.2, 0.1) for n in range(frames)]
    cameras = torch.from_numpy(np.stack([v.camera_from_world() for v in walk]))[None]
    batch = first_frames(_batch(), known)
    stream = Stream(batch, batch.latents.float(), known).onward(cameras.expand(2, -1, -1, -1))
    far = replace(stream, position=380).ahead(10).camera_from_anchor
    assert float(far[..., :3, 3].norm(dim=-1).max()) < 0.4 * 10
    middle = viewpoint_of(far[0, far.shape[1] // 2].numpy())
    assert (middle.x_m, middle.y_m, middle.z_m) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert middle.yaw_rad == pytest.approx(0.0)
    steps = far[0, 1:] @ torch.linalg.inv(far[0, :-1])
    torch.testing.assert_close(
        steps, (cameras[0, 1] @ torch.linalg.inv(cameras[0, 0])).expand_as(steps)
    )
    np.testing.assert_allclose(
        from_middle(cameras)[0].numpy(), relative_to_middle(cameras[0].numpy()), atol=1e-9
    )


def test_streams_go_on_along_walks_as_they_are_played() -> None:
    walks = WalksConfig(frames=96)
    drawn = walks.draw(np.random.default_rng(3), 40)
    assert drawn.shape == (40, 96, 4, 4)
    assert torch.equal(drawn, walks.draw(np.random.default_rng(3), 40))
    assert torch.equal(drawn[:, 0], torch.eye(4, dtype=torch.float64).expand(40, 4, 4))
    paths = [[viewpoint_of(camera) for camera in walk.numpy()] for walk in drawn]
    ahead, total = 0, 0
    for before, after in (pair for path in paths for pair in pairwise(path)):
        step = (after.x_m - before.x_m, after.z_m - before.z_m)
        forward = step[0] * math.sin(after.yaw_rad) + step[1] * math.cos(after.yaw_rad)
        assert math.hypot(*step) <= walks.limits.translation_m_per_frame + 1e-9
        total += 1
        ahead += forward > 0.9 * WALK_M_PER_S / walks.frames_per_second
    assert 0.6 < ahead / total < 0.9  # who plays holds W most of the time


def test_walks_begin_at_the_end_of_clips_and_last_for_as_long_as_they_are() -> None:
    walks = WalksConfig(frames=40)
    config = replace(
        ONE_STEP, scored_frames=4, stream_share=0.999, stream_onward=1.0, stream_walks=walks
    )
    objective = DistributionMatching(config, *(tiny.transformer() for _ in range(3)), tiny.CACHE)
    clips = _batch()
    for step in range(9):
        objective._rollout(clips, Moment(step, 0.0, torch.Generator().manual_seed(step)))
    stream = objective._streams[0]
    known = stream.made.shape[1]
    assert stream.clips.time.shape == (2, known + walks.frames - 1)
    assert not torch.allclose(
        stream.clips.camera_from_anchor[0], stream.clips.camera_from_anchor[1]
    )


def test_walks_for_streams_that_never_go_on_are_refused() -> None:
    with pytest.raises(ValueError, match="need stream_onward"):
        replace(CONFIG, stream_share=0.5, stream_walks=WalksConfig())
    with pytest.raises(ValueError, match="at least 2 frames"):
        WalksConfig(frames=1)


def test_worlds_played_are_walked_through_as_rollouts_go_on() -> None:
    """Or a discriminator would tell truth by its cameras, where no truth stands beside a rollout."""
    rendered = strict.load(Path("configs/data/worlds-played.yaml"), RenderConfig)
    walks = WalksConfig()
    assert rendered.paths == walks.paths
    assert rendered.limits == walks.limits
    assert rendered.frames_per_second == pytest.approx((walks.frames_per_second,) * 2, rel=0.01)



def test_a_path_is_continued_level_from_where_one_stands_and_looks() -> None:
    """Whoever looked up and then walks on a path of one who looked ahead soon looks ahead, too."""
    frames, moved = 2 * EASING_FRAMES, (3.0, -1.0, 2.0)
    path = [Viewpoint(0.0, 0.1 * n, 0.2 * n, 0.01 * n, 0.05) for n in range(frames)]
    start = Viewpoint(*moved, 0.7, 0.4)
    last = torch.from_numpy(start.camera_from_world())[None]
    cameras = torch.from_numpy(np.stack([v.camera_from_world() for v in path]))[None]
    made = [viewpoint_of(camera) for camera in continued(last, cameras)[0].numpy()]
    assert astuple(made[0]) == pytest.approx(astuple(start))
    for n, (theirs, ours) in enumerate(zip(path, made, strict=True)):
        ahead = (moved[0] + math.sin(0.7) * theirs.z_m, moved[1] + theirs.y_m)
        assert (ours.x_m, ours.y_m) == pytest.approx(ahead)
        assert ours.yaw_rad == pytest.approx(0.7 + theirs.yaw_rad)
        left = max(1 - n / EASING_FRAMES, 0.0)
        assert ours.pitch_rad == pytest.approx(theirs.pitch_rad + left * (0.4 - 0.05))


def test_a_stream_turns_at_every_end_of_its_clips() -> None:
    batch = _batch()
    for position in range(2, 3 * FRAMES):
        steps = to_and_fro(torch.arange(position - 2, position + 3), FRAMES).diff()
        turned = bool((steps[1:] != steps[:-1]).any())
        assert Stream(batch, batch.latents[:, :1].float(), position).turns_within(3) == turned


def test_near_true_frames_the_loss_is_also_the_distance_to_the_truth() -> None:
    networks = [tiny.transformer() for _ in range(3)]
    batch = _batch()

    def loss(weight: float, frames: int = 2) -> Tensor:
        config = replace(CONFIG, truth_weight=weight, truth_frames=frames, invented_share=0.0)
        objective = DistributionMatching(config, *networks, tiny.CACHE)
        moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
        return objective.loss("student", batch, moment)[0]

    made = _objective_made(networks, batch)
    distance = (made[:, 1:3] - batch.latents[:, 1:3].float()).square().mean()
    torch.testing.assert_close(loss(0.5) - loss(0.0), 0.5 * distance, rtol=1e-3, atol=1e-6)
    all_of_it = (made[:, 1:] - batch.latents[:, 1:].float()).square().mean()
    further = loss(0.5, 2 * FRAMES) - loss(0.0)
    torch.testing.assert_close(further, 0.5 * all_of_it, rtol=1e-3, atol=1e-6)


def _with_discriminator(weight: float = 0.5, **changed: Any) -> DistributionMatching:
    config = replace(CONFIG, adversarial_weight=weight, **changed)
    networks = [tiny.transformer() for _ in range(3)]
    torch.manual_seed(4)
    theirs = networks[-1].config
    discriminator = Discriminator(theirs.layers, theirs.width, 8)
    return DistributionMatching(config, *networks, tiny.CACHE, discriminator=discriminator)


def _moves(network: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize("role", ["student", "critic", "discriminator"])
def test_with_a_discriminator_gradients_still_reach_one_role_only(role: str) -> None:
    objective, moment = _with_discriminator(), Moment(10, 0.0, torch.Generator().manual_seed(0))
    objective._right = torch.tensor(0.9)
    assert objective.due(0) == ("student", "critic", "discriminator")
    assert objective.due(1) == ("critic", "discriminator")
    with torch.no_grad():
        objective.loss("critic", _batch(), moment)  # which makes what both see
    objective.loss(role, _batch(), moment)[0].backward()
    assert {name for name, network in objective.trained.items() if _moves(network)} == {role}
    assert not _moves(objective._teacher)


def test_a_discriminator_pushes_as_hard_as_it_is_told_and_as_it_is_right() -> None:
    def gradient(weight: float, right: float) -> Tensor:
        """At the bias of the student's last layer."""
        objective, moment = _with_discriminator(weight), Moment(0, 0.0, torch.Generator().manual_seed(0))
        objective._right = torch.tensor(right)
        loss, _ = objective.loss("student", _batch(), moment)
        student = objective.trained["student"]
        return torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)[-1]

    alone, heard = gradient(0.0, 1.0), gradient(0.5, 1.0)
    assert (heard - alone).abs().max() > 0
    torch.testing.assert_close(gradient(1.0, 1.0) - alone, 2 * (heard - alone), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(gradient(1.0, 0.75) - alone, heard - alone, rtol=1e-3, atol=1e-7)
    for guessing in (0.5, 0.3):
        torch.testing.assert_close(gradient(1.0, guessing), alone)


def test_a_discriminator_needs_an_optimizer() -> None:
    overrides = ["objective.adversarial_weight=0.1", "discriminator_optimizer=null"]
    with pytest.raises(ValueError, match="adversarial_weight needs a discriminator_optimizer"):
        load_stage(Path("configs/stage/nano/3.yaml"), overrides)


@pytest.mark.parametrize("asked", ["loss", "push"])
def test_truth_and_what_was_made_are_shown_with_as_much_noise(asked: str) -> None:
    objective, batch = _with_discriminator(), _batch()
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        objective.loss("critic", batch, moment)
    shown, opinion = list[Tensor](), objective._opinion

    def noted(clip: Made, sigma: Tensor, moment: Moment) -> Tensor:
        shown.append(sigma)
        return opinion(clip, sigma, moment)

    objective._opinion = noted  # type: ignore[method-assign]
    if asked == "loss":
        objective.loss("discriminator", batch, moment)
    else:
        made = objective._shown
        assert made is not None
        objective._push(made, batch, moment)
    assert len(shown) == 2 and torch.equal(*shown)
    assert shown[0].min() > 0.0 and shown[0].max() < objective.config.discriminator_noise


def test_a_push_makes_what_was_made_look_truer() -> None:
    objective, batch = _with_discriminator(), _batch()
    made = objective._rollout(batch, Moment(0, 0.0, torch.Generator().manual_seed(0)))

    def opinion(clip: Made) -> Tensor:
        with torch.no_grad():
            moment = Moment(0, 0.0, torch.Generator().manual_seed(1))
            return objective._opinion(clip, torch.full((2, FRAMES), 0.05), moment).mean()

    push = objective._push(made, batch, Moment(0, 0.0, torch.Generator().manual_seed(1)))
    pushed = made.latents.detach() - 0.1 * push / push.square().mean().sqrt()
    assert opinion(replace(made, latents=pushed)) > opinion(made)


def test_a_discriminator_learns_to_tell_empty_clips_from_full_ones() -> None:
    torch.manual_seed(5)
    teacher, batch = tiny.transformer().requires_grad_(False), _batch()
    geometry = teacher.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    place = Geometry(*(x[:1].expand(6, *x.shape[1:]) for x in geometry.frames(0, 3).tensors()))
    discriminator = Discriminator(teacher.config.layers, teacher.config.width, 16)
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.01)

    def opinion(clips: Tensor) -> Tensor:
        seen = seen_by(teacher, clips, torch.zeros(6, 3), torch.zeros(6, 1), place)
        told: Tensor = discriminator(*seen)
        return told

    for _ in range(60):
        full, empty = torch.randn(6, 3, 8, 4), torch.randn(6, 3, 8, 4)
        empty[:, :, 4:] = 0.0
        of_full, of_empty = opinion(full), opinion(empty)
        loss = losses.relativistic(of_full, of_empty)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert of_full.shape == (6, 3, 8)
    assert (of_full > of_empty).float().mean() > 0.9


def test_what_a_teacher_sees_after_its_last_block_is_what_it_answers_from() -> None:
    teacher, batch = tiny.transformer(), _batch()
    geometry = teacher.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    sigma = torch.full((2, FRAMES), 0.4)
    clips = batch.latents.float(), sigma, batch.words
    seen = seen_by(teacher, *clips, geometry)
    assert [x.shape for x in seen] == [(2, FRAMES, 8, teacher.config.width)] * len(teacher.blocks)
    _, condition, _ = teacher.embed(*clips)
    answer = teacher(*clips, geometry, [attend_all] * len(teacher.blocks))
    torch.testing.assert_close(teacher.head(seen[-1], condition), answer)


def _which(frame: Tensor, batch: LatentBatch) -> int:
    """The frame of the batch that `frame` [b p c] is."""
    return next(i for i in range(FRAMES) if torch.equal(frame, batch.latents[:, i].float()))


@pytest.mark.parametrize("places", [range(3, 7), [1, 3, 6, 7]])
def test_where_nobody_knows_the_truth_other_frames_as_far_apart_stand_beside_what_was_made(
    places: Sequence[int],
) -> None:
    objective, batch = _with_discriminator(), _batch()
    geometry, words = objective._views(batch, places)
    made = Made(batch.latents[:, :4].float(), geometry, words, torch.zeros(2, 4), list(places))
    starts = set()
    for step in range(12):
        moment = Moment(step, 0.0, torch.Generator().manual_seed(0))
        truth = objective._truth_beside(made, batch, moment)
        first = _which(truth.latents[:, 0], batch)
        frames = [first + place - places[0] for place in places]
        assert torch.equal(truth.latents, batch.latents[:, frames].float())
        views, _ = objective._views(batch, frames)
        torch.testing.assert_close(truth.geometry.tensors(), views.tensors())
        starts.add(first)
    assert len(starts) > 1 and max(starts) == FRAMES - 1 - (places[-1] - places[0])


def test_along_a_true_clip_the_truth_is_what_stands_at_the_same_places() -> None:
    config = replace(ONE_STEP, scored_frames=4, stream_share=0.99, known_frames=1)
    networks = [tiny.transformer() for _ in range(3)]
    objective, batch = DistributionMatching(config, *networks, tiny.CACHE), _batch()
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    ends = []
    for _ in range(3):  # frames 0 to 3, then 3 more at a time, of 8
        made = objective._rollout(batch, moment)
        if made.truth is not None:
            ends.append(_which(made.truth[:, -1], batch))
            assert torch.equal(made.truth, batch.latents[:, ends[-1] - 3 : ends[-1] + 1].float())
    assert ends == [3, 6]
    assert made.truth is None, "the third goes on beyond the clip"


def test_nobody_knows_the_truth_on_a_walk_and_on_the_way_back() -> None:
    batch = _batch()
    stream = Stream(batch, batch.latents[:, :3].float(), FRAMES)
    there = stream.truth([1, 4, FRAMES - 1])
    assert there is not None and torch.equal(there, batch.latents[:, [1, 4, FRAMES - 1]].float())
    assert stream.truth([FRAMES - 1, FRAMES]) is None
    assert stream.onward(batch.camera_from_anchor).truth([0, 1]) is None


def test_a_rollout_without_a_true_frame_has_no_truth_near_it() -> None:
    config = replace(CONFIG, truth_weight=0.5, invented_share=1.0)
    networks = [tiny.transformer() for _ in range(3)]
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    assert objective._rollout(_batch(), moment).near is None
    assert objective.loss("student", _batch(), moment)[0].isfinite()


def _objective_made(networks: list[WorldTransformer], batch: LatentBatch) -> Tensor:
    config = replace(CONFIG, invented_share=0.0)
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    moment = Moment(0, 0.0, torch.Generator().manual_seed(0))
    return objective._rollout(batch, moment).latents.detach()


def test_frames_before_the_trained_ones_are_those_of_play() -> None:
    """They run all their steps, whichever step the trained ones exit at, and have no gradient."""
    batch, student = _batch(), tiny.transformer()
    played = _own(batch, _plan(STEPS - 1)).detach()
    made = _own(batch, replace(_plan(0), gradient_from=5), student=student)
    torch.testing.assert_close(made[:, :5], played[:, :5])
    assert (made[:, 5:] - played[:, 5:]).abs().amax((0, 2, 3)).min() > 1e-3
    made[:, :5].sum().backward()
    assert not _touched(student)


@pytest.mark.parametrize(("known", "size"), [(1, 1), (0, 1), (1, 3)])
def test_trained_frames_have_the_gradients_they_have_when_all_are_trained(
    known: int, size: int
) -> None:
    batch, plan = _batch(), _plan(STEPS - 1, block_frames=size)
    late, whole = tiny.transformer(), tiny.transformer()
    for student, start in ((late, 5), (whole, 0)):
        made = _own(batch, replace(plan, gradient_from=start), known, student=student)
        made[:, 5:].square().sum().backward()
    for (name, a), b in zip(late.named_parameters(), whole.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


def test_a_player_plays_with_the_weights_the_student_has_now() -> None:
    batch, student = _batch(), tiny.transformer()
    player = Player(student, tiny.CACHE, clips=2, frames=FRAMES)
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)

    def play() -> Tensor:
        random = torch.Generator().manual_seed(5)
        known = batch.latents[:, :1].float()
        return player.play(geometry, batch.words, known, _plan(), random).latents

    before = play()
    assert torch.equal(play(), before)  # nothing of the last rollout is left
    tiny.shaken(student, 0.05)
    assert (play() - before)[:, 1:].abs().amax((0, 2, 3)).min() > 1e-3


def test_a_block_is_compiled_once_for_the_pass_that_has_gradients() -> None:
    student = tiny.transformer()
    counter = CompileCounter()
    for block in student.blocks:
        block.compile(dynamic=False, backend=counter)
    made = _own(_batch(), _plan(), student=student)
    assert counter.frame_count == 1
    torch.testing.assert_close(made, _own(_batch(), _plan()))


@pytest.mark.parametrize(
    ("steps", "thousandths"),
    [(1, [1000.0]), (2, [1000.0, 833.333]), (4, [1000.0, 937.5, 833.333, 625.0])],
)
def test_the_steps_are_those_of_the_paper(steps: int, thousandths: list[float]) -> None:
    config = replace(CONFIG, student_steps=steps, shift=5.0)
    networks = [tiny.transformer() for _ in range(3)]
    objective = DistributionMatching(config, *networks, tiny.CACHE)
    assert float(objective._levels[-1]) == 0.0
    assert [1000 * level for level in objective._levels[:-1].tolist()] == pytest.approx(thousandths)
    first = [1000 * level for level in objective._first_levels[:-1].tolist()]
    assert first == pytest.approx([1000.0, 937.5, 833.333, 625.0])


def test_the_steps_of_a_student_may_lie_higher_than_the_noise_levels_of_its_scores() -> None:
    networks = [tiny.transformer() for _ in range(3)]
    config = replace(CONFIG, student_steps=2, shift=5.0, student_shift=12.0)
    high = DistributionMatching(config, *networks, tiny.CACHE)
    assert high._levels.tolist() == pytest.approx([1.0, 12 / 13, 0.0])

    def noise_levels(student_shift: float | None) -> Tensor:
        objective = replace(config, student_shift=student_shift)
        moment = Moment(0, 0.0, torch.Generator().manual_seed(1))
        scored = DistributionMatching(objective, *networks, tiny.CACHE)
        return scored._noise_levels(torch.zeros(8, 3, 4, 4), moment)

    torch.testing.assert_close(noise_levels(12.0), noise_levels(None))


@pytest.mark.parametrize(
    "values",
    [
        {"student_steps": 0},
        {"first_frame_steps": 0},
        {"block_frames": 0},
        {"known_frames": -1},
        {"invented_share": 1.5},
        {"scored_frames": 1},
        {"student_shift": 0.0},
    ],
)
def test_a_rollout_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        replace(CONFIG, **values)


def _gradients(objective: DistributionMatching, role: str, seed: int) -> Tensor:
    moment = Moment(0, 0.0, torch.Generator().manual_seed(seed))
    objective.loss(role, _batch(), moment)[0].backward()
    found = [p.grad for p in objective.trained[role].parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in found])
    objective.trained[role].zero_grad()
    return flat


def _averages_over_two_processes(rank: int, store: str) -> None:
    """Runs in each of two processes: their gradients together are the mean of what each has alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    alone, together = _objective(), _objective()
    processes = Processes(rank, 2, torch.device("cpu"))
    for role in ("student", "critic"):
        mean = _gradients(alone, role, seed=rank)
        own = mean.clone()
        dist.all_reduce(mean)
        mean /= 2
        assert not torch.allclose(own, mean)
        parameters = list(together.trained[role].parameters())
        gradients = Gradients(parameters)
        moment = Moment(0, 0.0, torch.Generator().manual_seed(rank))
        together.loss(role, _batch(), moment)[0].backward()
        gradients.average(processes)
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        torch.testing.assert_close(found, mean)
        torch.testing.assert_close(gradients.norm(), mean.norm())
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_rollouts_are_averaged_over_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_averages_over_two_processes, (str(tmp_path / "store"),), nprocs=2)


def test_both_roles_are_due_once_in_critic_updates_steps() -> None:
    objective = _objective()
    due = [objective.due(step) for step in range(10)]
    assert due.count(("student", "critic")) == 2
    assert due.count(("critic",)) == 8


def test_where_critic_and_teacher_agree_nothing_moves() -> None:
    made, x0 = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    losses.distribution_matching(made, x0, x0).backward()
    assert made.grad is not None
    assert made.grad.abs().max() == 0


def test_a_step_down_the_loss_goes_from_the_critic_towards_the_teacher() -> None:
    made = torch.zeros(1, 1, 1, 4, requires_grad=True)
    real, fake = torch.full((1, 1, 1, 4), 1.0), torch.full((1, 1, 1, 4), -1.0)
    losses.distribution_matching(made, real, fake).backward()
    assert made.grad is not None
    assert (made.grad < 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("commit", ["clean", "own"])
def test_captured_on_a_gpu_a_rollout_is_what_it_is_without_capture(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = to_device(_batch(), torch.device("cuda"))
    student = tiny.transformer().cuda()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)

    def play(player: Player) -> Tensor:
        random = torch.Generator("cuda").manual_seed(5)
        known = batch.latents[:, :1].float()
        return player.play(geometry, batch.words, known, _plan(commit=commit), random).latents

    captured = Player(student, tiny.CACHE, clips=2, frames=FRAMES)
    once, again = play(captured), play(captured)
    assert torch.equal(once, again)
    compiled = play(Player(student, tiny.CACHE, clips=2, frames=FRAMES, compiled=True))
    torch.testing.assert_close(once, compiled, rtol=0.05, atol=0.05)  # bfloat16, rounded elsewhere

    def plainly(_self: Player, _name: str, run: Any, start: int, inputs: Any) -> Tensor:
        made: Tensor = run(start, *inputs)
        return made

    monkeypatch.setattr(Player, "_run", plainly)
    torch.testing.assert_close(once, play(Player(student, tiny.CACHE, clips=2, frames=FRAMES)))
