"""The noise that frames are made of, drawn on the CPU: the same numbers on every device."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Noise:
    """Tensors of one shape from one seed, one after the other.

    They can be drawn before they are asked for, while a GPU is busy with something else. Nobody sees a
    difference: `state` is that of a generator which has given what was taken, and no more.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._generator = torch.Generator()
        self._ready: deque[tuple[Tensor, Tensor]] = deque()  # the state before, and what it gave

    def seed(self, seed: int) -> None:
        self._ready.clear()
        self._generator.manual_seed(seed)

    def take(self) -> Tensor:
        """The next one, on the device."""
        self.prepare(1)
        _, noise = self._ready.popleft()
        return noise

    def prepare(self, count: int) -> None:
        """Draw, and send on their way, what the next `count` calls of `take` will return.

        From page-locked memory, so that nothing waits for the device; it is not used again before the
        copy is done (PyTorch's allocator for such memory sees to that).
        """
        gpu = self._device.type == "cuda"
        while len(self._ready) < count:
            state = self._generator.get_state()
            noise = torch.randn(self._shape, generator=self._generator, pin_memory=gpu)
            self._ready.append((state, noise.to(self._device, non_blocking=True)))

    def state(self) -> Tensor:
        """To go on from here later; see `set_state`."""
        return self._ready[0][0].clone() if self._ready else self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        self._ready.clear()
        self._generator.set_state(state)
