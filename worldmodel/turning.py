"""How a world turns to new words.

The frames in memory still say the old ones, and so says the next frame, and the next. So new words are
pushed for a while: classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) away from the words
before. It takes a second pass, so it ends. And a camera that rests, which else keeps its frame, gets
new ones while the world turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TURNING_FRAMES = 48  # in which a world turns to new words; by its own drift it would go on for ever
PUSHED_FRAMES = 10  # in the first of which new words count for more
PUSH = 1.5  # how much more in the very first, falling to 1


@dataclass(slots=True)
class Turning:
    """A world that has turned as far as it will, or is still on its way from words before."""

    left: int = 0  # frames until then
    former: Tensor | None = None  # the words before; none where they are not of a vocabulary

    @staticmethod
    def begun(former: Tensor | None) -> Turning:
        return Turning(TURNING_FRAMES, former)

    def go_on(self, frames: int) -> None:
        self.left = max(0, self.left - frames)

    def push(self) -> float:
        """How much of the difference that the new words make is taken: 1 is no push."""
        if self.former is None:
            return 1.0
        pushed = self.left - (TURNING_FRAMES - PUSHED_FRAMES)
        return 1.0 + (PUSH - 1.0) * max(0, pushed) / PUSHED_FRAMES

    def state(self) -> dict[str, Any]:
        former = None if self.former is None else self.former.cpu()
        return {"restless": self.left, "former": former}

    @staticmethod
    def of_state(state: dict[str, Any], device: torch.device) -> Turning:
        """From a snapshot; those of earlier versions know nothing of it."""
        former = state.get("former")
        return Turning(state.get("restless", 0), None if former is None else former.to(device))
