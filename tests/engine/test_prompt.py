from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.controls import ControlSettings
from engine.events import EVENTS
from engine.history import HistorySettings
from engine.loop import GenerationLoop
from engine.prompt import PromptEntry, check_words
from engine.recording import Recorder
from engine.replay import compare, read_recording, replay
from engine.saves import StateFormat
from engine.scene import Scene
from tests.worldmodel import tiny
from worldmodel import saves
from worldmodel.sampler import Sampler
from worldmodel.session import WorldSession
from worldmodel.turning import PUSHED_FRAMES, TURNING_FRAMES, Turning
from worldmodel.types import Start

from .test_recording import Restless, play_for, until

WORDS = ("snowfield", "snow storm", "golden hour")


def session(static_world: bool = False) -> WorldSession:
    config = replace(tiny.playable(), static_world=static_world)
    cpu, transformer = torch.device("cpu"), tiny.transformer(WORDS)
    return WorldSession(config, tiny.autoencoder(), transformer, cpu, torch.float32)


def test_a_line_is_typed_completed_and_erased() -> None:
    entry = PromptEntry(WORDS).typed("Gol")
    assert entry.completion == "den hour"
    entry = entry.completed().typed(", sn\n")
    assert entry.text == "Golden hour, sn" and entry.completion == "owfield"
    assert entry.words == ("golden hour", "sn") and entry.unknown == ("sn",)
    assert entry.erased().erased().unknown == ()
    assert PromptEntry(WORDS, "snowfield").completion == ""


def test_a_gamepad_marks_words_adds_them_and_takes_them_away() -> None:
    entry = PromptEntry(("day", "night", "snowfield"), "snowfield, day")
    assert entry.toggled() == entry  # nothing is marked
    entry = entry.moved(1).moved(1)
    assert entry.marked == 1
    entry = entry.toggled()
    assert entry.text == "snowfield, night"  # not both at once
    assert entry.toggled().text == "snowfield"
    assert entry.moved(2).marked == 0 and entry.moved(-2).marked == 2
    assert PromptEntry(("day", "night")).moved(-1).marked == 1


def test_unknown_words_are_named() -> None:
    check_words("snowfield, golden hour", WORDS)
    check_words("", WORDS)
    with pytest.raises(ValueError, match="unknown: 'lava', 'tea'"):
        check_words("lava, snowfield, tea", WORDS)
    with pytest.raises(ValueError, match="no prompt"):
        check_words("", ())


def test_other_words_change_the_next_frames_and_not_the_walk() -> None:
    cameras = tiny.walk(8)
    plain, changed = session(), session()
    for world in (plain, changed):
        world.reset(Start(seed=1, prompt="snowfield"), cameras[0])
        for camera in cameras[1:4]:
            world.step([camera])
    state = changed.snapshot()
    changed.set_prompt("golden hour")
    assert not np.array_equal(plain.step([cameras[4]]), changed.step([cameras[4]]))
    changed.restore(state)
    expected = [plain.step([camera]) for camera in cameras[5:]]
    changed.step([cameras[4]])
    assert np.array_equal([changed.step([camera]) for camera in cameras[5:]], expected)
    with pytest.raises(ValueError, match="'lava'"):
        changed.set_prompt("lava")


def test_new_words_are_told_from_the_old_in_as_many_passes_until_the_world_has_turned_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, camera, passes = session(), tiny.walk(1)[0], []
    whole = Sampler.denoise
    monkeypatch.setattr(
        Sampler, "denoise", lambda self, *given: passes.append(given[3]) or whole(self, *given)
    )
    world.reset(Start(seed=1, prompt="snowfield"), camera)
    old = passes[-1]
    world.set_prompt("golden hour")
    for pushed in [True] * PUSHED_FRAMES + [False] * 3:
        passes.clear()
        world.step([camera])
        assert [torch.equal(words, old) for words in passes] == [pushed, False]


def test_the_more_new_words_count_the_further_a_frame_is_from_the_one_with_the_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera, latents = tiny.walk(1)[0], []
    for push in (0.0, 1.0, 2.0):
        world = session()
        world.reset(Start(seed=1, prompt="snowfield"), camera)
        world.set_prompt("golden hour")
        with monkeypatch.context() as patched:
            patched.setattr(Turning, "push", lambda _turning, push=push: push)
            places = world._places([camera])
            world.settle()
            latents.append(world._sample(places, 1))
    old, new, further = latents
    assert not torch.equal(old, new)
    assert torch.allclose(further, new + (new - old), atol=1e-4)


def test_a_resting_camera_sees_the_world_turn_to_new_words_and_come_to_rest_again(
    tmp_path: Path,
) -> None:
    world = session(static_world=True)
    camera = tiny.walk(1)[0]
    world.reset(Start(seed=1), camera)
    before = world.step([camera])
    world.set_prompt("golden hour")
    turning = [world.step([camera]) for _ in range(10)]
    saves.write_state(tmp_path / "half", world.snapshot())
    half = saves.read_state(tmp_path / "half")
    turning += [world.step([camera]) for _ in range(TURNING_FRAMES - 10)]
    pairs = zip([before, *turning], turning, strict=False)
    assert all(not np.array_equal(one, next_one) for one, next_one in pairs)
    assert np.array_equal(world.step([camera]), turning[-1])
    world.restore(half)
    again = [world.step([camera]) for _ in range(TURNING_FRAMES)]
    assert np.array_equal(again[: TURNING_FRAMES - 10], turning[10:])
    assert np.array_equal(again[-1], turning[-1])


def test_a_prompt_typed_in_the_middle_is_rewound_and_replayed_exactly(tmp_path: Path) -> None:
    world = session()
    world.set_rate(200.0)
    loop = GenerationLoop(
        lambda: world,
        Scene("a", 3),
        Restless().take,
        ControlSettings(),
        history=HistorySettings(snapshot_every=4),
    )
    recorder = Recorder(tmp_path / "rec", StateFormat(saves.write_state, saves.read_state))
    loop.record(recorder)
    loop.start()
    play_for(loop, 6)
    loop.set_prompt("golden hour")
    play_for(loop, 6)
    loop.set_rewinding(True)
    until(lambda: (loop.timeline().at or 99) < 9)
    loop.set_rewinding(False)
    play_for(loop, 6)
    loop.stop()
    recorder.close()
    recording = read_recording(tmp_path / "rec")
    assert "golden hour" in (tmp_path / "rec" / EVENTS).read_text()
    assert compare(replay(recording, session(), recorder._states)).first is None
