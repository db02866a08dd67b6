"""A part of a training step that runs again and again: on a GPU, from a captured graph.

A step of the small models is some thousand kernels of a few microseconds. Launched one by one they keep
a GPU waiting for most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from worldmodel.cuda_graph import CudaGraph

PLAIN_CALLS = (
    3  # before a capture: compilers, tuned kernels and optimizer state want to exist first
)


class Captured:
    """`function` of tensors, which returns named tensors; they are overwritten by the next call."""

    def __init__(
        self, function: Callable[..., dict[str, Tensor]], random: torch.Generator | None = None
    ) -> None:
        """`random`: where `function` draws its random numbers, if it does."""
        self._function = function
        self._generators = () if random is None else (random,)
        self._graph: CudaGraph[dict[str, Tensor]] | None = None
        self._case: Hashable = None
        self._calls = 0

    def __call__(self, case: Hashable, *inputs: Tensor) -> dict[str, Tensor]:
        """`case` names which kernels run: another case is another graph. None cannot be captured."""
        if case is None or inputs[0].device.type != "cuda":
            return self._function(*inputs)
        if case != self._case:
            self._case, self._calls, self._graph = case, 0, None
        self._calls += 1
        if self._calls <= PLAIN_CALLS:
            return self._function(*inputs)
        if self._graph is None:
            torch.cuda.synchronize()
            self._graph = CudaGraph(self._function, inputs, warmup=0, generators=self._generators)
        return self._graph(*inputs)
