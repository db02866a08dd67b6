"""Replay any tensor function from a captured CUDA graph. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes
Output = TypeVar("Output")  # a tensor, or any structure of tensors


class CudaGraph(Generic[Output]):
    """Replay `function` from a captured graph.

    The returned tensors are owned by the graph and overwritten by the next call: copy them to keep them.
    State that `function` reads or writes by address (weights, caches) is shared with the outside.
    Inputs whose example lies on the CPU are handed over there: all of them travel in one copy.
    Graphs that share a `pool` share memory: the output of one is overwritten by the next call of any.
    A graph that is to run beside others has no pool with them, and is captured in its own `stream`:
    libraries keep one working memory for each stream, and kernels keep the stream's priority. All other
    graphs are warmed up and captured in one stream, for the same reason: the graphs of a Wan
    model had a gigabyte of it.
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
        pool: Any = None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        here = [tensor for tensor in example if tensor.device.type == "cpu"]
        with torch.inference_mode(False):  # what is made in that mode cannot be written outside it
            self._staging = _Staging(here) if here else None
            arriving = iter(self._staging.arriving if self._staging else ())
            self._inputs = [
                next(arriving) if tensor.device.type == "cpu" else tensor.clone()
                for tensor in example
            ]
        self._signatures = [_signature(tensor) for tensor in example]
        stream = stream or _capturing(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # other threads (window, video writer) may touch CUDA while this one captures
        with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Output:
        """Copy `inputs` in, replay, return the graph's own output.

        Raises:
            ValueError: if an input differs from the example in number, shape, dtype or device.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"graph captured with {len(self._inputs)} inputs, got {len(inputs)}")
        for index, (signature, new) in enumerate(zip(self._signatures, inputs, strict=True)):
            if signature != _signature(new):
                raise ValueError(
                    f"graph input {index} was captured as {signature}, got {_signature(new)}"
                )
        if self._staging is not None:
            self._staging.send([tensor for tensor in inputs if tensor.device.type == "cpu"])
        for static, new in zip(self._inputs, inputs, strict=True):
            if new.device.type != "cpu" and new is not static:
                static.copy_(new)
        self._graph.replay()
        return self._output

    def close(self) -> None:
        """Free the graph's memory now instead of at garbage collection."""
        self._graph.reset()


@cache
def _capturing(device: int) -> torch.cuda.Stream:
    """Of all graphs that ask for none of their own."""
    return torch.cuda.Stream(device)


class SideStream:
    """Work beside the current stream: it waits for what lies there, and runs with what follows.

    What it reads must stay unchanged, and in memory, until it is done.
    """

    def __init__(self) -> None:
        # goes first where both want the same processor: somebody waits for the frame
        self.stream = torch.cuda.Stream(priority=-1)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield


class _Staging:
    """CPU tensors that travel to the GPU together, through one page-locked buffer."""

    def __init__(self, example: Sequence[Tensor]) -> None:
        size = _offsets(example)[-1]
        self._here = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self._there = torch.empty(size, dtype=torch.uint8, device="cuda")
        self._leaving, self.arriving = views(self._here, example), views(self._there, example)
        self._gone = torch.cuda.Event()
        self.send(example)

    def send(self, tensors: Sequence[Tensor]) -> None:
        self._gone.synchronize()  # the buffer may still be on its way
        for leaving, tensor in zip(self._leaving, tensors, strict=True):
            leaving.copy_(tensor)
        self._there.copy_(self._here, non_blocking=True)
        self._gone.record()


def views(buffer: Tensor, example: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like those of `example` side by side in a buffer of bytes."""
    return [
        buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for start, tensor in zip(_offsets(example)[:-1], example, strict=True)
    ]


def _offsets(example: Sequence[Tensor]) -> list[int]:
    """Where each begins and the last one ends, in bytes, aligned for every type."""
    offsets = [0]
    for tensor in example:
        offsets.append(offsets[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
    return offsets


def _signature(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype, str]:
    return tuple(tensor.shape), tensor.dtype, tensor.device.type
