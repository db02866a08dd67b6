"""The gradients of a network in one buffer: cleared, exchanged, measured and clipped in a call each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distill.processes import Processes
from distill.sharding import local, whole


class Gradients:
    """From now on the gradients of `parameters` are views into one buffer, and stay there.

    Backward passes add to them. Fixed addresses are also what a captured graph needs.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        parameters = list(parameters)
        count = sum(parameter.numel() for parameter in parameters)
        self._flat = torch.zeros(count, device=parameters[0].device)
        offset = 0
        for parameter in parameters:
            # in the memory format of the weight: adding another one would be a transposition
            strides = parameter.stride()
            parameter.grad = self._flat.as_strided(parameter.shape, strides, offset)
            offset += parameter.numel()

    def clear(self) -> None:
        self._flat.zero_()

    def average(self, processes: Processes) -> None:
        """Replace them by their mean over all processes."""
        processes.average(self._flat)

    def norm(self) -> Tensor:
        return self._flat.norm()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale them down to norm `largest` if `norm`, which is theirs, exceeds it."""
        self._flat.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


class SpreadGradients:
    """The same for weights that are spread over processes: who spreads them allots their gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)

    def clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def average(self, processes: Processes) -> None:
        """They were averaged as they were made."""

    def norm(self) -> Tensor:
        return whole(nn.utils.get_total_norm(self._made()))

    def clip(self, norm: Tensor, largest: float) -> None:
        parts = [local(gradient) for gradient in self._made()]
        torch._foreach_mul_(parts, (largest / (norm + 1e-6)).clamp(max=1.0))

    def _made(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]


def gradients_of(parameters: Sequence[nn.Parameter]) -> Gradients | SpreadGradients:
    spread = any(isinstance(parameter, DTensor) for parameter in parameters)
    return SpreadGradients(parameters) if spread else Gradients(parameters)
