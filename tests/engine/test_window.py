"""The whole game in a real OpenGL window that no display is needed for."""

from __future__ import annotations

import ctypes
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pygame
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.bindings import KeyBindings
from engine.game import Game
from engine.help_sheet import help_sheet
from engine.latency import STAGES
from engine.prompting import without
from engine.replay import compare, read_recording, replay
from engine.saves import StateFormat, read_save
from engine.scene import Scene
from engine.settings import PlayConfig, WindowSettings
from worldmodel import saves
from worldmodel.motion import Viewpoint

from .fakes import FakeWorld
from .test_input import sdl_library

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs SDL's offscreen driver")
SIZE = (640, 360)


class Session:
    """A running game, its fake world and the picture last flipped to the screen."""

    def __init__(self, folder: Path) -> None:
        self.screenshots = folder
        self.world = FakeWorld(
            frames_per_second=60.0, vocabulary=("snowfield", "golden hour", "night")
        )
        scenes = [Scene("first", 5), Scene("second", 5, np.zeros((50, 90, 3), np.uint8))]
        window = WindowSettings(width_px=SIZE[0], height_px=SIZE[1], hud=False)
        self.saves = folder.parent / "saves"
        self.recordings = folder.parent / "recordings"
        config = replace(
            PlayConfig(window=window),
            screenshots=str(folder),
            saves=str(self.saves),
            recordings=str(self.recordings),
        )
        states = StateFormat(saves.write_state, saves.read_state)
        model = Path("fake")
        self.game = Game(lambda: self.world, scenes[0], scenes, model, config, states)
        self.picture: NDArray[np.uint8] = np.zeros((*SIZE[::-1], 3), np.uint8)
        self._flip = self.game.window.flip
        self.game.window.flip = self._look_and_flip  # type: ignore[method-assign]
        self.game.loop.start()
        self.until(lambda: self.game.loop.newest() is not None)

    def close(self) -> None:
        self.game.close()

    def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            self.game.tick()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.game.tick()

    def press(self, *keys: int) -> None:
        for key in keys:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))

    def tap(self, *keys: int) -> None:
        for key in keys:
            self.press(key)
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))

    def steps(self) -> int:
        return len(self.world.cameras) - 1

    def pose(self) -> NDArray[np.float64]:
        return np.linalg.inv(self.world.cameras[-1].camera_from_world).astype(np.float64)

    def _look_and_flip(self) -> None:
        pixels = self.game.window.context.screen.read(viewport=(0, 0, *SIZE), components=4)
        self.picture = np.frombuffer(pixels, np.uint8).reshape(*SIZE[::-1], 4)[::-1, :, :3]
        self._flip()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDL_VIDEODRIVER", "offscreen")
        patch.setenv("SDL_AUDIODRIVER", "dummy")
        # The off-screen surface keeps its first size for good, so one window serves all tests.
        session = Session(tmp_path_factory.mktemp("screenshots"))
        yield session
        session.close()


@pytest.fixture
def session(opened: Session) -> Iterator[Session]:
    game, worlds = opened.game, len(opened.world.starts)
    opened.tap(pygame.K_1)  # the first world, without a prompt
    opened.until(lambda: len(opened.world.starts) > worlds and opened.steps() > 1)
    opened.world.prompts.clear()
    yield opened
    pygame.event.clear()
    game.input.release_all()
    game.help = game.leaving = False
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(0, 0)))
    opened.run(0.05)


def test_the_frame_is_shown_upright_and_not_mirrored(session: Session) -> None:
    session.run(0.1)
    assert np.allclose(session.picture[60, 60], (220, 0, 0), atol=2)
    assert np.allclose(session.picture[60, 580], (0, 220, 0), atol=2)


def test_w_walks_ahead_while_it_is_held(session: Session) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.2)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_w))
    session.run(0.1)
    before = session.pose()[2, 3]
    session.run(0.1)
    assert session.pose()[2, 3] == before


def test_the_mouse_looks_from_the_first_frame_on(session: Session) -> None:
    event = pygame.event.Event(pygame.MOUSEMOTION, rel=(40, 0), pos=(0, 0), buttons=(0, 0, 0))
    pygame.event.post(event)
    expected = np.linalg.inv(Viewpoint(yaw_rad=0.1).camera_from_world())
    session.until(lambda: bool(np.allclose(session.pose(), expected)))


