"""What one can go back to: the newest moments of a walk, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engine.controls import Player
from engine.scene import Scene
from worldmodel.types import Camera, WorldGenerator

State = dict[str, Any]  # a `WorldGenerator.snapshot`


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """How far back one can go."""

    memory_mb: float = 940.0
    snapshot_every: int = 3  # steps; those between are made again from the snapshot before them

    def __post_init__(self) -> None:
        if not self.memory_mb >= 0.0:
            raise ValueError(f"memory_mb must not be negative, got {self.memory_mb}")
        if self.snapshot_every < 1:
            raise ValueError(f"snapshot_every must be at least 1, got {self.snapshot_every}")


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """One step as it was."""

    number: int  # of the step, as in `Generated`
    frames: NDArray[np.uint8]
    cameras: tuple[Camera, ...]
    player: Player
    scene: Scene


@runtime_checkable
class SizedArray(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(slots=True)
class _Entry:
    moment: Moment
    state: State | None  # None: made again from the entry before
    size: int


@dataclass(slots=True)
class History:
    """The first entry always has a state, so every moment in here can be returned to exactly."""

    settings: HistorySettings
    _entries: list[_Entry] = field(default_factory=list)
    _size: int = 0
    _too_large: bool = False  # one state of this world is more than may be remembered at all

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Moment:
        return self._entries[index].moment

    def add(self, moment: Moment, snapshot: Callable[[], State], *, jump: bool = False) -> None:
        """Remember; `snapshot` is called where one is due. The oldest moments make room.

        `jump`: it does not follow from the moment before, as the first of a world does not. A world of
        which not one state fits is asked for it once: copying gigabytes at every step would stop play.
        """
        if self._too_large:
            return
        since = 1
        for entry in reversed(self._entries):
            if entry.state is not None:
                break
            since += 1
        due = jump or not self._entries or since >= self.settings.snapshot_every
        state = snapshot() if due else None
        size = moment.frames.nbytes + size_of(state)
        self._entries.append(_Entry(moment, state, size))
        self._size += size
        most = self.settings.memory_mb * 2**20
        self._too_large = size > most
        while self._size > most and self._entries:
            self._drop_oldest()

    def cut(self, index: int) -> None:
        """Forget everything after `index`: another future begins there."""
        self._size -= sum(entry.size for entry in self._entries[index + 1 :])
        del self._entries[index + 1 :]

    def bring_back(self, world: WorldGenerator, index: int) -> None:
        """Put `world` into the state it had after that moment, bit for bit."""
        known = index
        while (state := self._entries[known].state) is None:
            known -= 1
        world.restore(state)
        for entry in self._entries[known + 1 : index + 1]:
            world.step(entry.moment.cameras)

    def _drop_oldest(self) -> None:
        """Up to the next moment with a state."""
        count = 1
        while count < len(self._entries) and self._entries[count].state is None:
            count += 1
        self._size -= sum(entry.size for entry in self._entries[:count])
        del self._entries[:count]


def size_of(state: Any) -> int:
    """Bytes of all arrays in a nested state."""
    if isinstance(state, dict):
        return sum(size_of(value) for value in state.values())
    return state.nbytes if isinstance(state, SizedArray) else 0
