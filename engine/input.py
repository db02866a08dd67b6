"""pygame events become input samples and triggered actions.

Event-driven only: `pygame.key.get_pressed` and `mouse.get_rel` know nothing of posted events, and
keep only what lies between two looks at them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pygame
from pygame.event import Event

from engine.bindings import KeyBindings
from engine.controls import (
    HELD_ACTIONS,
    REWIND,
    ControlSettings,
    InputSample,
    look_speed,
    mouse_look,
)
from engine.gamepad import Gamepad


class PlayerInput:
    """Fed by the window's thread through `handle`, emptied by the generator's through `take`."""

    def __init__(
        self,
        bindings: KeyBindings,
        settings: ControlSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises:
        ValueError: if pygame knows no key of a bound name.
        """
        self._action_by_code = {
            _key_code(key): action for key, action in bindings.action_by_key().items()
        }
        self._settings = settings
        self._clock = clock
        self._gamepad = Gamepad()
        self._lock = threading.Lock()  # guards everything below
        self._held_codes: set[int] = set()
        self._tapped: set[str] = set()
        self._look_rad = (0.0, 0.0)  # asked for until `_looked_s`
        self._looked_s = clock()
        self._arrived_s = self._looked_s  # of the event in hand
        self._oldest_s: float | None = None
        self.mouse_looks = False  # motion turns the head only while the window has the mouse

    def handle(self, event: Event, arrived_s: float | None = None) -> str | None:
        """Take in one event; return the action it triggers (pause, reset, ...), if any.

        `arrived_s` stamps it for the measurement of latency; None: just now.
        """
        with self._lock:
            self._arrived_s = self._clock() if arrived_s is None else arrived_s
            self._look_on()  # with what was held until this event
            if event.type == pygame.KEYDOWN:
                return self._press(event.key)
            if event.type == pygame.KEYUP:
                if event.key in self._held_codes:
                    self._held_codes.discard(event.key)
                    self._stamp()
            elif event.type == pygame.MOUSEMOTION and self.mouse_looks:
                self._look(*mouse_look(event.rel[0], event.rel[1], self._settings))
                self._stamp()
            elif event.type == pygame.WINDOWFOCUSLOST:
                self._forget()
            else:
                if event.type == pygame.CONTROLLERAXISMOTION:
                    self._stamp()
                return self._gamepad.handle(event)
            return None

    def take(self) -> InputSample:
        """Everything since the last call; look, taps and the time stamp are handed out once."""
        with self._lock:
            sample = self._sample()
            self._tapped.clear()
            self._look_rad = (0.0, 0.0)
            self._oldest_s = None
            return sample

    def peek(self) -> InputSample:
        """What `take` would return now; it stays there to be taken."""
        with self._lock:
            return self._sample()

    def looking(self) -> bool:
        """Is a look key held or a look stick deflected? Then the view turns without events."""
        with self._lock:
            return self._speed() != (0.0, 0.0)

    def drop_taps(self) -> None:
        """Forget keys that are up again, and keep where the player looks."""
        with self._lock:
            self._tapped.clear()
            self._oldest_s = None

    def release_all(self) -> None:
        with self._lock:
            self._forget()

    def close(self) -> None:
        self._gamepad.close()

    def held(self) -> frozenset[str]:
        """What is held right now; takes nothing away from the next sample."""
        with self._lock:
            return frozenset(self._held_actions())

    def _press(self, code: int) -> str | None:
        action = self._action_by_code.get(code)
        if action in HELD_ACTIONS:
            self._held_codes.add(code)
            self._tapped.add(action)
            self._stamp()
            return None
        if action == REWIND:
            self._held_codes.add(code)
            return None
        return action

    def _sample(self) -> InputSample:
        self._look_on()
        return InputSample(
            held=frozenset((self._held_actions() | self._tapped) - {REWIND}),
            look_rad=self._look_rad,
            move_stick=self._gamepad.move_stick,
            lift=self._gamepad.lift,
            oldest_s=self._oldest_s,
        )

    def _look_on(self) -> None:
        """Bring the look up to this instant."""
        now_s = self._clock()
        yaw, pitch = self._speed()
        elapsed_s = now_s - self._looked_s
        self._look(yaw * elapsed_s, pitch * elapsed_s)
        self._looked_s = now_s

    def _look(self, yaw_rad: float, pitch_rad: float) -> None:
        self._look_rad = (self._look_rad[0] + yaw_rad, self._look_rad[1] + pitch_rad)

    def _speed(self) -> tuple[float, float]:
        return look_speed(self._held_actions(), self._gamepad.look_stick, self._settings)

    def _stamp(self) -> None:
        if self._oldest_s is None:
            self._oldest_s = self._arrived_s

    def _held_actions(self) -> set[str]:
        keys = {
            self._action_by_code[code] for code in self._held_codes if code in self._action_by_code
        }
        return keys | self._gamepad.held

    def _forget(self) -> None:
        self._held_codes.clear()
        self._tapped.clear()
        self._look_rad = (0.0, 0.0)
        self._gamepad.release_all()


def _key_code(name: str) -> int:
    try:
        return int(pygame.key.key_code(name))
    except ValueError:
        raise ValueError(f"unknown key {name!r} (names are those of pygame.key.name)") from None
