"""Consistency distillation: what it teaches, whom it teaches, and how its students are sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batches import LatentBatch
from distill.objectives import Consistency, ConsistencyConfig, Moment, guided, guided_velocity
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.attention import TeacherForcing
from worldmodel.sampler import sample
from worldmodel.transformer import Geometry, WorldTransformer

CONFIG = ConsistencyConfig(kind="consistency", grid_steps=48, shift=5.0)


class PathTo(WorldTransformer):
    """Its velocities lead straight to `goal` from everywhere: the exact flow of a single latent."""

    goal = 0.5

    def forward(self, latents: Tensor, sigma: Tensor, *_: object) -> Tensor:
        level = sigma[..., None, None].clamp_min(1e-6)
        return torch.where(sigma[..., None, None] > 0, (latents - self.goal) / level, 0.0)


def _batch(frames: int = 4) -> LatentBatch:
    random = torch.Generator().manual_seed(0)
    return LatentBatch(
        latents=torch.full((2, frames, 8, 4), PathTo.goal).half(),
        camera_from_anchor=torch.eye(4, dtype=torch.float64).expand(2, frames, 4, 4).contiguous(),
        intrinsics=torch.rand(2, frames, 4, generator=random) + 0.5,
        time=torch.arange(frames).float().expand(2, frames),
        words=torch.zeros(2, 1),
    )


def _moment(seed: int) -> Moment:
    return Moment(0, 0.0, torch.Generator().manual_seed(seed))


def _objective(network: WorldTransformer, teacher: WorldTransformer) -> Consistency:
    average = type(network)(tiny.transformer_config())
    attend = TeacherForcing(4, 8, tiny.CACHE, torch.device("cpu"))
    return Consistency(CONFIG, network, teacher, average, attend)


def test_the_exact_flow_map_has_no_loss_on_any_pair_of_the_grid() -> None:
    exact = PathTo(tiny.transformer_config())
    objective = _objective(exact, PathTo(tiny.transformer_config()))
    for seed in range(60):
        assert float(objective.loss("student", _batch(), _moment(seed))[0]) < 1e-9


def test_a_path_that_has_reached_level_0_ends_where_it_is() -> None:
    """So the last pair of the grid teaches the teacher's landing point, whatever the average says."""
    wrong, batch = tiny.transformer(), _batch()
    objective = _objective(wrong, PathTo(tiny.transformer_config()))
    landed, zero = torch.full((2, 4, 8, 4), 0.3), torch.zeros(2, 4)
    geometry = wrong.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    end = objective._end(wrong, landed, landed, zero, batch.words, geometry)
    assert torch.equal(end, landed)


def test_the_last_pair_of_the_grid_is_drawn() -> None:
    drawn = {
        int(torch.randint(CONFIG.grid_steps, (1,), generator=torch.Generator().manual_seed(seed)))
        for seed in range(600)
    }
    assert drawn == set(range(48))


def test_the_grid_contains_the_steps_of_inference() -> None:
    grid = flow.schedule(48, 5.0)
    for steps in (1, 2, 4):
        for level in flow.schedule(steps, 5.0):
            assert (grid - level).abs().min() < 1e-6


def test_gradients_reach_the_student_only() -> None:
    student, teacher = tiny.transformer(), tiny.transformer()
    objective = _objective(student, teacher)
    objective.loss("student", _batch(), _moment(3))[0].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is None for p in objective.average_network.parameters())


def test_guidance_of_one_is_the_conditional_and_of_zero_the_unconditional() -> None:
    without, with_words = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(guided(without, with_words, 1.0), with_words)
    torch.testing.assert_close(guided(without, with_words, 0.0), without)


def test_without_guidance_the_teacher_is_asked_once() -> None:
    asked: list[float] = []

    def velocity(words: Tensor) -> Tensor:
        asked.append(float(words.sum()))
        return words

    assert torch.equal(guided_velocity(velocity, torch.ones(2), 1.0), torch.ones(2))
    assert asked == [2.0]
    assert torch.equal(guided_velocity(velocity, torch.ones(2), 3.0), torch.full((2,), 3.0))
    assert asked == [2.0, 2.0, 0.0]


def test_autoguidance_leads_away_from_a_worse_network_and_adds_to_that_over_words() -> None:
    def better(words: Tensor) -> Tensor:
        return 2 * words

    def worse(words: Tensor) -> Tensor:
        return words - 1.0

    words = torch.ones(2)  # told them, 2 and 0
    assert torch.equal(guided_velocity(better, words, 1.0, worse, 1.0), torch.full((2,), 2.0))
    assert torch.equal(guided_velocity(better, words, 1.0, worse, 3.0), torch.full((2,), 6.0))
    assert torch.equal(guided_velocity(better, words, 2.0, worse, 3.0), torch.full((2,), 8.0))


def test_the_pass_without_words_keeps_the_camera() -> None:
    """Guidance is over words: both passes of the teacher get the same geometry."""
    seen: list[tuple[float, Geometry]] = []

    class Watched(PathTo):
        def forward(self, latents: Tensor, sigma: Tensor, *others: Any) -> Tensor:
            seen.append((float(others[0].sum()), others[1]))
            return super().forward(latents, sigma)

    config = replace(CONFIG, guidance=3.0)
    networks = [kind(tiny.transformer_config()) for kind in (PathTo, Watched, PathTo)]
    attend = TeacherForcing(4, 8, tiny.CACHE, torch.device("cpu"))
    batch = replace(_batch(), words=torch.ones(2, 1))
    Consistency(config, *networks, attend).loss("student", batch, _moment(0))
    (with_words, first), (without, second) = seen
    assert (with_words, without) == (2.0, 0.0)
    for a, b in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("solver", ["euler", "consistency"])
def test_both_solvers_land_on_the_goal_of_an_exact_flow(solver: str) -> None:
    def denoise(latent: Tensor, now: float, to: float) -> Tensor:
        return latent + (to - now) * (latent - 0.5) / now

    random = torch.Generator().manual_seed(1)
    for steps in (1, 2, 4):
        levels = flow.schedule(steps, 5.0).tolist()
        landed = sample(denoise, lambda: torch.randn(4, generator=random), levels, solver)  # type: ignore[arg-type]
        torch.testing.assert_close(landed, torch.full((4,), 0.5))


def test_one_step_is_the_same_for_both_solvers() -> None:
    def run(solver: str) -> Tensor:
        random = torch.Generator().manual_seed(2)
        noise = lambda: torch.randn(4, generator=random)  # noqa: E731
        return sample(lambda x, now, to: x * (1 - now) + to + 0.1, noise, [1.0, 0.0], solver)  # type: ignore[arg-type]

    assert torch.equal(run("euler"), run("consistency"))


def test_a_consistency_stage_without_a_teacher_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distill.__main__ import main
    from tests.distill.clip_maker import write_clips

    data = write_clips(tmp_path / "data", latents=True)
    command = ["train", "configs/stage/nano/2-causal-cd.yaml", "--data", str(data)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "needs --teacher" in capsys.readouterr().err


def test_the_running_average_of_a_run_is_the_target_network(tmp_path: Path) -> None:
    from distill.__main__ import main
    from tests.distill.clip_maker import write_clips

    data = str(write_clips(tmp_path / "data", latents=True))
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    stage = "configs/stage/nano"
    assert main(["train", f"{stage}/1.yaml", "steps=3", "--data", data, "--out", first]) == 0
    command = ["train", f"{stage}/2-causal-cd.yaml", "steps=3", "--data", data, "--out", second]
    assert main([*command, "--init", first, "--teacher", first]) == 0
    assert (tmp_path / "2" / "report.json").is_file()
