"""How long the parts of a step take, on a device that works behind the program's back."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Marks between pieces of work. On CUDA the marks are events in the stream: no waiting."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[float | torch.cuda.Event] = []

    def start(self) -> None:
        self._marks.clear()
        self.mark()

    def mark(self) -> None:
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def laps_s(self) -> list[float]:
        """Seconds between neighbouring marks; on CUDA, waits for the last of them."""
        return [
            _seconds(first, second)
            for first, second in zip(self._marks[:-1], self._marks[1:], strict=True)
        ]


def _seconds(first: float | torch.cuda.Event, second: float | torch.cuda.Event) -> float:
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000.0
    assert isinstance(first, float) and isinstance(second, float), "one kind of mark"
    return second - first
