"""Save slots: folders that hold everything needed to go on exactly where one stopped.

game.json            which model and scene, where the player is, the SHA-256 of the state
state.safetensors    the world's memory and the frame on show
picture.png          that frame, to look at
start.png            the picture the world began with, if it had one
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.controls import Player
from engine.history import State
from engine.scene import Scene, read_image
from worldmodel import config
from worldmodel.types import Camera, GeneratorSpec, Intrinsics

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StateFormat:
    """How a world's state becomes a file; whoever knows the world brings it."""

    write: Callable[[Path, State], None]
    read: Callable[[Path], State]  # raises ValueError for a damaged file


@dataclass(frozen=True, slots=True, eq=False)
class SavedGame:
    """A moment that play can go on from."""

    model: str
    weights: str  # `GeneratorSpec.weights`
    scene: Scene
    player: Player
    frames: NDArray[np.uint8]
    cameras: tuple[Camera, ...]
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class _SceneEntry:
    name: str
    seed: int
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _CameraEntry:
    camera_from_world: tuple[tuple[float, ...], ...]
    intrinsics: Intrinsics


@dataclass(frozen=True, slots=True, kw_only=True)
class _GameFile:
    """`game.json`."""

    schema: int
    saved: str
    model: str
    weights: str
    scene: _SceneEntry
    player: Player
    cameras: tuple[_CameraEntry, ...]
    state_sha256: str


def write_save(folder: Path, game: SavedGame, states: StateFormat) -> None:
    """Write a slot, complete under its name or not there at all.

    Raises:
        ValueError: if something lies there already.
        OSError: if the disk is full or not writable.
    """
    if folder.exists():
        raise ValueError(f"save {folder} exists; it is not overwritten")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        state_file = partial / "state.safetensors"
        states.write(state_file, {"frames": game.frames, "world": game.state})
        Image.fromarray(game.frames[-1]).save(partial / "picture.png")
        if game.scene.image is not None:
            Image.fromarray(game.scene.image).save(partial / "start.png")
        text = json.dumps(config.to_plain(_entry(game, _digest(state_file))), indent=1)
        (partial / "game.json").write_text(text + "\n", encoding="utf-8")
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_save(folder: Path, states: StateFormat) -> SavedGame:
    """Raises:
    ValueError: naming the slot, if it is missing, damaged or from another version.
    """
    entry = _read_entry(folder)
    state_file = folder / "state.safetensors"
    if not state_file.is_file() or _digest(state_file) != entry.state_sha256:
        raise ValueError(f"save {folder}: state.safetensors is damaged or missing")
    stored = states.read(state_file)
    start = folder / "start.png"
    scene = Scene(
        entry.scene.name,
        entry.scene.seed,
        read_image(start) if start.exists() else None,
        entry.scene.prompt,
    )
    cameras = tuple(
        Camera(np.array(camera.camera_from_world), camera.intrinsics) for camera in entry.cameras
    )
    return SavedGame(
        entry.model,
        entry.weights,
        scene,
        entry.player,
        np.asarray(stored["frames"]),
        cameras,
        stored["world"],
    )


def check_fits(game: SavedGame, spec: GeneratorSpec) -> None:
    """Raises:
    ValueError: if another model made it.
    """
    if game.weights != spec.weights:
        made_by = f"another version of {spec.name!r}" if game.model == spec.name else game.model
        raise ValueError(f"this save was made by {made_by}; {spec.name!r} cannot go on from it")


def find_saves(folder: Path, model: str = "") -> list[Path]:
    """Slots, the newest first; those of `model` only if one is named. Unreadable ones are left out."""
    found: list[tuple[str, Path]] = []
    for game in folder.glob("*/game.json"):
        if game.parent.name.startswith("."):
            continue
        try:
            entry = _read_entry(game.parent)
        except ValueError:
            continue
        if not model or entry.model == model:
            found.append((entry.saved, game.parent))
    return [path for _, path in sorted(found, reverse=True)]


def find_save(name: str, folder: Path) -> Path:
    """A slot by its name in `folder`, or any folder.

    Raises:
        ValueError: with the names there are.
    """
    for path in (folder / name, Path(name)):
        if name and (path / "game.json").is_file():
            return path
    known = ", ".join(path.name for path in find_saves(folder)) or "none yet"
    raise ValueError(f"unknown save {name!r}; saves in {folder}: {known}")


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot is called by, without opening its state."""

    folder: Path
    scene: str
    saved: datetime


def describe(folder: Path) -> Slot:
    """Raises:
    ValueError: naming the slot, if it cannot be read.
    """
    entry = _read_entry(folder)
    try:
        saved = datetime.fromisoformat(entry.saved)
    except ValueError:
        raise ValueError(f"save {folder}: game.json: saved: no time") from None
    return Slot(folder, entry.scene.name, saved)


def _entry(game: SavedGame, digest: str) -> _GameFile:
    scene = game.scene
    cameras = tuple(
        _CameraEntry(
            camera_from_world=tuple(tuple(row) for row in camera.camera_from_world.tolist()),
            intrinsics=camera.intrinsics,
        )
        for camera in game.cameras
    )
    return _GameFile(
        schema=SCHEMA,
        saved=datetime.now().isoformat(timespec="milliseconds"),
        model=game.model,
        weights=game.weights,
        scene=_SceneEntry(name=scene.name, seed=scene.seed, prompt=scene.prompt),
        player=game.player,
        cameras=cameras,
        state_sha256=digest,
    )


def _read_entry(folder: Path) -> _GameFile:
    try:
        tree: Any = json.loads((folder / "game.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"save {folder}: game.json cannot be read ({error})") from None
    if isinstance(tree, dict) and tree.get("schema") != SCHEMA:
        raise ValueError(f"save {folder}: it is from another version of this program")
    return config.build(tree, _GameFile, where=f"save {folder}: game.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
