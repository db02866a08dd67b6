"""Stored paths: what they hold, what they cost, and that they teach what consistency teaches."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.__main__ import main
from distill.batches import LatentBatch, PathBatch, PathBatches
from distill.clips import ClipSet
from distill.histories import CleanHistory
from distill.objectives import Consistency, ConsistencyConfig, Moment
from distill.regression import EndpointRegression, EndpointRegressionConfig
from distill.trajectories import TrajectoriesConfig, integrate, teacher_paths
from tests.distill.clip_maker import write_clips
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.attention import TeacherForcing
from worldmodel.transformer import WorldTransformer

FRAMES, GRID, SHIFT = 4, 48, 5.0
MEAN, DEVIATION = 0.4, 0.6
PATHS = TrajectoriesConfig(
    model=Path("unused"),
    history="clean",
    sampler_steps=GRID,
    kept=4,
    shift=SHIFT,
    clips=2,
    clips_per_shard=2,
    frames=FRAMES,
)


class Gaussian(WorldTransformer):
    """The exact velocities where every number of a latent is N(MEAN, DEVIATION^2) on its own."""

    def forward(self, latents: Tensor, sigma: Tensor, *_: object) -> Tensor:
        level = sigma[..., None, None]
        off = latents - (1 - level) * MEAN
        variance = ((1 - level) * DEVIATION).square() + level.square()
        x0 = MEAN + (1 - level) * DEVIATION**2 / variance * off
        return level / variance * off - x0


class FlowMap(Gaussian):
    """Where the Euler path of `Gaussian` on the grid ends, as a velocity; `bend` makes it wrong."""

    bend = 0.0

    def forward(self, latents: Tensor, sigma: Tensor, *_: object) -> Tensor:
        end, level = latents, sigma[..., None, None]
        grid = flow.schedule(GRID, SHIFT)
        for now, then in pairwise(grid):
            here = now.expand(sigma.shape)
            stepped = flow.euler_step(end, super().forward(end, here), here, then.expand_as(here))
            end = torch.where(level > now - 1e-6, stepped, end)
        end = end + self.bend * (level > 0)
        return torch.where(level > 0, (latents - end) / level.clamp_min(1e-6), 0.0)


def _clips() -> LatentBatch:
    random = torch.Generator().manual_seed(0)
    return LatentBatch(
        latents=(MEAN + DEVIATION * torch.randn(2, FRAMES, 8, 4, generator=random)).half(),
        camera_from_anchor=torch.eye(4, dtype=torch.float64).expand(2, FRAMES, 4, 4).contiguous(),
        intrinsics=torch.ones(2, FRAMES, 4),
        time=torch.arange(FRAMES).float().expand(2, FRAMES),
        words=torch.zeros(2, 1),
    )


def _attend() -> TeacherForcing:
    return TeacherForcing(FRAMES, 8, tiny.CACHE, torch.device("cpu"))


def _moment(seed: int) -> Moment:
    return Moment(0, 0.0, torch.Generator().manual_seed(seed))


def _with_paths(paths: TrajectoriesConfig = PATHS) -> PathBatch:
    clips = _clips()
    random = torch.Generator().manual_seed(1)
    history = CleanHistory(FRAMES, 8, tiny.CACHE, torch.device("cpu"))
    teacher = Gaussian(tiny.transformer_config())
    kept = teacher_paths(paths, teacher, history, clips, random)
    levels = flow.schedule(paths.kept, paths.shift).expand(2, -1)
    arrays = {name: getattr(clips, name) for name in LatentBatch.__slots__}
    return PathBatch(**arrays, paths=kept, levels=levels)


def _student(bend: float) -> FlowMap:
    student = FlowMap(tiny.transformer_config())
    student.bend = bend
    return student


def _consistency_loss(bend: float, seed: int) -> float:
    config = ConsistencyConfig(kind="consistency", grid_steps=GRID, shift=SHIFT)
    teacher = Gaussian(tiny.transformer_config())
    objective = Consistency(config, _student(bend), teacher, _student(bend), _attend())
    return float(objective.loss("student", _clips(), _moment(seed))[0])


def _regression_loss(bend: float, seed: int) -> float:
    config = EndpointRegressionConfig(
        kind="endpoint_regression", history="clean", level_per="clip", shift=SHIFT
    )
    objective = EndpointRegression(config, _student(bend), _attend())
    return float(objective.loss("student", _with_paths(), _moment(seed))[0])


def test_regression_and_consistency_are_both_least_at_the_flow_map_of_the_teacher() -> None:
    """And at it alone: the last pair of the grid and every stored place notice another answer."""
    for seed in range(6):
        assert _consistency_loss(0.0, seed) < 1e-9
        assert _regression_loss(0.0, seed) < 1e-9
        assert _regression_loss(0.2, seed) > 0.01
    assert max(_consistency_loss(0.2, seed) for seed in range(40)) > 0.005


def test_that_flow_map_is_the_analytic_one_up_to_the_steps_of_the_grid() -> None:
    sigma = torch.full((2, FRAMES), float(flow.schedule(4, SHIFT)[2]))
    level = sigma[..., None, None]
    noisy = flow.interpolate(_clips().latents.float(), torch.randn(2, FRAMES, 8, 4), sigma)
    end = flow.x0_from_velocity(noisy, _student(0.0)(noisy, sigma), sigma)
    spread = (((1 - level) * DEVIATION).square() + level.square()).sqrt()
    exact = MEAN + DEVIATION * (noisy - (1 - level) * MEAN) / spread
    assert (end - exact).abs().max() < 0.2
    assert (end - exact).abs().mean() < 0.05


def test_a_path_is_kept_at_the_steps_of_a_few_step_student() -> None:
    asked: list[float] = []

    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma[0, 0]))
        return torch.ones_like(latent)

    levels = flow.schedule(GRID, SHIFT).tolist()
    kept = integrate(velocity, torch.zeros(1, 1, 1, 1), levels, GRID // 4)
    assert asked == pytest.approx(levels[:-1])
    # a velocity of 1 from level 1 on: the latent is the level less 1
    torch.testing.assert_close(kept.flatten() + 1, flow.schedule(4, SHIFT))


def test_a_path_begins_in_noise_and_ends_among_the_clips() -> None:
    paths = _with_paths().paths
    assert paths.shape == (2, FRAMES, 5, 8, 4)
    assert abs(float(paths[:, :, 0].std()) - 1.0) < 0.1
    assert abs(float(paths[:, :, -1].mean()) - MEAN) < 0.15
    assert abs(float(paths[:, :, -1].std()) - DEVIATION) < 0.1


def test_kept_places_must_divide_the_steps() -> None:
    with pytest.raises(ValueError, match="kept must divide sampler_steps, got 5 and 48"):
        replace(PATHS, kept=5)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with clips of latents, a bidirectional run `0` and a causal run `1`."""
    data = str(write_clips(tmp_path / "data", latents=True))
    for stage, init in (("0", []), ("1", ["--init", str(tmp_path / "0")])):
        command = ["train", f"configs/stage/nano/{stage}.yaml", "steps=2", "--data", data]
        assert main([*command, *init, "--out", str(tmp_path / stage)]) == 0
    return tmp_path


