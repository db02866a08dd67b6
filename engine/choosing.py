"""What keys, buttons and sticks mean where one chooses from several things: title screen, prompt."""

from __future__ import annotations

import pygame
from pygame.event import Event

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
KEYS = {
    pygame.K_LEFT: "left",
    pygame.K_RIGHT: "right",
    pygame.K_UP: "up",
    pygame.K_DOWN: "down",
    pygame.K_RETURN: "choose",
    pygame.K_SPACE: "choose",
    pygame.K_ESCAPE: "leave",
}
BUTTONS = {
    pygame.CONTROLLER_BUTTON_DPAD_LEFT: "left",
    pygame.CONTROLLER_BUTTON_DPAD_RIGHT: "right",
    pygame.CONTROLLER_BUTTON_DPAD_UP: "up",
    pygame.CONTROLLER_BUTTON_DPAD_DOWN: "down",
    pygame.CONTROLLER_BUTTON_A: "choose",
    pygame.CONTROLLER_BUTTON_START: "start",
    pygame.CONTROLLER_BUTTON_B: "leave",
}
STICK = {
    pygame.CONTROLLER_AXIS_LEFTX: ("left", "right"),
    pygame.CONTROLLER_AXIS_LEFTY: ("up", "down"),
}
PUSHED, RELEASED = 0.6 * 32767, 0.3 * 32767  # apart, so that a trembling stick is one push


class Chooser:
    """Remembers which axes of the left stick are pushed: one push is one step."""

    def __init__(self) -> None:
        self._pushed: set[int] = set()

    def key(self, event: Event) -> str:
        """left, right, up, down, choose or leave; empty for everything else."""
        return KEYS.get(event.key, "") if event.type == pygame.KEYDOWN else ""

    def pad(self, event: Event) -> str:
        """left, right, up, down, choose, start or leave; empty for everything else."""
        if event.type == pygame.CONTROLLERBUTTONDOWN:
            return BUTTONS.get(event.button, "")
        if event.type == pygame.CONTROLLERAXISMOTION and event.axis in STICK:
            return self._push(event.axis, event.value)
        return ""

    def _push(self, axis: int, value: int) -> str:
        if abs(value) < RELEASED:
            self._pushed.discard(axis)
        if abs(value) < PUSHED or axis in self._pushed:
            return ""
        self._pushed.add(axis)
        return STICK[axis][value > 0]
