"""Save slots: go on exactly where one stopped, or say clearly why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.controls import Player
from engine.saves import (
    SavedGame,
    StateFormat,
    check_fits,
    find_save,
    find_saves,
    read_save,
    write_save,
)
from engine.scene import Scene
from tests.worldmodel import tiny
from worldmodel import saves
from worldmodel.motion import Viewpoint
from worldmodel.types import Start

STATES = StateFormat(saves.write_state, saves.read_state)


def played(frames: int = 6) -> tuple[SavedGame, list[Any]]:
    """A game of the tiny model after some frames, and the frames that follow."""
    session, cameras = tiny.session(), tiny.walk(frames + 5)
    session.reset(Start(seed=9), cameras[0])
    for camera in cameras[1:frames]:
        made = session.step([camera])
    picture = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    game = SavedGame(
        model="tiny",
        weights="abc",
        scene=Scene("mine", 9, picture, "golden hour"),
        player=Player(Viewpoint(0.1, -0.2, 1 / 3, 0.7, -0.1), 0.25, -0.5),
        frames=made,
        cameras=(cameras[frames - 1],),
        state=session.snapshot(),
    )
    return game, [session.step([camera]) for camera in cameras[frames:]]


def test_a_save_goes_on_bit_for_bit_in_another_session(tmp_path: Path) -> None:
    game, expected = played()
    write_save(tmp_path / "slot", game, STATES)
    loaded = read_save(tmp_path / "slot", STATES)
    assert np.array_equal(loaded.frames, game.frames)
    assert np.array_equal(loaded.cameras[0].camera_from_world, game.cameras[0].camera_from_world)
    assert loaded.player == game.player
    assert (loaded.scene.name, loaded.scene.seed, loaded.scene.prompt) == ("mine", 9, "golden hour")
    assert loaded.scene.image is not None and game.scene.image is not None
    assert np.array_equal(loaded.scene.image, game.scene.image)
    session = tiny.session()
    session.restore(loaded.state)
    cameras = tiny.walk(11)[6:]
    assert np.array_equal([session.step([camera]) for camera in cameras], expected)


def test_a_state_keeps_every_type_and_every_bit(tmp_path: Path) -> None:
    state = {
        "bits": torch.randn(5).to(torch.bfloat16),
        "nested": {"array": np.array([1 / 3, -0.0]), "numbers": (0.1, 7, True, None), "name": "x"},
    }
    saves.write_state(tmp_path / "state.safetensors", state)
    again = saves.read_state(tmp_path / "state.safetensors")
    assert torch.equal(again["bits"], state["bits"])  # type: ignore[arg-type]
    assert again["bits"].dtype == torch.bfloat16
    assert again["nested"]["array"].tobytes() == np.array([1 / 3, -0.0]).tobytes()
    assert again["nested"]["numbers"] == [0.1, 7, True, None]
    assert again["nested"]["name"] == "x"
    with pytest.raises(TypeError, match="set"):
        saves.write_state(tmp_path / "other", {"a": {1, 2}})


def test_slots_are_found_newest_first_and_by_model(tmp_path: Path) -> None:
    game, _ = played()
    for name, model in [("one", "tiny"), ("two", "other"), ("three", "tiny")]:
        write_save(tmp_path / name, replace(game, model=model), STATES)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "game.json").write_text("{")
    assert [path.name for path in find_saves(tmp_path)] == ["three", "two", "one"]
    assert [path.name for path in find_saves(tmp_path, "tiny")] == ["three", "one"]
    assert find_save("two", tmp_path) == tmp_path / "two"
    with pytest.raises(ValueError, match=r"unknown save 'four'.*three, two, one"):
        find_save("four", tmp_path)


def test_a_slot_is_never_overwritten_and_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    game, _ = played()
    write_save(tmp_path / "slot", game, STATES)
    with pytest.raises(ValueError, match="not overwritten"):
        write_save(tmp_path / "slot", game, STATES)

    def full(path: Path, state: dict[str, Any]) -> None:
        path.write_bytes(b"x" * len(state))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_save(tmp_path / "other", game, replace(STATES, write=full))
    assert [path.name for path in tmp_path.iterdir()] == ["slot"]


def truncate(folder: Path) -> None:
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def flip_a_bit(folder: Path) -> None:
    file = folder / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(bytes(data))


def lose_the_state(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


def spoil(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        tree = json.loads((folder / "game.json").read_text())
        (folder / "game.json").write_text(json.dumps(tree | changes))

    return edit


def cut_the_text(folder: Path) -> None:
    (folder / "game.json").write_text('{"schema": 1,')


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate, "state.safetensors is damaged"),
        (flip_a_bit, "state.safetensors is damaged"),
        (lose_the_state, "state.safetensors is damaged or missing"),
        (cut_the_text, "game.json cannot be read"),
        (spoil(schema=99), "another version of this program"),
        (spoil(player=3), "player"),
        (spoil(surprise=1), "unknown key"),
    ],
)
def test_a_damaged_slot_is_refused_by_name(damage: Any, complaint: str, tmp_path: Path) -> None:
    write_save(tmp_path / "slot", played()[0], STATES)
    damage(tmp_path / "slot")
    with pytest.raises(ValueError, match="slot") as refusal:
        read_save(tmp_path / "slot", STATES)
    assert complaint in str(refusal.value)


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="damaged, or not a saved state"):
        saves.read_state(tmp_path / "a")
    with pytest.raises(ValueError, match="does not exist"):
        saves.read_state(tmp_path / "b")


def test_a_save_of_another_model_is_refused() -> None:
    game, _ = played()
    spec = tiny.session().spec
    check_fits(game, replace(spec, weights="abc"))
    with pytest.raises(ValueError, match="another version of 'tiny'"):
        check_fits(game, replace(spec, weights="def"))
    with pytest.raises(ValueError, match="made by pocket"):
        check_fits(replace(game, model="pocket"), replace(spec, weights="def"))
