"""Game controllers: left stick walks, right stick looks, triggers sink and rise; hot-pluggable."""

from __future__ import annotations

import pygame
from pygame._sdl2 import controller
from pygame.event import Event

from engine.controls import REWIND

BUTTON_ACTIONS = {
    pygame.CONTROLLER_BUTTON_START: "pause",
    pygame.CONTROLLER_BUTTON_BACK: "help",
    pygame.CONTROLLER_BUTTON_X: "reset",
    pygame.CONTROLLER_BUTTON_Y: "new_seed",
    pygame.CONTROLLER_BUTTON_DPAD_UP: "time_of_day",
    pygame.CONTROLLER_BUTTON_DPAD_RIGHT: "weather",
    pygame.CONTROLLER_BUTTON_DPAD_DOWN: "prompt",
    pygame.CONTROLLER_BUTTON_DPAD_LEFT: "worlds",
}
RUN_BUTTONS = (
    pygame.CONTROLLER_BUTTON_A,
    pygame.CONTROLLER_BUTTON_LEFTSHOULDER,
    pygame.CONTROLLER_BUTTON_LEFTSTICK,
)
REWIND_BUTTON = pygame.CONTROLLER_BUTTON_B
FULL_TRAVEL = 32767.0


class Gamepad:
    """All connected controllers together, as if they were one."""

    def __init__(self) -> None:
        controller.init()
        self._open: dict[int, controller.Controller] = {}
        self._axes: dict[int, float] = {}
        self._running: set[int] = set()
        self._rewinding = False

    @property
    def move_stick(self) -> tuple[float, float]:
        """Right and forward, in [-1, 1]."""
        return (
            self._axis(pygame.CONTROLLER_AXIS_LEFTX),
            -self._axis(pygame.CONTROLLER_AXIS_LEFTY),
        )

    @property
    def look_stick(self) -> tuple[float, float]:
        """Right and up, in [-1, 1]."""
        return (
            self._axis(pygame.CONTROLLER_AXIS_RIGHTX),
            -self._axis(pygame.CONTROLLER_AXIS_RIGHTY),
        )

    @property
    def lift(self) -> float:
        return self._axis(pygame.CONTROLLER_AXIS_TRIGGERRIGHT) - self._axis(
            pygame.CONTROLLER_AXIS_TRIGGERLEFT
        )

    @property
    def held(self) -> set[str]:
        return ({"run"} if self._running else set()) | ({REWIND} if self._rewinding else set())

    def handle(self, event: Event) -> str | None:
        if event.type == pygame.CONTROLLERAXISMOTION:
            self._axes[event.axis] = min(1.0, max(-1.0, event.value / FULL_TRAVEL))
        elif event.type == pygame.CONTROLLERBUTTONDOWN:
            if event.button in RUN_BUTTONS:
                self._running.add(event.button)
            self._rewinding |= event.button == REWIND_BUTTON
            return BUTTON_ACTIONS.get(event.button)
        elif event.type == pygame.CONTROLLERBUTTONUP:
            self._running.discard(event.button)
            self._rewinding &= event.button != REWIND_BUTTON
        elif event.type == pygame.CONTROLLERDEVICEADDED:
            self._plug_in(event.device_index)
        elif event.type == pygame.CONTROLLERDEVICEREMOVED:
            self._unplug(event.instance_id)
        return None

    def release_all(self) -> None:
        self._axes.clear()
        self._running.clear()
        self._rewinding = False

    def close(self) -> None:
        self._open.clear()
        controller.quit()

    def _axis(self, axis: int) -> float:
        return self._axes.get(axis, 0.0)

    def _plug_in(self, device_index: int) -> None:
        if controller.is_controller(device_index):
            pad = controller.Controller(device_index)
            # An open controller must be kept: without a reference SDL closes it again.
            self._open[pad.as_joystick().get_instance_id()] = pad

    def _unplug(self, instance_id: int) -> None:
        self._open.pop(instance_id, None)
        self.release_all()
