from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pygame
import pytest
from pygame.event import Event

from engine.bindings import KeyBindings
from engine.controls import ControlSettings
from engine.input import PlayerInput
from worldmodel.motion import KEY_LOOK_RAD_PER_S


class Clock:
    """Stands still until a test moves it."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


SETTINGS = ControlSettings()
CLOCK = Clock()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayerInput]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "offscreen")
    pygame.display.init()
    player_input = PlayerInput(KeyBindings(), SETTINGS, CLOCK)
    yield player_input
    player_input.close()
    pygame.quit()


def down(key: int) -> Event:
    return Event(pygame.KEYDOWN, key=key)


def up(key: int) -> Event:
    return Event(pygame.KEYUP, key=key)


def motion(dx: int, dy: int) -> Event:
    return Event(pygame.MOUSEMOTION, rel=(dx, dy), pos=(0, 0), buttons=(0, 0, 0))


def test_a_key_counts_while_it_is_held(keys: PlayerInput) -> None:
    keys.handle(down(pygame.K_w))
    assert keys.take().held == keys.take().held == {"forward"}
    keys.handle(up(pygame.K_w))
    assert not keys.take().held


def test_a_tap_between_two_samples_is_not_lost(keys: PlayerInput) -> None:
    keys.handle(down(pygame.K_d))
    keys.handle(up(pygame.K_d))
    assert keys.held() == frozenset()
    assert keys.take().held == {"right"}
    assert not keys.take().held


def test_two_keys_of_one_action_are_held_until_both_are_released(keys: PlayerInput) -> None:
    for key in (pygame.K_LSHIFT, pygame.K_RSHIFT):
        keys.handle(down(key))
    keys.handle(up(pygame.K_LSHIFT))
    keys.take()
    assert keys.take().held == {"run"}


def test_all_mouse_motion_adds_up(keys: PlayerInput) -> None:
    keys.mouse_looks = True
    for _ in range(40):
        keys.handle(motion(37, -11))
    sample = keys.take()
    assert sample.look_rad == pytest.approx((1480 * 0.0025, 440 * 0.0025))
    assert keys.take().look_rad == (0.0, 0.0)


def test_a_look_key_turns_in_real_time_however_often_it_is_asked(keys: PlayerInput) -> None:
    turns = []
    keys.handle(down(pygame.K_RIGHT))
    assert keys.looking()
    for _ in range(7):
        CLOCK.now_s += 0.1
        turns.append(keys.take().look_rad[0])
    keys.handle(down(pygame.K_LEFT))  # both: they cancel
    CLOCK.now_s += 0.1
    keys.handle(up(pygame.K_LEFT))
    CLOCK.now_s += 0.05
    keys.handle(up(pygame.K_RIGHT))
    CLOCK.now_s += 1.0
    turns.append(keys.take().look_rad[0])
    assert not keys.looking()
    assert sum(turns) == pytest.approx(0.75 * KEY_LOOK_RAD_PER_S)


def test_peeking_takes_nothing_away(keys: PlayerInput) -> None:
    keys.mouse_looks = True
    keys.handle(motion(10, 0))
    CLOCK.now_s += 0.2
    keys.handle(down(pygame.K_w))
    assert keys.peek() == keys.peek()
    peeked = keys.peek()
    assert peeked == keys.take() != keys.take()


def test_a_sample_says_when_its_oldest_news_arrived(keys: PlayerInput) -> None:
    assert keys.take().oldest_s is None
    began_s = CLOCK.now_s
    keys.handle(down(pygame.K_w))
    CLOCK.now_s += 0.2
    keys.handle(up(pygame.K_w))
    assert keys.take().oldest_s == began_s
    keys.handle(down(pygame.K_p))  # moves nothing
    assert keys.take().oldest_s is None


def test_a_free_mouse_does_not_look(keys: PlayerInput) -> None:
    keys.handle(motion(10, 0))
    assert keys.take().look_rad == (0.0, 0.0)


def test_losing_the_focus_releases_everything(keys: PlayerInput) -> None:
    keys.mouse_looks = True
    keys.handle(down(pygame.K_w))
    keys.handle(motion(5, 5))
    keys.handle(Event(pygame.CONTROLLERAXISMOTION, axis=pygame.CONTROLLER_AXIS_LEFTY, value=-32768))
    keys.handle(Event(pygame.WINDOWFOCUSLOST))
    sample = keys.take()
    assert not sample.held and sample.look_rad == (0, 0) and sample.move_stick == (0, 0)


def test_other_keys_trigger_their_action_once(keys: PlayerInput) -> None:
    assert keys.handle(down(pygame.K_p)) == "pause"
    assert keys.handle(up(pygame.K_p)) is None
    assert keys.handle(down(pygame.K_z)) is None
    assert not keys.take().held


def test_left_stick_walks_right_stick_looks_triggers_lift(keys: PlayerInput) -> None:
    for axis, value in [
        (pygame.CONTROLLER_AXIS_LEFTY, -32768),  # pushed away from the player
        (pygame.CONTROLLER_AXIS_RIGHTX, 16384),
        (pygame.CONTROLLER_AXIS_TRIGGERRIGHT, 32767),
    ]:
        keys.handle(Event(pygame.CONTROLLERAXISMOTION, axis=axis, value=value))
    keys.handle(Event(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_A))
    CLOCK.now_s += 0.5
    sample = keys.take()
    assert sample.move_stick == (0.0, 1.0)
    beyond_the_dead_zone = (0.5 - 0.15) / (1.0 - 0.15)
    assert sample.look_rad == pytest.approx((0.5 * 1.4 * beyond_the_dead_zone, 0.0), rel=1e-3)
    assert sample.lift == 1.0
    assert sample.held == {"run"}
    start = Event(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_START)
    assert keys.handle(start) == "pause"


@pytest.mark.usefixtures("keys")
def test_keys_can_be_bound_anew() -> None:
    dvorak = PlayerInput(KeyBindings(forward=(",",), back=("o",)), SETTINGS)
    dvorak.handle(down(pygame.K_COMMA))
    assert dvorak.take().held == {"forward"}


@pytest.mark.usefixtures("keys")
def test_bad_bindings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown key 'hyper'"):
        PlayerInput(KeyBindings(run=("hyper",)), SETTINGS)
    with pytest.raises(ValueError, match="'w' does both 'forward' and 'run'"):
        KeyBindings(run=("w",))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="stick_dead_zone"):
        ControlSettings(stick_dead_zone=1.0)


def test_a_gamepad_plugged_in_during_play_works(keys: PlayerInput) -> None:
    sdl = sdl_library()
    device = sdl.SDL_JoystickAttachVirtual(1, 6, 15, 1)  # a game controller
    try:
        for event in pygame.event.get():
            keys.handle(event)
        stick = sdl.SDL_JoystickFromInstanceID(sdl.SDL_JoystickGetDeviceInstanceID(device))
        assert stick, "the game did not open the new controller"
        sdl.SDL_JoystickSetVirtualAxis(ctypes.c_void_p(stick), 0, 32767)
        for _ in range(5):
            for event in pygame.event.get():
                keys.handle(event)
        assert keys.take().move_stick == (1.0, 0.0)
    finally:
        sdl.SDL_JoystickDetachVirtual(device)
    for event in pygame.event.get():
        keys.handle(event)
    assert keys.take().move_stick == (0.0, 0.0)


def sdl_library() -> ctypes.CDLL:
    """SDL as the wheel of pygame-ce brings it: only there can a controller be simulated."""
    folder = Path(pygame.__file__).parent.parent / "pygame_ce.libs"
    found = sorted(folder.glob("libSDL2-2-*"))
    if not found:
        pytest.skip("needs the SDL library of pygame-ce's Linux wheel")
    library = ctypes.CDLL(str(found[0]))
    library.SDL_JoystickFromInstanceID.restype = ctypes.c_void_p
    return library
