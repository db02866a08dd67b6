"""Prompts as words: the parts between commas that a model knows, or the nearest that it does know; and
which words exclude each other.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

NEAREST = 2  # so many are named
START_PROMPT = "worldmodel prompt"  # the text in a PNG to begin with that says what it shows

Group = Literal["time of day", "weather"]
# Of the words of a group one holds at a time. They go round in this order, and a prompt that has none
# of them gets the first: not what most worlds begin with, so that something is seen to change.
GROUPS: dict[Group, tuple[str, ...]] = {
    "time of day": ("golden hour", "dusk", "night", "morning", "day"),
    "weather": ("fog", "rain", "snow", "clear"),
}

# What a prompt means that names something, but nothing of a group. Worlds that models learned from name
# both: told no weather, a model shows a little of each, and that is haze.
UNSAID: dict[Group, str] = {"time of day": "day", "weather": "clear"}


def prompt_parts(prompt: str) -> tuple[str, ...]:
    """The words of a prompt: the parts between commas, in lower case."""
    return tuple(part.strip().lower() for part in prompt.split(",") if part.strip())


def unknown_parts(prompt: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The words of a prompt that are not in the vocabulary."""
    return tuple(word for word in prompt_parts(prompt) if word not in vocabulary)


def completed(prompt: str, vocabulary: Sequence[str]) -> str:
    """The prompt with what it leaves unsaid, as far as a model knows words for it.

    One without any word stays empty: then nothing is told.
    """
    parts = prompt_parts(prompt)
    said = [group for group in GROUPS if any(part in GROUPS[group] for part in parts)]
    unsaid = [word for group, word in UNSAID.items() if group not in said and word in vocabulary]
    return ", ".join([*parts, *unsaid]) if parts else ""


def choices(group: Group, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The words of a group that a model knows, in the order in which they go round."""
    return tuple(word for word in GROUPS[group] if word in vocabulary)


def with_next(prompt: str, group: Group, vocabulary: Sequence[str]) -> str:
    """The prompt with the next word of a group that the model knows, where the one before it was.

    Raises:
        ValueError: if it knows none.
    """
    known = choices(group, vocabulary)
    if not known:
        raise ValueError(f"no words for the {group}")
    named = [known.index(part) for part in prompt_parts(prompt) if part in known]
    return with_word(prompt, known[(named[0] + 1) % len(known)] if named else known[0])


def with_word(prompt: str, word: str) -> str:
    """The prompt with `word`, where the words that it excludes were, or at the end."""
    excluded = next((words for words in GROUPS.values() if word in words), ())
    parts = [word if part in excluded else part for part in prompt_parts(prompt)]
    return ", ".join(dict.fromkeys([*parts, word]))


def without_word(prompt: str, word: str) -> str:
    return ", ".join(part for part in prompt_parts(prompt) if part != word)


def nearest(word: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The known words that one most likely meant: those it is part of or that are part of it, then
    those that are spelt alike, as a whole or in one of their parts.
    """
    held = [known for known in vocabulary if _shares_a_part(word, known)]
    alike = {part: known for known in reversed(vocabulary) for part in (*known.split(), known)}
    close = [alike[part] for part in difflib.get_close_matches(word, alike, n=NEAREST)]
    return tuple(dict.fromkeys([*held, *close]))[:NEAREST]


def named_with_nearest(words: Sequence[str], vocabulary: Sequence[str]) -> str:
    """For messages: every word, and in brackets what may have been meant."""
    return ", ".join(_with_nearest(word, vocabulary) for word in words)


def _with_nearest(word: str, vocabulary: Sequence[str]) -> str:
    found = nearest(word, vocabulary)
    return f"{word!r} ({' or '.join(found)}?)" if found else repr(word)


def _shares_a_part(word: str, known: str) -> bool:
    common = {*word.split()} & {*known.split()}
    return len(word) > 2 and (word in known or known in word or bool(common))
