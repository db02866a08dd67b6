"""Which worlds a data set draws from. The defaults are those of the first shipped world."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from distill.scenes.biomes import BIOMES, Biome, TimeOfDay
from distill.scenes.landmarks import CHOICES
from distill.scenes.places import ALL_BIOMES, ALL_TIMES, ALL_WEATHER, Weather

T = TypeVar("T", Biome, TimeOfDay, Weather)


@dataclass(frozen=True, slots=True)
class WorldMix:
    """Names and shares; what is drawn later in the list never changes what is drawn earlier."""

    biomes: tuple[str, ...] = tuple(biome.name for biome in BIOMES)
    times: dict[str, float] = field(
        default_factory=lambda: {"day": 0.46, "morning": 0.24, "golden hour": 0.30}
    )
    weather: dict[str, float] = field(default_factory=lambda: {"clear": 1.0})
    landmarks: float = 0.0  # how many a world gets, on average
    moving: bool = False  # mills turn, boats drift, birds fly, fires flicker, rain falls
    changing: float = 0.0  # share of clips in which the hour or the weather changes, and the prompt

    def __post_init__(self) -> None:
        if not self.biomes:
            raise ValueError("biomes: name at least one")
        for name in self.biomes:
            named(ALL_BIOMES, name)
        for shares, choices in ((self.times, ALL_TIMES), (self.weather, ALL_WEATHER)):
            for name in shares:
                named(choices, name)  # type: ignore[type-var]
            if min(shares.values(), default=-1.0) < 0.0 or not math.isclose(
                sum(shares.values()), 1.0, abs_tol=1e-6
            ):
                raise ValueError(f"shares of {', '.join(shares)} must be positive and sum to 1")
        falling = [w.name for w in ALL_WEATHER if w.name in self.weather and w.rain + w.snow > 0.0]
        if falling and not self.moving:
            raise ValueError(f"{' and '.join(falling)} fall: worlds with them need moving: true")
        if not 0.0 <= self.changing <= 1.0:
            raise ValueError(f"changing must be a share from 0 to 1, got {self.changing:g}")
        if self.changing and len(self.times) == len(self.weather) == 1:
            raise ValueError("changing: there is one time and one weather, nothing can change")
        if self.landmarks < 0.0:
            raise ValueError(f"landmarks must not be negative, got {self.landmarks:g}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a prompt of these worlds may hold."""
        weather = tuple(self.weather) if len(self.weather) > 1 else ()
        return (*self.biomes, *self.times, *weather, *(CHOICES if self.landmarks else ()))


def named(choices: Sequence[T], name: str) -> T:
    """Raises ValueError, listing what there is, if there is no choice of that name."""
    for choice in choices:
        if choice.name == name:
            return choice
    raise ValueError(f"unknown attribute {name!r}; known: {', '.join(c.name for c in choices)}")


def shares(choices: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return tuple(choices), tuple(choices.values())