def _trajectories(runs: Path, teacher: str, kind: str, *overrides: str) -> int:
    config = f"configs/trajectories/nano/{kind}.yaml"
    places = ["--data", str(runs / "data"), "--teacher", str(runs / teacher)]
    return main(["trajectories", config, *overrides, *places, "--out", str(runs / kind)])


def test_trajectories_are_stored_resumed_and_accounted_for(runs: Path) -> None:
    assert _trajectories(runs, "1", "causal") == 0
    folder = runs / "causal"
    first = sorted(folder.glob("*.safetensors"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seconds"] > 0
    assert manifest["extra_bytes"] == 4 * 8 * 5 * 28 * 8 * 2  # clips frames places tokens channels
    assert manifest["licence"] == ClipSet(runs / "data").manifest["licence"]
    kept, remade = first[0].stat().st_mtime_ns, first[1].read_bytes()
    first[1].unlink()
    assert _trajectories(runs, "1", "causal") == 0
    assert first[0].stat().st_mtime_ns == kept
    written = PathBatches(
        ClipSet(folder), (), batch_size=4, frames=8, shift=3.0, seed=0, rank=0, ranks=1
    ).at(0)
    assert written.paths.shape == (4, 8, 5, 28, 8)
    torch.testing.assert_close(written.levels[0], flow.schedule(4, 3.0))
    before = remade[8 + int.from_bytes(remade[:8], "little") :]
    again = first[1].read_bytes()
    assert (
        again[8 + int.from_bytes(again[:8], "little") :] == before
    )  # the same seed, the same paths


def test_paths_of_two_configurations_do_not_mix(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _trajectories(runs, "0", "bidirectional") == 0
    assert _trajectories(runs, "0", "bidirectional", "seed=1") == 2
    assert "trajectories of another configuration" in capsys.readouterr().err


def test_a_teacher_of_the_wrong_kind_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _trajectories(runs, "0", "causal") == 2
    assert "a bidirectional network (flow_matching), but a causal one" in capsys.readouterr().err
    assert _trajectories(runs, "1", "bidirectional") == 2
    assert "a causal network (flow_matching), but a bidirectional one" in capsys.readouterr().err
    data = ["--data", str(runs / "data"), "--out", str(runs / "new")]
    for stage, init, teacher in (("2-causal-cd", "1", "0"), ("3", "1", "1"), ("3", "0", "0")):
        places = ["--init", str(runs / init), "--teacher", str(runs / teacher)]
        assert main(["train", f"configs/stage/nano/{stage}.yaml", *data, *places]) == 2
        assert "one is needed: the run folder of stage" in capsys.readouterr().err
        assert not (runs / "new").exists()


def test_clips_without_paths_cannot_feed_a_regression(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "configs/stage/nano/2-causal-ode.yaml"
    places = ["--data", str(runs / "data"), "--init", str(runs / "1"), "--out", str(runs / "new")]
    assert main(["train", stage, *places]) == 2
    assert "holds no paths" in capsys.readouterr().err
    assert _trajectories(runs, "1", "causal") == 0
    places[1] = str(runs / "causal")
    assert main(["train", stage, "objective.shift=5.0", *places]) == 2
    assert "not kept at levels of shift 5.0" in capsys.readouterr().err
    assert main(["train", stage, "frames=6", *places]) == 2
    assert "paths of 8 frames, the stage takes 6" in capsys.readouterr().err
    assert not (runs / "new").exists()
