"""What one of two processes does in test_wan_training.py, which launches it with DATA and OUT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.batches import LatentBatches
from distill.clips import ClipSet
from distill.gradients import SpreadGradients
from distill.objectives import Moment, Objective
from distill.optimizers import Optimizers
from distill.processes import Processes, join
from distill.run import run_stage
from distill.sharding import whole
from distill.stage_networks import build_networks, ready
from distill.stage_objectives import build_batches, build_objective
from distill.stages import load_stage
from distill.trainer import Trainer

STAGES = ("wan-1", "wan-2-causal-cd", "wan-3")
RESUMED = {"wan-2-causal-cd": 10, "wan-3": 4}  # stage -> steps, half of which are resumed
OVERRIDES = (
    "model=configs/model/wan-nano.yaml",
    "batch_size=1",
    "accumulate=1",
    "frames=4",
    "prompt_dropout=0.0",
    "compile=false",
    "optimizer.learning_rate=1.0e-3",
    "optimizer.warmup_steps=1",
    "checkpoint_blocks=1",
)
ALONE = Processes(0, 1, torch.device("cpu"))


def made(
    name: str, processes: Processes, *overrides: str
) -> tuple[dict[str, nn.Module], Objective, Optimizers]:
    """The networks of a stage with random weights, the same in every process."""
    path = Path(f"configs/stage/{name}.yaml")
    stage, model = load_stage(path, [*OVERRIDES, *overrides])
    torch.manual_seed(3)
    networks = build_networks(stage, model, None, None, untrained=True)
    for network in networks.values():
        ready(network, stage, processes)
    objective = build_objective(stage, model, networks, None, processes, untrained=True)
    return networks, objective, Optimizers(stage.optimizer, networks["student"])


def backward(objective: Objective, batches: LatentBatches, rank: int, share: float) -> float:
    """Leave the gradients of what process `rank` of two would do."""
    moment = Moment(0, 0.0, torch.Generator().manual_seed(rank))
    loss, _ = objective.loss("student", batches.at(rank), moment)
    (share * loss).backward()
    return float(loss.detach())


def update(optimizers: Optimizers) -> None:
    gradients = SpreadGradients(optimizers.parameters)  # which leaves those be that are there
    gradients.clip(gradients.norm(), 0.1)
    optimizers.step(torch.tensor(1.0))


def batches(name: str, data: Path) -> LatentBatches:
    """Batch number r is what process r reads."""
    stage, model = load_stage(Path(f"configs/stage/{name}.yaml"), list(OVERRIDES))
    read = build_batches(stage, model, ClipSet(data), ALONE)
    assert isinstance(read, LatentBatches)
    return read


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: whole(value.detach()).clone() for name, value in network.state_dict().items()}


def trainer(name: str, data: Path, out: Path, processes: Processes, *overrides: str) -> Trainer:
    stage, model = load_stage(Path(f"configs/stage/{name}.yaml"), [*OVERRIDES, *overrides])
    networks, objective, _ = made(name, processes, *overrides)
    read = build_batches(stage, model, ClipSet(data), processes)
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(stage, networks, objective, read, out, processes)


def _one_step(name: str, data: Path, out: Path, processes: Processes) -> None:
    networks, objective, optimizers = made(name, processes)
    backward(objective, batches(name, data), processes.rank, 1.0)
    update(optimizers)
    found = weights(networks["student"])
    if processes.leads:
        save_file(found, out / f"{name}.safetensors")


def _resumed(name: str, data: Path, out: Path, processes: Processes) -> None:
    steps = RESUMED[name]
    more = (f"steps={steps}", "accumulate=2")
    folders = out / f"{name}-whole", out / f"{name}-parts"
    whole_run = trainer(name, data, folders[0], processes, *more)
    whole_run.run()
    first = trainer(name, data, folders[1], processes, *more)
    advance = first.advance

    def killed_half_way(*arguments: Any) -> dict[str, Tensor]:
        if first.step == steps // 2:
            first._save(0.0)
            raise KeyboardInterrupt
        return advance(*arguments)

    first.advance = killed_half_way  # type: ignore[method-assign, assignment]
    try:
        first.run()
    except KeyboardInterrupt:
        second = trainer(name, data, folders[1], processes, *more)
        second.run()
    for folder, run in zip(folders, (whole_run, second), strict=True):
        found = weights(run.network)
        if processes.leads:
            save_file(found, folder / "weights.safetensors")


def _run(data: Path, out: Path, processes: Processes) -> None:
    stage, model = load_stage(Path("configs/stage/wan-0.yaml"), [*OVERRIDES, "steps=2"])
    run_stage(stage, model, data, out / "run", None, processes)


def main(data: Path, out: Path) -> None:
    with join("cpu") as processes:
        for name in STAGES:
            _one_step(name, data, out, processes)
        for name in RESUMED:
            _resumed(name, data, out, processes)
        _run(data, out, processes)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
