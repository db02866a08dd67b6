"""Format `game`: any environment in Python that takes a step and shows what its camera sees.

    python -m distill import game mygame.hook:make --out runs/clips

`make()` returns a `Game`. It is played as people play (`distill/scenes/paths.py`), so that the motion
of its clips is motion that a player can command.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill.importers.axes import inverse, to_opencv
from distill.importers.fitting import Fit, fit_intrinsics
from distill.importers.tracks import AXES, Array, Axes, Hints, Item, Track
from distill.scenes.paths import PathMix, draw_commands
from worldmodel.motion import Command
from worldmodel.types import Intrinsics


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the camera of a game sees, and where it is."""

    frame: NDArray[np.uint8]  # (H, W, 3) RGB
    world_from_camera: Array  # (4, 4), in the axes and units of the game
    intrinsics: Intrinsics  # fractions of the frame
    prompt: str = ""


class Game(Protocol):
    """What an environment must offer."""

    axes: Axes  # of its cameras and world: opencv, opengl, unity or unreal
    frames_per_second: float  # of its steps

    def reset(self, seed: int) -> View:
        """Begin an episode; all of it follows from the seed and the commands."""
        ...

    def step(self, command: Command) -> View | None:
        """Take one step of what the player asks for; None when the episode is over."""
        ...


def find(src: str, hints: Hints) -> list[Item]:
    """One item per episode of the game that `src`, MODULE:FUNCTION, makes; other processes can open it.

    Raises:
        ValueError: if there is no such function.
    """
    game = _game(src)
    if game.axes not in AXES:
        raise ValueError(f"game {src!r}: axes {game.axes!r} are none of {', '.join(AXES)}")
    seeds = range(hints.seed, hints.seed + hints.episodes)
    return [
        Item(f"episode {nth}", partial(play_episode, src, seed, hints))
        for nth, seed in enumerate(seeds)
    ]


@cache  # it may take long to start: a process has one
def _game(src: str) -> Game:
    module, colon, name = src.partition(":")
    if not colon or not name:
        raise ValueError(f"game {src!r}: expected MODULE:FUNCTION, such as mygame.hook:make")
    try:
        make = vars(importlib.import_module(module))[name]
    except (ImportError, KeyError) as error:
        raise ValueError(f"game {src!r}: cannot be imported ({error})") from None
    game: Game = make()
    return game


def play_episode(src: str, seed: int, hints: Hints) -> Track:
    """Play one episode, the same in whatever process.

    Its frames go to a file in `hints.spool`, at the size they will have: whole games would not fit
    in memory, and processes hand on a path faster than pictures.
    """
    game = _game(src)
    rng = np.random.default_rng(seed)
    mix = PathMix()
    kinds = [field.name for field in fields(mix)]
    kind = str(rng.choice(kinds, p=[getattr(mix, name) for name in kinds]))
    commands = draw_commands(rng, kind, hints.episode_frames - 1, game.frames_per_second)
    view: View | None = game.reset(seed)
    if view is None:
        raise ValueError("the episode has no first frame")
    fit, prompt = Fit(hints.height_px, hints.width_px), view.prompt
    poses: list[Array] = []
    lenses: list[Array] = []
    hints.spool.mkdir(parents=True, exist_ok=True)
    path = hints.spool / f"{seed}.rgb"
    with path.open("wb") as file:
        for command in [*commands, None]:
            _check(view, len(poses))
            height, width = view.frame.shape[:2]
            lens = view.intrinsics
            box = fit.box(width, height, lens.fx)
            file.write(np.ascontiguousarray(fit.frame(view.frame, box)).data)
            poses.append(np.asarray(view.world_from_camera, np.float64))
            fractions = np.array([lens.fx, lens.fy, lens.cx, lens.cy])
            lenses.append(fit_intrinsics(fractions, width, height, box))
            view = None if command is None else game.step(command)
            if view is None:
                break
    return Track(
        name=f"episode {seed}",
        times_s=np.arange(len(poses)) / game.frames_per_second,
        cameras=inverse(to_opencv(np.stack(poses), game.axes)),
        intrinsics=np.stack(lenses),
        read=partial(_spooled, path, (len(poses), hints.height_px, hints.width_px, 3)),
        prompt=prompt or hints.prompt,
    )


def _spooled(
    path: Path, shape: tuple[int, ...], indices: Sequence[int]
) -> Iterator[NDArray[np.uint8]]:
    frames = np.memmap(path, np.uint8, "r", shape=shape)
    return (frames[index] for index in indices)


def _check(view: View, place: int) -> None:
    frame = view.frame
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(
            f"frame {place} must be uint8 (H, W, 3), got {frame.dtype} {tuple(frame.shape)}"
        )
    if np.shape(view.world_from_camera) != (4, 4):
        raise ValueError(f"pose {place} must be a 4x4 matrix")
