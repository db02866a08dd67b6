"""pygame events become input samples and triggered actions.

Event-driven only: `pygame.key.get_pressed` and `mouse.get_rel` know nothing of posted events, and
keep only what lies between two looks at them.
"""

from __future__ import annotations

import threading

import pygame
from pygame.event import Event

from engine.bindings import KeyBindings
from engine.controls import HELD_ACTIONS, InputSample
from engine.gamepad import Gamepad


class PlayerInput:
    """Fed by the window's thread through `handle`, emptied by the generator's through `take`."""

    def __init__(self, bindings: KeyBindings) -> None:
        """Raises:
        ValueError: if pygame knows no key of a bound name.
        """
        self._action_by_code = {
            _key_code(key): action for key, action in bindings.action_by_key().items()
        }
        self._gamepad = Gamepad()
        self._lock = threading.Lock()  # guards everything below
        self._held_codes: set[int] = set()
        self._tapped: set[str] = set()
        self._mouse_px = [0.0, 0.0]
        self.mouse_looks = False  # motion turns the head only while the window has the mouse

    def handle(self, event: Event) -> str | None:
        """Take in one event; return the action it triggers (pause, reset, ...), if any."""
        with self._lock:
            if event.type == pygame.KEYDOWN:
                return self._press(event.key)
            if event.type == pygame.KEYUP:
                self._held_codes.discard(event.key)
            elif event.type == pygame.MOUSEMOTION and self.mouse_looks:
                self._mouse_px[0] += event.rel[0]
                self._mouse_px[1] += event.rel[1]
            elif event.type == pygame.WINDOWFOCUSLOST:
                self._forget()
            else:
                return self._gamepad.handle(event)
            return None

    def take(self) -> InputSample:
        """Everything since the last call; motion and taps are handed out once."""
        with self._lock:
            pad = self._gamepad
            sample = InputSample(
                held=frozenset(self._held_actions() | self._tapped),
                mouse_dx_px=self._mouse_px[0],
                mouse_dy_px=self._mouse_px[1],
                move_stick=pad.move_stick,
                look_stick=pad.look_stick,
                lift=pad.lift,
            )
            self._tapped.clear()
            self._mouse_px = [0.0, 0.0]
            return sample

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
            return None
        return action

    def _held_actions(self) -> set[str]:
        keys = {
            self._action_by_code[code] for code in self._held_codes if code in self._action_by_code
        }
        return keys | self._gamepad.held

    def _forget(self) -> None:
        self._held_codes.clear()
        self._tapped.clear()
        self._mouse_px = [0.0, 0.0]
        self._gamepad.release_all()


def _key_code(name: str) -> int:
    try:
        return int(pygame.key.key_code(name))
    except ValueError:
        raise ValueError(f"unknown key {name!r} (names are those of pygame.key.name)") from None