def test_pause_stops_the_world_and_p_goes_on(session: Session) -> None:
    session.tap(pygame.K_p)
    session.until(lambda: session.game.paused)
    session.run(0.05)
    steps = session.steps()
    session.run(0.15)
    assert session.steps() == steps
    session.tap(pygame.K_p)
    session.until(lambda: session.steps() > steps + 3)


def mouse(dx: int, dy: int = 0) -> None:
    event = pygame.event.Event(pygame.MOUSEMOTION, rel=(dx, dy), pos=(0, 0), buttons=(0, 0, 0))
    pygame.event.post(event)


def rim_of_red(picture: NDArray[np.uint8]) -> int:
    """The column where red turns to green: the middle, unless the view has turned."""
    return int(np.flatnonzero(picture[90, :, 0] > picture[90, :, 1])[-1])


def test_while_the_world_stands_still_the_mouse_looks_around_in_the_picture(
    session: Session,
) -> None:
    session.tap(pygame.K_p)
    session.until(lambda: session.game.paused)
    session.run(0.1)
    steps, middle = session.steps(), rim_of_red(session.picture)
    assert abs(middle - SIZE[0] // 2) < 6
    mouse(40)  # 0.1 rad to the right: the world moves left
    moved_px = 0.5 * math.tan(0.1) * SIZE[0]
    session.until(lambda: abs(rim_of_red(session.picture) - (middle - moved_px)) < 5)
    assert session.steps() == steps
    session.tap(pygame.K_F3)  # timewarp off
    session.until(lambda: abs(rim_of_red(session.picture) - middle) < 3)
    session.tap(pygame.K_F3)
    session.tap(pygame.K_p)
    session.until(lambda: session.steps() > steps + 1)
    assert session.pose()[0, 2] == pytest.approx(math.sin(0.1))  # the look was not lost


def test_a_held_look_key_turns_the_picture_between_two_frames(session: Session) -> None:
    session.tap(pygame.K_p)
    session.until(lambda: session.game.paused)
    drawn: set[int] = set()
    session.press(pygame.K_RIGHT)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        session.game.tick()
        drawn.add(rim_of_red(session.picture))
    assert len(drawn) > 5
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_RIGHT))


def test_latencies_are_measured_while_one_plays(session: Session, tmp_path: Path) -> None:
    measured = session.game.screen.latency.percentiles().get("step")
    before = 0 if measured is None else measured.count
    session.press(pygame.K_w)
    for _ in range(20):
        mouse(3)
        session.run(0.03)
    session.game.write_report(tmp_path / "latency.json")
    report = json.loads((tmp_path / "latency.json").read_text())
    assert set(report["stages"]) == set(STAGES)
    assert report["stages"]["step"]["count"] > before
    assert report["stages"]["look"]["p50_ms"] < report["stages"]["move"]["p95_ms"] < 1000
    assert report["frames"] > 0 and report["opengl"]


def test_reset_keeps_the_seed_n_changes_it_and_digits_change_the_start(session: Session) -> None:
    starts = session.world.starts
    count = len(starts)
    for key in (pygame.K_r, pygame.K_n, pygame.K_2):
        session.tap(key)
        count += 1
        session.until(lambda expected=count: len(starts) == expected)  # type: ignore[misc]
    reset, new, second = starts[-3:]
    assert reset.seed == starts[-4].seed
    assert new.seed != reset.seed
    assert second.seed == new.seed
    assert second.image is not None and second.image.shape == (32, 56, 3)
    session.tap(pygame.K_9, pygame.K_1)  # there is no ninth start
    session.until(lambda: len(starts) == count + 1)


def test_help_covers_the_world_until_it_is_closed(session: Session) -> None:
    session.run(0.1)
    bare = session.picture.copy()
    session.tap(pygame.K_F1)
    session.until(lambda: bool(session.picture[60, 20].max() < bare[60, 20].max()))  # dimmed
    assert session.picture[90:270, 150:500].max() > 200  # with light text in the middle
    session.tap(pygame.K_ESCAPE)
    session.until(lambda: bool(np.allclose(session.picture[60, 20], bare[60, 20], atol=2)))
    assert not session.game.paused and not session.game.help


def test_a_screenshot_is_the_picture_without_its_bars(session: Session) -> None:
    session.tap(pygame.K_F12)
    session.until(lambda: any(session.screenshots.iterdir()))
    (file,) = session.screenshots.iterdir()
    image = np.asarray(Image.open(file))
    assert image.shape == (360, 630, 3)
    assert np.array_equal(image[60, 60], (220, 0, 0))


