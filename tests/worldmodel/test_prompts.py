"""Prompts as words, and what is said of those that a model does not know."""

from __future__ import annotations

import pytest

from worldmodel.prompts import named_with_nearest, nearest, prompt_parts, unknown_parts
from worldmodel.transformer import prompt_words

WORDS = ("old town", "meadow village", "snowfield", "snow", "golden hour", "night", "windmill")


def test_a_prompt_is_its_parts_between_commas() -> None:
    assert prompt_parts(" Golden Hour ,, snowfield ") == ("golden hour", "snowfield")
    assert unknown_parts("golden hour, lava", WORDS) == ("lava",)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("town", "old town"),
        ("a village", "meadow village"),
        ("snowy", "snow"),
        ("snowfeild", "snowfield"),
        ("nigth", "night"),
        ("goldn hour", "golden hour"),
        ("windmills", "windmill"),
        ("mill", "windmill"),
        ("vilage", "meadow village"),
    ],
)
def test_the_nearest_known_word_is_found(word: str, meant: str) -> None:
    assert meant in nearest(word, WORDS)


def test_nothing_is_near_to_something_else_altogether() -> None:
    assert nearest("submarine", WORDS) == ()
    assert nearest("x", WORDS) == ()
    assert nearest("lava", ()) == ()


def test_unknown_words_are_named_with_the_nearest() -> None:
    assert named_with_nearest(("town", "lava"), WORDS) == "'town' (old town?), 'lava'"
    with pytest.raises(
        ValueError, match=r"unknown 'town' \(old town\?\), 'lava'; known words: old"
    ):
        prompt_words(WORDS, "snow, town, lava")
