"""Where in its past a world stands: going back and forth, and on from there into another future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.history import History, HistorySettings, Moment, State
from worldmodel.types import WorldGenerator


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where in the remembered past the world stands."""

    moments: int
    at: int | None  # None: at its end, where new moments are made
    seconds_per_moment: float


class TimeTravel:
    """The remembered moments and which of them is on show; the world itself waits meanwhile."""

    def __init__(self, settings: HistorySettings) -> None:
        self._history = History(settings)
        self._at: int | None = None

    @property
    def in_the_past(self) -> bool:
        return self._at is not None

    def timeline(self, seconds_per_moment: float) -> Timeline:
        return Timeline(len(self._history), self._at, seconds_per_moment)

    def remember(self, moment: Moment, snapshot: Callable[[], State], *, jump: bool) -> None:
        """A new moment at the end; `jump`: it does not follow from the one before."""
        self._at = None
        self._history.add(moment, snapshot, jump=jump)

    def leads(self, moments: int) -> bool:
        """Is there a past to go to, that many moments back (< 0) or forward?"""
        forward = self._at is not None and self._at + 1 < len(self._history)
        return moments < 0 or (moments > 0 and forward)

    def go(self, moments: int) -> Moment | None:
        """The moment that far from the one on show, or the last one there is; None: none is known."""
        last = len(self._history) - 1
        if last < 0:
            return None
        here = last if self._at is None else self._at
        self._at = min(max(here + moments, 0), last)
        return self._history[self._at]

    def bring_back(self, world: WorldGenerator) -> None:
        """Put `world` into the state it had after the moment on show, bit for bit."""
        if self._at is not None:
            self._history.bring_back(world, self._at)

    def branch(self, world: WorldGenerator) -> int:
        """Go on from the moment on show: what came after it is forgotten. Returns its step's number."""
        assert self._at is not None, "a branch begins in the past"
        self.bring_back(world)
        number = self._history[self._at].number
        self._history.cut(self._at)
        self._at = None
        return number