def test_escape_frees_the_mouse_and_pauses_then_leaves(session: Session) -> None:
    session.tap(pygame.K_ESCAPE)
    session.run(0.05)
    assert session.game.paused and not session.game.window.mouse_captured
    assert not session.game.leaving
    session.tap(pygame.K_ESCAPE)
    session.run(0.05)
    assert session.game.leaving


def test_a_paused_game_waits_instead_of_spinning(session: Session) -> None:
    session.tap(pygame.K_p)
    session.run(0.3)
    ticks, end = 0, time.monotonic() + 0.6
    while time.monotonic() < end:
        session.game.tick()
        ticks += 1
    assert ticks < 10


def test_nothing_is_drawn_while_nothing_changes(session: Session) -> None:
    session.tap(pygame.K_p)
    session.run(0.6)
    before = session.picture
    session.run(0.4)
    assert session.picture is before


def test_backspace_runs_time_backwards_under_a_timeline_and_its_release_goes_on(
    session: Session,
) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 1.0)
    session.press(pygame.K_BACKSPACE)
    session.until(lambda: (session.game.loop.timeline().at or 99) < 5)
    session.run(0.1)
    assert session.picture[230:285, 170:470].max() > 200  # the bar and its words
    steps = session.steps()
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_BACKSPACE))
    session.until(lambda: session.game.loop.timeline().at is None)
    session.until(lambda: session.pose()[2, 3] > 0.3)  # W is still held
    assert session.steps() < steps


def test_a_save_is_gone_back_to_and_a_damaged_one_does_no_harm(session: Session) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.5)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_w))
    session.run(0.1)
    saved = session.pose()[2, 3]
    session.tap(pygame.K_F5)
    session.until(lambda: session.saves.exists() and any(session.saves.glob("fake*")))
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > saved + 0.5)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_w))
    session.tap(pygame.K_F9)

    def there() -> bool:
        newest = session.game.loop.newest()
        assert newest is not None
        camera = np.linalg.inv(newest.cameras[-1].camera_from_world)
        return bool(camera[2, 3] == saved)

    session.until(there)
    (slot,) = session.saves.iterdir()
    (slot / "state.safetensors").write_bytes(b"oops")
    session.tap(pygame.K_F9)
    session.run(0.1)
    steps = session.steps()
    session.run(0.1)
    assert session.steps() > steps and "damaged" in session.game._toast


def test_page_up_pauses_and_steps_back(session: Session) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.5)
    session.tap(pygame.K_PAGEUP)
    session.until(lambda: session.game.paused and session.game.loop.timeline().at is not None)
    at = session.game.loop.timeline().at
    session.tap(pygame.K_PAGEUP)
    session.until(lambda: session.game.loop.timeline().at == (at or 0) - 1)
    assert session.game.photo


def test_f8_records_until_it_is_pressed_again_and_what_it_wrote_replays(session: Session) -> None:
    session.press(pygame.K_w)
    session.tap(pygame.K_F8)
    session.until(lambda: session.game.keepsakes.recorder is not None)
    session.run(0.5)
    session.tap(pygame.K_F8)
    session.until(lambda: session.game.keepsakes.recorder is None)
    (folder,) = session.recordings.iterdir()
    recording = read_recording(folder)
    assert recording.complete and recording.steps > 5
    assert json.loads((folder / "latency.json").read_text())["stages"]["step"]["count"] > 5
    assert compare(replay(recording, FakeWorld(), session.game.keepsakes.states)).first is None
    assert str(folder) in session.game._toast


def test_tab_offers_all_worlds_and_enter_begins_the_chosen_one(session: Session) -> None:
    count = len(session.world.starts)
    session.tap(pygame.K_TAB)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    steps = session.steps()
    assert session.game.paused
    session.tap(pygame.K_RIGHT, pygame.K_RETURN)
    session.until(lambda: len(session.world.starts) == count + 1)
    assert session.game.title is None and not session.game.paused
    chosen = session.world.starts[-1].image
    assert chosen is not None and chosen.max() == 0  # the black picture of the second world
    session.until(lambda: session.steps() > 2)
    assert steps >= 0 and session.game.scene.name == "second"


