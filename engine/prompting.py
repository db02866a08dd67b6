"""Changing what the world is like while one walks in it: a typed prompt, and keys for its words."""

from __future__ import annotations

import pygame
from pygame.event import Event

from engine.choosing import DIRECTIONS, Chooser
from engine.loop import GenerationLoop
from engine.prompt import PromptEntry
from worldmodel.prompts import Group, choices, with_next

ACTIONS: dict[str, Group] = {"time_of_day": "time of day", "weather": "weather"}


class Prompting:
    """Methods return what to tell the player."""

    def __init__(self, loop: GenerationLoop, chooser: Chooser, model: str) -> None:
        self.entry: PromptEntry | None = None  # while a prompt is typed
        self._key_is_coming = False  # the letter of the key that opened the line
        self._loop = loop
        self._chooser = chooser
        self._model = model

    def next_word(self, action: str, vocabulary: tuple[str, ...]) -> str:
        """Another hour, or other weather; the walk goes on."""
        group = ACTIONS[action]
        if not choices(group, vocabulary):
            return f"{self._model} knows no words for the {group}"
        prompt = with_next(self._loop.scene.prompt, group, vocabulary)
        self._loop.set_prompt(prompt)
        return f"prompt: {prompt}"

    def open(self, vocabulary: tuple[str, ...]) -> str:
        """Begin a line; the world goes on meanwhile."""
        if not vocabulary:
            return f"{self._model} takes no prompt"
        self.entry = PromptEntry(vocabulary, self._loop.scene.prompt)
        self._key_is_coming = True
        return ""

    def mark_first(self) -> None:
        """For a line that a gamepad opened: something for its buttons to act on."""
        if self.entry is not None:
            self.entry = self.entry.moved(1)

    def handle(self, event: Event) -> str | None:
        """None if the event does not belong to the line that is typed."""
        if self.entry is None:
            return None
        if event.type == pygame.TEXTINPUT:
            if not self._key_is_coming:
                self.entry = self.entry.typed(event.text)
            self._key_is_coming = False
            return ""
        if event.type == pygame.KEYDOWN:
            self._key_is_coming = False
            return self._key(event.key, self.entry)
        if event.type == pygame.CONTROLLERBUTTONDOWN:
            return self._button(self._chooser.pad(event), self.entry)
        return None

    def _key(self, key: int, entry: PromptEntry) -> str:
        if key == pygame.K_BACKSPACE:
            self.entry = entry.erased()
        elif key == pygame.K_TAB:
            self.entry = entry.completed()
        elif key == pygame.K_RETURN:
            return self._apply(entry)
        elif key == pygame.K_ESCAPE:
            self.entry = None
        return ""

    def _button(self, meaning: str, entry: PromptEntry) -> str:
        if meaning in DIRECTIONS:
            self.entry = entry.moved(sum(DIRECTIONS[meaning]))
        elif meaning == "choose":
            self.entry = entry.toggled()
        elif meaning == "start":
            return self._apply(entry)
        elif meaning == "leave":
            self.entry = None
        return ""

    def _apply(self, entry: PromptEntry) -> str:
        try:
            self._loop.set_prompt(entry.text)
        except ValueError:  # the line names them in red
            return ""
        self.entry = None
        return f"prompt: {entry.text}" if entry.words else "no prompt"


def without(vocabulary: tuple[str, ...]) -> frozenset[str]:
    """Actions for which a model of that vocabulary has no words."""
    missing = {action for action, group in ACTIONS.items() if not choices(group, vocabulary)}
    return frozenset(missing if vocabulary else {*missing, "prompt"})
