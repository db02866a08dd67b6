"""Prompts as words, and what is said of those that a model does not know."""

from __future__ import annotations

import pytest

from distill.scenes.places import ALL_TIMES, ALL_WEATHER
from worldmodel.prompts import (
    GROUPS,
    choices,
    completed,
    named_with_nearest,
    nearest,
    prompt_parts,
    unknown_parts,
    with_next,
)
from worldmodel.transformer import prompt_words, read_words

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


def test_the_next_word_of_a_group_takes_the_place_of_the_one_before_and_they_go_round() -> None:
    words = ("snowfield", "day", "night", "golden hour", "clear", "snow")
    prompt, seen = "snowfield, Day, snow", []
    for _ in range(4):
        prompt = with_next(prompt, "time of day", words)
        seen.append(prompt)
    assert seen == [
        "snowfield, golden hour, snow",
        "snowfield, night, snow",
        "snowfield, day, snow",
        "snowfield, golden hour, snow",
    ]
    assert with_next(prompt, "weather", words) == "snowfield, golden hour, clear"


def test_a_prompt_without_a_word_of_a_group_gets_one_and_two_become_one() -> None:
    words = ("snowfield", "clear", "fog", "rain")
    assert with_next("", "weather", words) == "fog"
    assert with_next("snowfield", "weather", words) == "snowfield, fog"
    assert with_next("fog, snowfield, rain", "weather", words) == "rain, snowfield"


def test_a_prompt_that_says_nothing_of_the_weather_or_the_hour_means_a_clear_day() -> None:
    words = ("snowfield", "clear", "fog", "day", "night")
    assert completed("Snowfield", words) == "snowfield, day, clear"
    assert completed("night, snowfield", words) == "night, snowfield, clear"
    assert completed("fog", words) == "fog, day"
    assert completed("fog, night", words) == "fog, night"
    assert read_words(words, "snowfield, fog").tolist() == [[1.0, 0.0, 1.0, 1.0, 0.0]]


def test_a_prompt_without_words_says_nothing_and_a_model_is_told_only_words_that_it_knows() -> None:
    assert completed(" , ", ("day", "clear")) == ""
    assert read_words(("day", "clear"), "").tolist() == [[0.0, 0.0]]
    assert completed("snowfield", ("snowfield", "fog", "day")) == "snowfield, day"
    assert completed("dungeon", ("dungeon",)) == "dungeon"
    with pytest.raises(ValueError, match="unknown 'lava'"):
        read_words(("day", "clear"), "lava")


def test_a_model_without_words_of_a_group_has_no_choices() -> None:
    words = ("snowfield", "day", "golden hour")
    assert choices("time of day", words) == ("golden hour", "day")
    assert choices("weather", words) == ()
    with pytest.raises(ValueError, match="no words for the weather"):
        with_next("day", "weather", words)


def test_the_groups_are_those_that_worlds_are_drawn_from() -> None:
    assert {time.name for time in ALL_TIMES} == set(GROUPS["time of day"])
    assert {weather.name for weather in ALL_WEATHER} == set(GROUPS["weather"])
