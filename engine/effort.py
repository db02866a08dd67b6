"""How many denoising steps a frame gets: fewer where the machine does not hold the world's rate."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortSettings:
    auto: bool = True  # fewer steps where the machine is too slow
    patience_s: float = 3.0  # how long it must have been too slow
    slowest_frames_per_second: float = 8.0  # below it, a world begins with fewer steps instead

    def __post_init__(self) -> None:
        if self.patience_s <= 0.0:
            raise ValueError(f"patience_s must be positive, got {self.patience_s}")


class Effort:
    """Lowers by itself and never rises by itself: a picture that changes back and forth is worse.

    The player can ask for any number of steps (`choose_next`); then nothing is lowered.
    """

    TOO_SLOW = 1.05  # shares of the time there is

    def __init__(self, settings: EffortSettings, steps: int, most: int) -> None:
        """`most`: the steps the model was made for; `steps`: those it has now."""
        self._settings = settings
        self.steps, self.most = steps, most
        self.automatic = settings.auto
        self._busy: deque[tuple[float, float]] = deque()  # when a step ended, share of its time

    def add(self, now_s: float, took_s: float, period_s: float) -> bool:
        """A step ended that took `took_s` of `period_s`; True if there are fewer steps from now on."""
        self._busy.append((now_s, took_s / period_s))
        first_s = self._busy[0][0]
        if now_s - first_s < self._settings.patience_s:
            return False
        mean = sum(share for _, share in self._busy) / len(self._busy)
        while self._busy and self._busy[0][0] <= now_s - self._settings.patience_s:
            self._busy.popleft()
        if not self.automatic or self.steps <= 1 or mean <= self.TOO_SLOW:
            return False
        self.steps = fewer(self.steps)
        self._busy.clear()
        return True

    def pause(self) -> None:
        """What was measured before a rest says nothing about the time after it."""
        self._busy.clear()

    def choose_next(self) -> None:
        """Automatic, then the most steps kept, then fewer and fewer, then automatic again."""
        self._busy.clear()
        if self.automatic:
            self.automatic, self.steps = False, self.most
        elif self.steps > 1:
            self.steps = fewer(self.steps)
        else:
            self.automatic, self.steps = True, self.most

    def describe(self) -> str:
        """For the player."""
        words = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        if self.steps < self.most:
            words += f" of {self.most}"
        return words if self.automatic else f"{words}, kept"


def fewer(steps: int) -> int:
    return max(1, steps // 2)
