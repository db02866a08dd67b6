"""Which key does what."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBindings:
    """Key names as pygame spells them (`pygame.key.name`), any number per action."""

    forward: tuple[str, ...] = ("w",)
    back: tuple[str, ...] = ("s",)
    left: tuple[str, ...] = ("a",)
    right: tuple[str, ...] = ("d",)
    up: tuple[str, ...] = ("e", "space")
    down: tuple[str, ...] = ("q", "left ctrl")
    run: tuple[str, ...] = ("left shift", "right shift")
    look_left: tuple[str, ...] = ("left",)
    look_right: tuple[str, ...] = ("right",)
    look_up: tuple[str, ...] = ("up",)
    look_down: tuple[str, ...] = ("down",)
    rewind: tuple[str, ...] = ("backspace",)
    step_back: tuple[str, ...] = ("page up",)
    step_forward: tuple[str, ...] = ("page down",)
    pause: tuple[str, ...] = ("p", "pause")
    save: tuple[str, ...] = ("f5",)
    load: tuple[str, ...] = ("f9",)
    reset: tuple[str, ...] = ("r",)
    new_seed: tuple[str, ...] = ("n",)
    record: tuple[str, ...] = ("f8",)
    prompt: tuple[str, ...] = ("t",)
    time_of_day: tuple[str, ...] = ("g",)
    weather: tuple[str, ...] = ("h",)
    worlds: tuple[str, ...] = ("tab",)
    full_screen: tuple[str, ...] = ("f11",)
    screenshot: tuple[str, ...] = ("f12",)
    help: tuple[str, ...] = ("f1",)
    hud: tuple[str, ...] = ("f2",)
    timewarp: tuple[str, ...] = ("f3",)
    effort: tuple[str, ...] = ("f4",)
    leave: tuple[str, ...] = ("escape",)

    def __post_init__(self) -> None:
        self.action_by_key()

    def action_by_key(self) -> dict[str, str]:
        """Raises:
        ValueError: if two actions share a key.
        """
        actions: dict[str, str] = {}
        for binding in fields(self):
            for key in getattr(self, binding.name):
                if key in actions:
                    raise ValueError(f"key {key!r} does both {actions[key]!r} and {binding.name!r}")
                actions[key] = binding.name
        return actions
