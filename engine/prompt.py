"""Typing a prompt while one walks: pure, without a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worldmodel.prompts import (
    named_with_nearest,
    prompt_parts,
    unknown_parts,
    with_word,
    without_word,
)

LONGEST = 200


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """The line as typed so far, and the words the model knows."""

    vocabulary: tuple[str, ...]
    text: str = ""
    marked: int | None = None  # the word that a gamepad would add or take away

    @property
    def words(self) -> tuple[str, ...]:
        return prompt_parts(self.text)

    @property
    def unknown(self) -> tuple[str, ...]:
        return unknown_parts(self.text, self.vocabulary)

    @property
    def completion(self) -> str:
        """What is missing of the one known word that the last part begins; empty without one."""
        begun = self.text.rpartition(",")[2].lstrip().lower()
        if not begun or begun in self.vocabulary:
            return ""
        found = [word for word in self.vocabulary if word.startswith(begun)]
        return found[0][len(begun) :] if found else ""

    def typed(self, characters: str) -> PromptEntry:
        text = self.text + "".join(one for one in characters if one.isprintable())
        return replace(self, text=text[:LONGEST])

    def erased(self) -> PromptEntry:
        return replace(self, text=self.text[:-1])

    def completed(self) -> PromptEntry:
        return replace(self, text=self.text + self.completion)

    def moved(self, words: int) -> PromptEntry:
        """The mark goes that many words on, round and round."""
        at = -1 if self.marked is None and words > 0 else self.marked or 0
        return replace(self, marked=(at + words) % len(self.vocabulary))

    def toggled(self) -> PromptEntry:
        """The marked word is added, in the place of those it excludes, or taken away."""
        if self.marked is None:
            return self
        word = self.vocabulary[self.marked]
        change = without_word if word in self.words else with_word
        return replace(self, text=change(self.text, word))


def check_words(prompt: str, vocabulary: Sequence[str]) -> None:
    """Raises:
    ValueError: naming the words that the model does not know, and the nearest that it does.
    """
    if not vocabulary:
        raise ValueError("this model takes no prompt")
    unknown = unknown_parts(prompt, vocabulary)
    if unknown:
        raise ValueError(f"unknown: {named_with_nearest(unknown, vocabulary)}")