def test_a_recording_asked_for_on_the_command_line_begins_with_the_chosen_world(
    session: Session, tmp_path: Path
) -> None:
    session.game._record_into = tmp_path / "rec"  # as `--record` leaves it for the title screen
    session.tap(pygame.K_TAB)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    session.tap(pygame.K_RETURN)
    session.until(lambda: session.game.keepsakes.recorder is not None)
    session.until(lambda: session.game.screen.shown is not None and session.steps() > 3)
    session.tap(pygame.K_F8)
    session.until(lambda: session.game.keepsakes.recorder is None)
    begun = read_recording(tmp_path / "rec").events[0]
    assert begun["event"] == "begin" and begun["state"] is None
    assert begun["scene"]["name"] == "first"


def test_a_picture_dropped_on_the_window_becomes_a_world(session: Session, tmp_path: Path) -> None:
    count = len(session.world.starts)
    Image.new("RGB", (80, 60), (10, 200, 30)).save(tmp_path / "garden.png")
    (tmp_path / "letter.txt").write_text("no picture")
    pygame.event.post(pygame.event.Event(pygame.DROPFILE, file=str(tmp_path / "letter.txt")))
    session.run(0.1)
    assert "cannot be read" in session.game._toast and len(session.world.starts) == count
    pygame.event.post(pygame.event.Event(pygame.DROPFILE, file=str(tmp_path / "garden.png")))
    session.until(lambda: len(session.world.starts) == count + 1)
    image = session.world.starts[-1].image
    assert image is not None and np.array_equal(image[16, 28], (10, 200, 30))
    assert session.game.scene.name == "garden"
    session.tap(pygame.K_1)
    session.until(lambda: len(session.world.starts) == count + 2)


def test_escape_on_the_title_screen_goes_back_to_the_walk(session: Session) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.3)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_w))
    session.run(0.1)
    here, worlds = session.pose()[2, 3], len(session.world.starts)
    session.tap(pygame.K_TAB)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    session.tap(pygame.K_ESCAPE)
    session.until(lambda: session.game.title is None and not session.game.paused)
    session.run(0.1)
    assert session.pose()[2, 3] == here and len(session.world.starts) == worlds


def test_a_click_on_a_saved_game_goes_on_from_it(session: Session) -> None:
    for folder in session.saves.glob("fake*"):
        shutil.rmtree(folder)
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.5)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_w))
    session.run(0.1)
    saved = session.pose()[2, 3]
    session.tap(pygame.K_F5)
    session.until(lambda: session.saves.exists() and any(session.saves.glob("fake*")))
    session.tap(pygame.K_r, pygame.K_TAB)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    title = session.game.title
    assert title is not None and len(title.cards) == 3
    place = title._layout.cards[2]
    at = (place.left + 9, place.top + 9)
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=at))

    def there() -> bool:
        newest = session.game.loop.newest()
        assert newest is not None
        return bool(np.linalg.inv(newest.cameras[-1].camera_from_world)[2, 3] == saved)

    session.until(there)
    assert session.game.title is None


def test_a_resting_view_is_drawn_no_more_though_the_world_ticks_on(session: Session) -> None:
    session.run(0.5)
    before, steps = session.picture, session.steps()
    session.run(0.3)
    assert session.steps() > steps + 5
    assert session.picture is before


def type_text(*texts: str) -> None:
    for text in texts:
        pygame.event.post(pygame.event.Event(pygame.TEXTINPUT, text=text))


def test_a_prompt_is_typed_while_the_world_goes_on(session: Session) -> None:
    session.tap(pygame.K_t)
    type_text("t")  # the letter of the key itself
    session.until(lambda: session.game.prompting.entry is not None)
    type_text("l", "a", "v", "a")
    session.tap(pygame.K_RETURN)
    session.run(0.1)
    entry = session.game.prompting.entry
    assert entry is not None and entry.unknown == ("lava",)  # stays open, and says so
    session.tap(*[pygame.K_BACKSPACE] * 4)
    type_text("g", "o")
    session.tap(pygame.K_TAB)
    session.run(0.1)
    steps = session.steps()
    session.tap(pygame.K_RETURN)
    session.until(lambda: session.world.prompts[-1:] == ["golden hour"])
    session.until(lambda: session.steps() > steps)
    assert session.game.prompting.entry is None and session.game.scene.prompt == "golden hour"
    session.press(pygame.K_w)  # keys walk again
    session.until(lambda: session.pose()[2, 3] > 0.1)


