"""The rollout of training is the rollout of play, with gradients where they are wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import losses
from distill.batches import LatentBatch
from distill.objectives import DistributionMatching, DistributionMatchingConfig, Moment
from distill.rollout import Views, rollout
from distill.self_rollout import Plan, self_rollout
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.checkpoint import RolloutConfig

FRAMES, STEPS, SHIFT = 8, 2, 3.0
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


def _own(batch: LatentBatch, exit_step: int, seed: int = 5) -> Tensor:
    student = tiny.transformer()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    plan = Plan(levels=flow.schedule(STEPS, SHIFT).tolist(), exit_step=exit_step)
    random = torch.Generator().manual_seed(seed)
    known = batch.latents[:, :1].float()
    return self_rollout(student, geometry, batch.words, known, tiny.CACHE, plan, random)


def test_run_to_the_last_step_it_is_the_rollout_of_play() -> None:
    batch = _batch()
    views = Views(cameras=batch.camera_from_anchor, intrinsics=batch.intrinsics, words=batch.words)
    played = rollout(
        tiny.transformer(),
        tiny.autoencoder(),
        tiny.CACHE,
        batch.latents[:, :1].float(),
        views,
        how=RolloutConfig(steps=STEPS, first_frame_steps=1, shift=SHIFT, solver="consistency"),
        seed=5,
    )
    torch.testing.assert_close(_own(batch, STEPS - 1).detach(), played, rtol=1e-3, atol=1e-3)


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


def test_gradients_flow_through_the_exit_step_only() -> None:
    """The first step of a rollout that exits at the second one is outside the graph."""
    calls: list[bool] = []
    student = tiny.transformer()
    plain = student.forward

    def watched(*arguments: object) -> Tensor:
        out = plain(*arguments)  # type: ignore[arg-type]
        calls.append(out.requires_grad)
        return out

    student.forward = watched  # type: ignore[method-assign, assignment]
    batch = _batch()
    geometry = student.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    plan = Plan(levels=flow.schedule(2, SHIFT).tolist(), exit_step=1)
    known, random = batch.latents[:, :1].float(), torch.Generator().manual_seed(0)
    self_rollout(student, geometry, batch.words, known, tiny.CACHE, plan, random)
    # the known frame is only remembered; every other one: denoise, exit, remember
    assert calls == [False] + [False, True, False] * (FRAMES - 1)


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
