"""Muon for matrices and convolution kernels, AdamW for everything else, EMA, and the schedule.

torch.optim.Muon updates one matrix after another, hundreds of small kernels a step. Here all matrices
of one shape are orthogonalised in one batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.sharding import local, spread_like


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    learning_rate: float  # AdamW
    muon_learning_rate: float | None  # None: AdamW for all parameters
    weight_decay: float
    betas: tuple[float, float]
    max_gradient_norm: float
    warmup_steps: int
    decay_from: float  # progress at which the rate starts to fall, linearly to `final_factor`
    final_factor: float

    def factor(self, step: int, progress: float) -> float:
        """The learning rate's multiple at `step`: warm up, hold, decay."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        fall = max(0.0, progress - self.decay_from) / max(1e-9, 1.0 - self.decay_from)
        return warm * max(self.final_factor, 1.0 - fall)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are made orthogonal by Newton-Schulz iterations.

    A convolution's kernel [out in h w] is taken as the matrix [out, in h w].
    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the
    update is scaled to AdamW's size (0.2 sqrt(max(rows, columns))) as in arXiv 2502.16982.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(list(parameters), defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _update(
        self, parameters: list[Tensor], lr: float | Tensor, weight_decay: float, momentum: float
    ) -> None:
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        buffers = [self._buffer(p) for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch.stack(torch._foreach_lerp(gradients, buffers, momentum)).flatten(2)
        update = orthogonalise(nesterov) * (-lr * 0.2 * math.sqrt(max(nesterov.shape[-2:])))
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        steps = [one.view_as(p) for one, p in zip(update, parameters, strict=True)]
        torch._foreach_add_(parameters, steps)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of matrices [n r c] towards 1 (quintic Newton-Schulz)."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        even = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, even, x, beta=3.4445)
    return (x if wide else x.mT).to(matrices.dtype)


class Optimizers:
    """The optimizers of one network, as one; on a GPU a captured graph may hold a step of them."""

    def __init__(self, config: OptimizerConfig, network: nn.Module) -> None:
        self.config = config
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        matrices: list[nn.Parameter] = []
        if config.muon_learning_rate is not None:
            matrices = network.parameters_for_muon()  # type: ignore[operator]
            matrices = [p for p in matrices if p.requires_grad]
        taken = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in taken]
        on_gpu = rest[0].is_cuda
        decay = config.weight_decay
        adamw = torch.optim.AdamW(
            rest,
            config.learning_rate,
            config.betas,
            weight_decay=decay,
            fused=on_gpu,
            capturable=on_gpu,
        )
        adamw._warned_capturable_if_run_uncaptured = True  # its first steps run outside a graph
        self._all: list[torch.optim.Optimizer] = [adamw]
        if matrices and config.muon_learning_rate is not None:
            self._all.append(Muon(matrices, config.muon_learning_rate, decay))
        self._rates = [optimizer.param_groups[0]["lr"] for optimizer in self._all]

    def step(self, factor: Tensor) -> None:
        """Update with the learning rates times `factor`, one number."""
        for optimizer, rate in zip(self._all, self._rates, strict=True):
            for group in optimizer.param_groups:
                # on a GPU it stays there: a captured graph would keep a number for ever
                group["lr"] = rate * factor if factor.is_cuda else rate * float(factor)
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self._all)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, with whole tensors."""
        for i, optimizer in enumerate(self._all):
            (group,) = optimizer.param_groups
            saved = state[str(i)]
            ours = {
                index: {name: _like(kept, group["params"][index]) for name, kept in one.items()}
                for index, one in saved["state"].items()
            }
            optimizer.load_state_dict(saved | {"state": ours})


def _like(kept: Any, parameter: Tensor) -> Any:
    return spread_like(kept, parameter) if isinstance(kept, Tensor) else kept


class ExponentialAverage:
    """A running average of a network's weights; at first it forgets faster, so it is unbiased."""

    def __init__(self, network: nn.Module, decay: float, kept_in: nn.Module | None = None) -> None:
        """`kept_in`: a copy of `network` that is to hold the average, for objectives that run it."""
        self.decay = decay
        self.updates = 0
        self._live = list(network.parameters())
        self.weights: list[Tensor]
        if kept_in is None:
            self.weights = [p.detach().clone() for p in self._live]
        else:  # the parameters themselves: sharding moves their storage when it first gathers them
            self.weights = list(kept_in.parameters())

    def next_share(self) -> float:
        """The share of the live weights in the next average."""
        self.updates += 1
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, share: Tensor) -> None:
        """Move the average by `share`, one number, towards the live weights."""
        weights = [local(weight) for weight in self.weights]
        moves = torch._foreach_sub([local(p.detach()) for p in self._live], weights)
        torch._foreach_mul_(moves, share if share.is_cuda else float(share))
        torch._foreach_add_(weights, moves)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        for parameter, average in zip(network.parameters(), self.weights, strict=True):
            parameter.copy_(average)

    @torch.no_grad()
    def load(self, weights: list[Tensor], updates: int) -> None:
        for average, weight in zip(self.weights, weights, strict=True):
            average.copy_(spread_like(weight, average))
        self.updates = updates