def test_a_key_changes_the_hour_while_the_walk_goes_on_and_a_replay_has_it(
    session: Session, tmp_path: Path
) -> None:
    session.game.keepsakes.record(tmp_path / "rec")
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.2)
    worlds = len(session.world.starts)
    for word in ("golden hour", "night", "golden hour"):
        session.tap(pygame.K_g)
        session.until(lambda word=word: session.world.prompts[-1:] == [word])  # type: ignore[misc]
        assert session.game._toast == f"prompt: {word}"
    session.until(lambda: session.pose()[2, 3] > 0.6)
    assert len(session.world.prompts) == 3 and len(session.world.starts) == worlds
    session.game.keepsakes.stop_recording()
    events = read_recording(tmp_path / "rec").events
    said = [event["prompt"] for event in events if event["event"] == "prompt"]
    assert said == ["golden hour", "night", "golden hour"]
    again = FakeWorld()
    assert (
        compare(
            replay(read_recording(tmp_path / "rec"), again, session.game.keepsakes.states)
        ).first
        is None
    )
    assert again.prompts == said


def test_an_hour_left_behind_by_going_back_in_time_is_not_the_one_that_comes_next(
    session: Session,
) -> None:
    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.5)
    session.tap(pygame.K_g)
    session.until(lambda: session.world.prompts[-1:] == ["golden hour"])
    session.tap(pygame.K_PAGEUP)
    session.until(lambda: session.game.paused)
    for _ in range(5):
        session.tap(pygame.K_PAGEUP)
    session.until(lambda: session.game.scene.prompt == "")
    session.tap(pygame.K_g)
    session.until(lambda: session.game.scene.prompt == "golden hour")


def test_a_key_for_which_the_model_has_no_words_says_so_and_is_grey_in_the_help(
    session: Session,
) -> None:
    session.tap(pygame.K_h)
    session.run(0.1)
    assert session.game._toast == "fake knows no words for the weather"
    assert not session.world.prompts
    assert without(session.world.spec.vocabulary) == {"weather"}
    keys = KeyBindings()
    grey, bright = (
        pygame.surfarray.array3d(help_sheet(keys, 1.0, without)).astype(int)
        for without in (frozenset({"weather"}), frozenset[str]())
    )
    assert grey.shape[0] <= 1120 and grey.shape[1] <= 640  # the smallest window at that scale
    assert grey.shape != bright.shape or np.abs(grey - bright).max() > 60


def button(which: int) -> None:
    for kind in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERBUTTONUP):
        pygame.event.post(pygame.event.Event(kind, button=which, instance_id=0))


def stick(axis: int, value: int) -> None:
    pygame.event.post(
        pygame.event.Event(pygame.CONTROLLERAXISMOTION, axis=axis, value=value, instance_id=0)
    )


def test_a_gamepad_opens_the_worlds_chooses_one_and_begins_it(session: Session) -> None:
    count = len(session.world.starts)
    button(pygame.CONTROLLER_BUTTON_DPAD_LEFT)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    title = session.game.title
    assert title is not None
    for value, selected in ((30000, 1), (31000, 1), (0, 1), (-30000, 0), (0, 0)):
        stick(pygame.CONTROLLER_AXIS_LEFTX, value)  # one push is one step
        session.run(0.03)
        assert title.selected == selected
    button(pygame.CONTROLLER_BUTTON_B)
    session.until(lambda: session.game.title is None)
    assert len(session.world.starts) == count and not session.game.paused
    button(pygame.CONTROLLER_BUTTON_DPAD_LEFT)
    session.until(lambda: session.game.title is not None)
    session.run(0.1)
    button(pygame.CONTROLLER_BUTTON_DPAD_RIGHT)
    button(pygame.CONTROLLER_BUTTON_START)
    session.until(lambda: len(session.world.starts) == count + 1)
    assert session.game.scene.name == "second"
    session.until(lambda: session.steps() > 2 and not session.game.paused)


