"""Replay any function of tensors from a captured CUDA graph. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Output = TypeVar("Output")  # a tensor, or any structure of tensors


class CudaGraph(Generic[Output]):
    """Replay `function` from a captured graph.

    The returned tensors are owned by the graph and overwritten by the next call: copy them to keep them.
    State that `function` reads or writes by address (weights, caches) is shared with the outside.
    `function` may draw random numbers from `generators` alone; they may be seeded between replays. The
    warm-up calls it, so its side effects happen `warmup` times before the first replay, and the
    caller restores its state afterwards, or has called it before and needs no warm-up.
    """

    def __init__(
        self,
        function: Callable[..., Output],
        example: Sequence[Tensor],
        *,
        warmup: int = 3,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # other threads (window, video writer) may touch CUDA while this one captures
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Output:
        """Copy `inputs` in, replay, return the graph's own output.

        Raises:
            ValueError: if an input differs from the example in number, shape, dtype or device.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"graph captured with {len(self._inputs)} inputs, got {len(inputs)}")
        for index, (static, new) in enumerate(zip(self._inputs, inputs, strict=True)):
            if _signature(static) != _signature(new):
                raise ValueError(
                    f"graph input {index} was captured as {_signature(static)},"
                    f" got {_signature(new)}"
                )
            static.copy_(new)
        self._graph.replay()
        return self._output

    def close(self) -> None:
        """Free the graph's memory now instead of at garbage collection."""
        self._graph.reset()


def _signature(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype, str]:
    return tuple(tensor.shape), tensor.dtype, tensor.device.type
