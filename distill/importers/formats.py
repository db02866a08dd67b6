"""The table of formats. `recording` joins it where engine and distillation meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distill.importers import arrays, games, minwm, nerfstudio, realestate, tum
from distill.importers.scale import How
from distill.importers.tracks import Hints, Item


@dataclass(frozen=True, slots=True)
class Format:
    find: Callable[[str, Hints], list[Item]]
    scale: How  # unless the command line says another
    level: bool = True  # is the horizon to be found? Our own recordings are level
    played: bool = False  # items take their time to open, and any process can open them


def _of_folder(find: Callable[[Path, Hints], list[Item]]) -> Callable[[str, Hints], list[Item]]:
    def found(src: str, hints: Hints) -> list[Item]:
        if not Path(src).exists():
            raise ValueError(f"{src}: there is nothing")
        return find(Path(src), hints)

    return found


FORMATS: dict[str, Format] = {
    "poses": Format(_of_folder(arrays.find), "walk"),
    "nerfstudio": Format(_of_folder(nerfstudio.find), "walk"),
    "realestate10k": Format(_of_folder(realestate.find), "walk-each"),
    "tum": Format(_of_folder(tum.find), "walk"),
    "minwm": Format(_of_folder(minwm.find_minwm), "walk"),
    "worldplay": Format(_of_folder(minwm.find_worldplay), "walk"),
    "game": Format(games.find, "walk", played=True),
}