def test_a_gamepad_that_is_plugged_in_leads_through_the_title_screen(session: Session) -> None:
    sdl = sdl_library()
    device = sdl.SDL_JoystickAttachVirtual(1, 6, 15, 1)  # a game controller
    try:
        session.run(0.1)  # the game opens it
        found = sdl.SDL_JoystickFromInstanceID(sdl.SDL_JoystickGetDeviceInstanceID(device))
        pad = ctypes.c_void_p(found)

        def press(which: int) -> None:
            for pressed in (1, 0):
                sdl.SDL_JoystickSetVirtualButton(pad, which, pressed)
                session.run(0.05)

        count = len(session.world.starts)
        press(pygame.CONTROLLER_BUTTON_DPAD_LEFT)
        session.until(lambda: session.game.title is not None)
        session.run(0.1)
        sdl.SDL_JoystickSetVirtualAxis(pad, pygame.CONTROLLER_AXIS_LEFTX, 32767)
        session.until(lambda: session.game.title is not None and session.game.title.selected == 1)
        sdl.SDL_JoystickSetVirtualAxis(pad, pygame.CONTROLLER_AXIS_LEFTX, 0)
        session.run(0.05)
        press(pygame.CONTROLLER_BUTTON_A)
        session.until(lambda: len(session.world.starts) == count + 1)
        assert session.game.scene.name == "second" and session.game.title is None
    finally:
        sdl.SDL_JoystickDetachVirtual(device)
        session.run(0.05)


def test_a_gamepad_puts_a_prompt_together_from_the_words_there_are(session: Session) -> None:
    button(pygame.CONTROLLER_BUTTON_DPAD_DOWN)
    session.until(lambda: session.game.prompting.entry is not None)
    button(pygame.CONTROLLER_BUTTON_A)  # snowfield
    button(pygame.CONTROLLER_BUTTON_DPAD_RIGHT)
    button(pygame.CONTROLLER_BUTTON_A)  # golden hour
    button(pygame.CONTROLLER_BUTTON_DPAD_DOWN)
    button(pygame.CONTROLLER_BUTTON_A)  # night takes its place
    session.run(0.05)
    assert session.game.prompting.entry is not None
    assert session.game.prompting.entry.words == ("snowfield", "night")
    button(pygame.CONTROLLER_BUTTON_START)
    session.until(lambda: session.world.prompts[-1:] == ["snowfield, night"])
    assert session.game.prompting.entry is None and not session.game.paused
    button(pygame.CONTROLLER_BUTTON_DPAD_UP)
    session.until(lambda: session.world.prompts[-1:] == ["snowfield, golden hour"])
    button(pygame.CONTROLLER_BUTTON_DPAD_DOWN)
    session.until(lambda: session.game.prompting.entry is not None)
    button(pygame.CONTROLLER_BUTTON_B)
    session.run(0.05)
    assert session.game.prompting.entry is None


def test_a_full_disk_costs_the_screenshot_and_not_the_walk(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(session.screenshots.iterdir())

    def full(_self: Image.Image, path: Path) -> None:
        path.write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    session.tap(pygame.K_F12)
    session.run(0.1)
    steps = session.steps()
    session.until(lambda: session.steps() > steps)
    assert session.game._toast == "no screenshot: No space left on device"
    assert list(session.screenshots.iterdir()) == before


def test_a_save_on_a_full_disk_says_so_and_leaves_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _state: object) -> None:
        path.write_bytes(b"half a state")
        raise OSError(28, "No space left on device")

    before = list(session.saves.glob("**/*"))
    monkeypatch.setattr(
        session.game.keepsakes, "states", replace(session.game.keepsakes.states, write=full)
    )
    session.tap(pygame.K_F5)
    session.until(lambda: session.game._toast == "not saved: No space left on device")
    assert list(session.saves.glob("**/*")) == before


@pytest.mark.parametrize("lost", ["window", "context"])
def test_a_lost_window_ends_play_with_the_walk_saved(
    session: Session, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def gone() -> None:
        raise pygame.error("the display has gone")

    session.press(pygame.K_w)
    session.until(lambda: session.pose()[2, 3] > 0.5)
    game = session.game
    if lost == "window":
        monkeypatch.setattr(game.window, "flip", gone)
    else:
        real = game.window.context
        broken = SimpleNamespace(error="GL_UNKNOWN_ERROR", screen=real.screen, finish=real.finish)
        monkeypatch.setattr(game.window, "context", broken)
    monkeypatch.setattr(game.loop, "start", lambda: None)  # it runs, and other tests need it
    monkeypatch.setattr(game, "close", lambda: None)
    before = set(session.saves.glob("fake*"))
    with pytest.raises(ValueError, match=r"the window was lost .*play\.py --load fake-.* goes on"):
        game.run()
    (slot,) = set(session.saves.glob("fake*")) - before
    assert read_save(slot, game.keepsakes.states).player.viewpoint.z_m > 0.4
