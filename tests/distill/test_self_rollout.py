"""The rollout of training is the rollout of play, with gradients where they are wanted."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from distill import losses
from distill.batches import LatentBatch
from distill.matching import DistributionMatching, DistributionMatchingConfig
from distill.objectives import Moment
from distill.rollout import Views, rollout
from distill.self_rollout import Memory, Plan, self_rollout
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.autoencoder import frames_to_uint8
from worldmodel.checkpoint import RolloutConfig
from worldmodel.sampler import Commit
from worldmodel.session import WorldSession
from worldmodel.types import Start

FRAMES, STEPS, FIRST_STEPS, SHIFT = 8, 2, 4, 3.0
CONFIG = DistributionMatchingConfig(
    kind="distribution_matching",
    student_steps=STEPS,
    shift=SHIFT,
    known_frames=1,
    critic_updates=5,
)


def _batch() -> LatentBatch:
    random = torch.Generator().manual_seed(0)
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


def _own(batch: LatentBatch, plan: Plan, known: int = 1, seed: int = 5) -> Tensor:
    student = tiny.transformer()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    random = torch.Generator().manual_seed(seed)
    given = batch.latents[:, :known].float()
    return self_rollout(student, geometry, batch.words, given, tiny.CACHE, plan, random)


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


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_gradients_flow_through_the_exit_step_only(commit: Commit) -> None:
    calls: list[tuple[float, bool]] = []
    student = tiny.transformer()
    plain = student.forward

    def watched(latent: Tensor, sigma: Tensor, *others: Any) -> Tensor:
        out = plain(latent, sigma, *others)
        calls.append((round(float(sigma[0, 0]), 3), out.requires_grad))
        return out

    student.forward = watched  # type: ignore[method-assign, assignment]
    batch = _batch()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    random = torch.Generator().manual_seed(0)
    known = batch.latents[:, :1].float()
    rolled = self_rollout(
        student, geometry, batch.words, known, tiny.CACHE, _plan(0, commit), random
    )
    after_the_exit = [(0.75, False)] if commit == "own" else []
    assert calls == [(1.0, True), *after_the_exit] * (FRAMES - 1)
    assert rolled.requires_grad


def test_what_is_remembered_has_no_gradient() -> None:
    """So a frame's loss moves the step that made it, never the frames before it."""
    batch, student = _batch(), tiny.transformer()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    known = batch.latents[:, :1].float()
    for commit in ("clean", "own"):
        memory = Memory(tiny.CACHE, student, len(known))
        kernels = memory.reading(1)
        sigma = torch.ones(len(known), 1)
        student(known, sigma, batch.words, geometry.frame(0), kernels)
        memory.keep(kernels)
        assert not any(x.requires_grad for layer in memory._layers for x in layer), commit


def test_the_last_frame_alone_has_the_gradient_of_the_whole_rollout_s_last_frame() -> None:
    """Detaching all frames but the last changes nothing of the last one's gradient."""
    batch, student = _batch(), tiny.transformer()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    known, random = batch.latents[:, :1].float(), torch.Generator().manual_seed(0)
    made = self_rollout(student, geometry, batch.words, known, tiny.CACHE, _plan(), random)
    (alone,) = torch.autograd.grad(made[:, -1].sum(), student.latent_out.bias)
    # the bias of the last layer is added to every velocity: x0 = x - sigma v
    tokens = batch.latents.shape[2]
    expected = torch.full_like(alone, -0.75 * 2 * tokens)
    torch.testing.assert_close(alone, expected)


def test_a_block_is_compiled_for_the_kind_of_pass_and_not_for_every_length_of_memory() -> None:
    student, batch = tiny.transformer(), _batch()
    counter = CompileCounter()
    for block in student.blocks:
        block.compile(dynamic=False, backend=counter)
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    known = batch.latents[:, :1].float()
    random = torch.Generator().manual_seed(5)
    made = self_rollout(student, geometry, batch.words, known, tiny.CACHE, _plan(), random)
    assert counter.frame_count == 3  # reading, reading with a gradient, writing
    torch.testing.assert_close(made, _own(batch, _plan()))


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


@pytest.mark.parametrize(
    "values",
    [
        {"student_steps": 0},
        {"first_frame_steps": 0},
        {"block_frames": 0},
        {"known_frames": -1},
        {"invented_share": 1.5},
    ],
)
def test_a_rollout_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        replace(CONFIG, **values)


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
