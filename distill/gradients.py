"""The gradients of a network in one buffer: cleared, exchanged, measured and clipped in a call each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distill.processes import Processes


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
