"""Prompts as words: the parts between commas that a model knows, or the nearest that it does know."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

NEAREST = 2  # so many are named


def prompt_parts(prompt: str) -> tuple[str, ...]:
    """The words of a prompt: the parts between commas, in lower case."""
    return tuple(part.strip().lower() for part in prompt.split(",") if part.strip())


def unknown_parts(prompt: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The words of a prompt that are not in the vocabulary."""
    return tuple(word for word in prompt_parts(prompt) if word not in vocabulary)


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
