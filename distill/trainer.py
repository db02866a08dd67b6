"""The one training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distill import losses
from distill.batches import Batches, prefetch, send, to_device
from distill.captured import Captured
from distill.gradients import gradients_of
from distill.log import TrainingLog
from distill.objectives import Moment, Objective, Remembers
from distill.optimizers import ExponentialAverage, Optimizers
from distill.processes import Processes
from distill.samples import Samples
from distill.sharding import load_whole
from distill.stages import StageConfig
from distill.state import load_state, save_state
from worldmodel import config as strict

LOG_EVERY = 20
ROWS_OF_SPEED = 3  # of the log, before anything is said of the usual speed
CLOCK_EVERY = 10  # steps between looks at the clock, which all processes must share


class NotFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite; nothing was updated with it."""


@dataclass
class Trainer:
    """Runs a stage from wherever its folder says it stands."""

    stage: StageConfig
    networks: Mapping[str, nn.Module]  # role -> network; what is kept is the student
    objective: Objective
    batches: Batches
    out: Path
    processes: Processes
    samples: Samples | None = None  # drawn every `stage.sample_every` steps

    def __post_init__(self) -> None:
        self.step = 0
        self._written: TrainingLog | None = None
        self._logged = (0.0, 0)  # when, and at which step
        self.elapsed_s = 0.0  # training time of earlier runs of this stage
        self.optimizers = {
            role: Optimizers(self.stage.optimizer_of(role), network)
            for role, network in self.networks.items()
        }
        self.gradients = {
            role: gradients_of(optimizers.parameters)
            for role, optimizers in self.optimizers.items()
        }
        kept_in = self.objective.average_network
        self.average = ExponentialAverage(self.network, self.stage.ema_decay, kept_in)
        self._random = torch.Generator(self.processes.device)
        self._backward = {
            role: Captured(partial(self._add_gradient, role), self._random)
            for role in self.networks
        }
        self._update = {role: Captured(partial(self._move, role)) for role in self.networks}
        self._moment = Moment(0, 0.0, self._random)
        self._batch_type: type[Any] = object
        self._clock = 0.0
        self._history: list[dict[str, float]] = []

    @property
    def network(self) -> nn.Module:
        return self.networks["student"]

    def run(self) -> dict[str, Any]:
        """Train to the end of the stage; returns its report. Weights are left at their average.

        Raises:
            NotFiniteError: if the loss stops being finite.
            ValueError: if the folder holds a checkpoint of another configuration.
        """
        if self.processes.leads:
            self._written = TrainingLog(self.out, tensorboard=self.stage.tensorboard)
        self._resume()
        started = saved = time.monotonic()
        self._logged = (started, self.step)
        bar = tqdm(
            total=self.stage.steps, initial=self.step, disable=not self.processes.leads, unit="step"
        )
        parts = self.stage.accumulate
        remaining = range(parts * self.step, parts * self.stage.steps)
        read = prefetch(self.batches, remaining, self._send)
        for first in read:
            batches = [first, *islice(read, parts - 1)]
            now = time.monotonic()
            progress = self._update_progress(now - started)
            if progress >= 1.0:
                break
            measured = self.advance(batches, progress)
            if self.step % LOG_EVERY == 0:
                self._log(measured, progress, bar)
            self.step += 1
            bar.update()
            self._show_samples()
            if self._due_to_save(now - saved):
                self._save(now - started)
                saved = now
        bar.close()
        seconds = self.elapsed_s + time.monotonic() - started
        if self.step > 0:
            self._save(seconds - self.elapsed_s)
        self.average.copy_to(self.network)
        return self._report(seconds)

    def _update_progress(self, seconds: float) -> float:
        """Share of the stage that is done, by steps or by the clock, whichever is further."""
        budget = self.stage.time_budget_s
        if budget is not None and self.step % CLOCK_EVERY == 0:
            self._clock = self.processes.agree((self.elapsed_s + seconds) / budget)
        return max(self.step / self.stage.steps, self._clock)

    def _due_to_save(self, seconds: float) -> bool:
        """Decided by the first process's clock: saving is something all processes do together."""
        if self.step % CLOCK_EVERY:
            return False
        return self.processes.agree(float(seconds > self.stage.checkpoint_every_s)) > 0

    def advance(self, batches: Sequence[Any], progress: float) -> dict[str, Tensor]:
        """One step on `stage.accumulate` batches, at a share of the stage; returns what was measured.

        Raises:
            NotFiniteError: if the loss or its gradient is not finite; nothing was updated with it.
        """
        # the generator is seeded per step, so a resumed run draws the noise it would have drawn
        nth_step = self.stage.seed * 1_000_003 + self.step
        self._random.manual_seed(nth_step * 512 + self.processes.rank)
        self._moment = Moment(self.step, progress, self._random)
        due = self.objective.due(self.step)
        measured: dict[str, Tensor] = {}
        for role in due:
            values = self._gradient(role, batches)
            self.gradients[role].average(self.processes)
            case, numbers = self._case("always"), self._numbers(role, progress)
            values |= self._update[role](case, values["loss"], numbers)
            prefix = "" if role == "student" else f"{role}_"
            measured |= {prefix + name: value for name, value in values.items()}
        return measured

    def _gradient(self, role: str, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Leave the mean gradient over `batches`; returns the mean loss and metrics."""
        self.gradients[role].clear()
        case, measured = self._case(self.objective.case(self._moment)), []
        for batch in batches:
            self._batch_type = type(batch)
            tensors = [getattr(batch, field.name) for field in fields(batch)]
            values = self._backward[role](case, *tensors)
            measured.append({name: value.clone() for name, value in values.items()})
        return {name: torch.stack([m[name] for m in measured]).mean() for name in measured[0]}

    def _case(self, case: Hashable) -> Hashable:
        """Attention that is not compiled makes numbers on the CPU, which no graph can hold."""
        return case if self.stage.compile and self.stage.capture else None

    def _add_gradient(self, role: str, *tensors: Tensor) -> dict[str, Tensor]:
        """Add one part's gradient; `tensors` are the fields of its batch."""
        with self._precision():
            batch = self._batch_type(*tensors)
            loss, metrics = self.objective.loss(role, batch, self._moment)
        (loss / self.stage.accumulate).backward()
        return {"loss": loss.detach(), **metrics}

    def _numbers(self, role: str, progress: float) -> Tensor:
        """What changes from update to update: learning rates' factor, share of the average."""
        factor = self.stage.optimizer_of(role).factor(self.step, progress)
        share = self.average.next_share() if role == "student" else 0.0
        numbers = torch.tensor([factor, share], dtype=torch.float32)
        return send(numbers, self.processes.device) if self.stage.capture else numbers

    def _move(self, role: str, loss: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        """Update the weights with the gradient that is there, unless it is not finite."""
        gradients, optimizers = self.gradients[role], self.optimizers[role]
        norm = gradients.norm()
        finite = losses.is_finite(loss, norm)
        if finite.device.type == "cuda":
            torch._assert_async(finite)  # stops before the update, without waiting for the GPU
        elif not finite:
            raise NotFiniteError(f"step {self.step}: the loss or its gradient is not finite")
        gradients.clip(norm, optimizers.config.max_gradient_norm)
        optimizers.step(numbers[0])
        if role == "student":
            self.average.update(numbers[1])
        return {"gradient_norm": norm}

    def _precision(self) -> Any:
        if self.processes.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _send(self, batch: Any) -> Any:
        if self.processes.device.type == "cuda":
            torch.cuda.set_device(self.processes.device)  # reading threads start on the first GPU
        return to_device(batch, self.processes.device)

    def _log(self, measured: dict[str, Tensor], progress: float, bar: tqdm[Any]) -> None:
        values = {name: float(value) for name, value in measured.items()}
        row = {"progress": progress} | values | self._speed()
        self._history.append({"step": float(self.step)} | row)
        bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
        if self._written is not None:
            self._written.write(self.step, row)

    def _speed(self) -> dict[str, float]:
        """Clips a second since the last row of the log, and memory; the caller waited for the GPU."""
        (then, step), self._logged = self._logged, (time.monotonic(), self.step)
        clips = (self.step - step) * self._clips_per_step
        speed = {"clips_per_second": clips / max(self._logged[0] - then, 1e-9)} if clips else {}
        memory = _peak_memory_gib(self.processes.device)
        return speed if memory is None else speed | {"peak_memory_gib": memory}

    def _seconds_at_speed(self) -> float | None:
        """What all steps take at the usual speed: without compilers and captures, which steps wait for.

        None if there were too few steps to tell.
        """
        rates = [row["clips_per_second"] for row in self._history if "clips_per_second" in row]
        if len(rates) < ROWS_OF_SPEED:
            return None
        return round(self.step * self._clips_per_step / max(median(rates), 1e-9), 1)

    @property
    def _clips_per_step(self) -> int:
        return self.stage.batch_size * self.stage.accumulate * self.processes.count

    def _show_samples(self) -> None:
        if self.samples is None or self.step % self.stage.sample_every:
            return
        if self.processes.leads:
            self.samples.write(self.average, self.network, self.step)

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.safetensors"

    def _save(self, seconds: float) -> None:
        state = {
            "stage": strict.to_plain(self.stage),
            "step": self.step,
            "elapsed_s": self.elapsed_s + seconds,
            "networks": _states(self.networks),
            "average": self.average.weights,
            "average_updates": self.average.updates,
            "optimizers": _states(self.optimizers),
            "objective": self._taken_along(),
        }
        save_state(self._checkpoint, state, write=self.processes.leads)
        self.processes.wait()

    def _taken_along(self) -> list[dict[str, Tensor]]:
        """What the objective remembers, of every process."""
        kept: list[dict[str, Tensor]] = [{} for _ in range(self.processes.count)]
        if isinstance(self.objective, Remembers):
            for name, tensor in self.objective.state().items():
                everyone = self.processes.gather(tensor.to(self.processes.device))
                for mine, one in zip(kept, everyone, strict=True):
                    mine[name] = one
        return kept

    def _resume(self) -> None:
        if not self._checkpoint.is_file():
            return
        state = load_state(self._checkpoint)
        ours = json.loads(json.dumps(strict.to_plain(self.stage)))
        changed = [key for key in ours if state["stage"].get(key) != ours[key]]
        if changed:
            raise ValueError(
                f"{self.out}: holds a run of another configuration (it differs in"
                f" {', '.join(changed)}); choose another folder"
            )
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        for role, network in self.networks.items():
            load_whole(network, state["networks"][role])
            self.optimizers[role].load_state_dict(state["optimizers"][role])
        self.average.load(state["average"], state["average_updates"])
        if isinstance(self.objective, Remembers):
            kept = state.get("objective", [])
            # with another number of processes it begins anew
            mine = kept[self.processes.rank] if len(kept) == self.processes.count else {}
            there = {name: tensor.to(self.processes.device) for name, tensor in mine.items()}
            self.objective.load_state(there)

    def _report(self, seconds: float) -> dict[str, Any]:
        return {
            "stage": strict.to_plain(self.stage),
            "steps": self.step,
            "seconds": round(seconds, 1),
            "seconds_at_speed": self._seconds_at_speed(),
            "processes": self.processes.count,
            "device": _device_name(self.processes.device),
            "torch": torch.__version__,
            "clips_per_second": round(self.step * self._clips_per_step / max(seconds, 1e-9), 1),
            "peak_memory_gib": _peak_memory_gib(self.processes.device),
            "last": self._history[-1] if self._history else {},
        }


def _states(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {role: part.state_dict() for role, part in parts.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peak_memory_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
