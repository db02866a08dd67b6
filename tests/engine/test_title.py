from __future__ import annotations

import numpy as np
import pygame
import pytest
from pygame import Surface

from engine.scene import Scene
from engine.title import Card, TitleScreen, label_of, lay_out


@pytest.mark.parametrize("window", [(1120, 640), (640, 360), (1920, 1080), (800, 1000), (320, 180)])
@pytest.mark.parametrize(("worlds", "saves"), [(1, 0), (9, 0), (9, 3), (24, 3), (0, 2)])
def test_all_cards_lie_in_the_window_and_none_on_another(
    worlds: int, saves: int, window: tuple[int, int]
) -> None:
    layout = lay_out(worlds, saves, window)
    taken = np.zeros(window[::-1], np.uint8)
    for card in layout.cards:
        assert card.left >= 0 and card.left + card.width <= window[0]
        assert card.top >= 0 and card.top + card.height <= window[1]
        taken[card.top : card.top + card.height, card.left : card.left + card.width] += 1
    assert len(layout.cards) == worlds + saves and taken.max() == 1


def test_few_worlds_get_larger_pictures_than_many() -> None:
    window = (1120, 640)
    assert lay_out(3, 0, window).cards[0].width > lay_out(9, 3, window).cards[0].width


def test_names_of_files_become_names_of_places() -> None:
    assert label_of("6-meadow-village") == "Meadow village"
    assert label_of("my_garden") == "My garden"
    assert label_of("") == "New world"


def title(worlds: int, saves: int = 0) -> TitleScreen:
    pygame.font.init()

    def sprite(_name: str, _cause: object, painter: object) -> tuple[int, int]:
        surface = painter()  # type: ignore[operator]
        assert isinstance(surface, Surface)
        return surface.get_size()

    picture = np.full((20, 30, 3), 120, np.uint8)
    cards = [Card(f"w{n}", "", Scene(f"w{n}", n), picture) for n in range(worlds)]
    saved = [Card(f"s{n}", "today", Scene(f"s{n}", n), None) for n in range(saves)]
    screen = TitleScreen(sprite, cards, saved)
    assert screen.update("pocket", (1120, 640))
    assert not screen.update("pocket", (1120, 640))
    return screen


def test_arrows_go_to_the_neighbour_and_stop_at_the_rim() -> None:
    screen = title(9, saves=2)
    columns = sum(card.top == screen._layout.cards[0].top for card in screen._layout.cards)
    seen = [screen.selected]
    for direction in ((1, 0), (0, 1), (-1, 0), (-1, 0), (0, -1), (0, -1)):
        screen.move(*direction)
        seen.append(screen.selected)
    assert seen == [0, 1, 1 + columns, columns, columns, 0, 0]
    for _ in range(5):
        screen.move(0, 1)
    assert screen.card.label == "s0"
    assert screen.update("pocket", (1120, 640))


def test_the_mouse_finds_the_card_under_it() -> None:
    screen = title(4)
    place = screen._layout.cards[2]
    assert screen.card_at((place.left + 5, place.top + 5)) == 2
    assert screen.card_at((0, 0)) is None


def test_there_is_no_title_screen_without_anything_to_choose() -> None:
    with pytest.raises(ValueError, match="needs a card"):
        title(0)
