"""The first thing one sees: the shipped worlds as pictures, and the last saves below them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame import Surface
from pygame.event import Event

from engine import hud
from engine import painting as paint
from engine.choosing import DIRECTIONS, Chooser
from engine.saves import describe
from engine.scene import Scene, read_image
from engine.viewer import Rectangle

COLUMNS = (3, 4, 5, 6)  # as many as make the cards largest
MOST_SAVES = 3  # one row
WIDTH_SHARE = 0.88  # of the window
GAP_SHARE = 0.018
ASPECT = 16 / 9

PaintSprite = Callable[[str, object, Callable[[], Surface]], tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """Something to begin with."""

    label: str
    detail: str  # a second, quieter word
    choice: Scene | Path  # a world, or a save slot
    picture: NDArray[np.uint8] | None


def label_of(name: str) -> str:
    """`6-meadow-village` as people write it."""
    words = re.sub(r"^\d+-", "", name).replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:] or "New world"


def world_card(scene: Scene) -> Card:
    return Card(label_of(scene.name), "", scene, scene.image)


def save_card(slot: Path) -> Card | None:
    """None for a slot that cannot be read."""
    try:
        saved = describe(slot)
        picture = read_image(slot / "picture.png")
    except ValueError:
        return None
    today = saved.saved.date() == datetime.now().date()
    when = f"{saved.saved:%H:%M}" if today else f"{saved.saved:%d %b}"
    return Card(label_of(saved.scene), when, slot, picture)


@dataclass(frozen=True, slots=True)
class Layout:
    """Window pixels."""

    heading: tuple[int, int]  # left and top
    cards: tuple[Rectangle, ...]  # of the pictures; the label lies below
    saves_heading: tuple[int, int] | None
    scale: float


def lay_out(worlds: int, saves: int, window: tuple[int, int]) -> Layout:
    """Rows of cards, as large as all of them fit into the window."""
    layouts = (_rows_of(columns, worlds, saves, window) for columns in COLUMNS)
    return max(layouts, key=lambda layout: layout.cards[0].width)


def _rows_of(columns: int, worlds: int, saves: int, window: tuple[int, int]) -> Layout:
    world_rows = -(-worlds // columns)
    rows = world_rows + (1 if saves else 0)
    scale = window[1] / 640
    gap = round(GAP_SHARE * window[0])
    head, section, label = round(92 * scale), round(44 * scale), round(32 * scale)
    section = section if saves else 0
    free = window[1] - head - section - round(64 * scale)
    widest = (WIDTH_SHARE * window[0] - (columns - 1) * gap) / columns
    height = max(8, min(round(widest / ASPECT), free // rows - label - gap // 2))
    width = round(height * ASPECT)
    left = (window[0] - columns * width - (columns - 1) * gap) // 2
    row_height = height + label + gap // 2
    top = max(
        round(12 * scale), (window[1] - head - section - rows * row_height - round(40 * scale)) // 2
    )
    cards = [
        Rectangle(
            left + index % columns * (width + gap),
            top + head + index // columns * row_height,
            width,
            height,
        )
        for index in range(worlds)
    ]
    below = top + head + world_rows * row_height
    cards += [
        Rectangle(left + index * (width + gap), below + section, width, height)
        for index in range(saves)
    ]
    saves_heading = (left, below + round(10 * scale)) if saves else None
    return Layout((left, top), tuple(cards), saves_heading, scale)


class TitleScreen:
    """Which card is selected, and the sprites that show it."""

    def __init__(self, sprite: PaintSprite, worlds: Sequence[Card], saves: Sequence[Card]) -> None:
        """Raises:
        ValueError: if there is nothing to choose from.
        """
        if not worlds and not saves:
            raise ValueError("a title screen needs a card")
        self._sprite = sprite
        self._worlds = len(worlds)
        self.cards = [*worlds, *saves[:MOST_SAVES]]
        self._selected = 0
        self._repainted = True
        self.places: dict[str, tuple[int, int]] = {}
        self._layout = Layout((0, 0), (), None, 1.0)

    @property
    def selected(self) -> int:
        return self._selected

    @selected.setter
    def selected(self, index: int) -> None:
        self._repainted |= index != self._selected
        self._selected = index

    @property
    def card(self) -> Card:
        return self.cards[self.selected]

    def handle(self, event: Event, chooser: Chooser) -> Literal["", "choose", "leave"] | None:
        """Select by mouse, keys or gamepad; say what is asked for. None: no event of this screen."""
        if event.type == pygame.MOUSEMOTION:
            self._point_at(event.pos)
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT:
            return "choose" if self._point_at(event.pos) else ""
        elif event.type == pygame.KEYDOWN:
            return self._follow(chooser.key(event))
        elif event.type in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERAXISMOTION):
            return self._follow(chooser.pad(event))
        else:
            return None
        return ""

    def _point_at(self, position: tuple[int, int]) -> bool:
        index = self.card_at(position)
        if index is not None:
            self.selected = index
        return index is not None

    def _follow(self, meaning: str) -> Literal["", "choose", "leave"]:
        if meaning in DIRECTIONS:
            self.move(*DIRECTIONS[meaning])
        if meaning == "leave":
            return "leave"
        return "choose" if meaning in ("choose", "start") else ""

    def move(self, right: int, down: int) -> None:
        """Select a neighbour; beyond the rim nothing happens."""
        rectangles = self._layout.cards
        if not rectangles:
            return
        here = rectangles[self.selected]
        wanted = [
            index
            for index, there in enumerate(rectangles)
            if ((there.left - here.left) * right > 0 and there.top == here.top)
            or (there.top - here.top) * down > 0
        ]
        if wanted:
            self.selected = min(wanted, key=lambda index: _distance(here, rectangles[index]))

    def card_at(self, position: tuple[int, int]) -> int | None:
        """Which card lies under the mouse."""
        for index, place in enumerate(self._layout.cards):
            inside = (
                0 <= position[0] - place.left < place.width
                and 0 <= position[1] - place.top < place.height
            )
            if inside:
                return index
        return None

    def update(self, title: str, window: tuple[int, int], toast: str = "") -> bool:
        """Bring sprites and places up to date; True if the picture changed."""
        self._layout = layout = lay_out(self._worlds, len(self.cards) - self._worlds, window)
        scale = layout.scale
        places: dict[str, tuple[int, int]] = {}
        self._sprite("heading", (title, scale), lambda: _heading(title, scale))
        places["heading"] = layout.heading
        if layout.saves_heading is not None:
            self._sprite(
                "saves", scale, lambda: paint.text("Go on", round(26 * scale), paint.MUTED)
            )
            places["saves"] = layout.saves_heading
        for index, (card, place) in enumerate(zip(self.cards, layout.cards, strict=True)):
            lit = index == self.selected
            cause = (card, place.width, place.height, lit)
            rim = _rim(scale)
            self._sprite(
                f"card-{index}",
                cause,
                lambda card=card, place=place, lit=lit: _paint_card(card, place, lit, scale),  # type: ignore[misc]
            )
            places[f"card-{index}"] = (place.left - rim, place.top - rim)
        size = self._sprite("choose", scale, lambda: _hint(scale))
        places["choose"] = ((window[0] - size[0]) // 2, window[1] - size[1] - round(12 * scale))
        if toast:
            size = self._sprite("toast", (toast, scale), lambda: hud.toast(toast, scale))
            places["toast"] = ((window[0] - size[0]) // 2, (window[1] - size[1]) // 2)
        changed = places != self.places or self._repainted
        self.places, self._repainted = places, False
        return changed


def _distance(one: Rectangle, other: Rectangle) -> float:
    return (one.left - other.left) ** 2 + 4.0 * (one.top - other.top) ** 2


def _rim(scale: float) -> int:
    return max(2, round(4 * scale))


def _heading(title: str, scale: float) -> Surface:
    lines = [
        paint.text(title, round(52 * scale)),
        paint.text("Choose where to begin", round(22 * scale), paint.MUTED),
    ]
    return paint.column(lines, round(4 * scale))


def _hint(scale: float) -> Surface:
    height = round(22 * scale)
    words = [
        *(paint.key_cap(arrow, height) for arrow in paint.ARROWS),
        paint.text("or the mouse", round(19 * scale), paint.MUTED),
        paint.key_cap("return", height),
        paint.text("begin", round(19 * scale), paint.MUTED),
        paint.key_cap("escape", height),
        paint.text("leave  ·  or drop a picture of your own", round(19 * scale), paint.MUTED),
    ]
    return paint.row(words, round(7 * scale))


def _paint_card(card: Card, place: Rectangle, lit: bool, scale: float) -> Surface:
    """The picture with round corners, a rim if it is selected, and its label."""
    rim, radius = _rim(scale), round(10 * scale)
    label = paint.row(
        [
            paint.text(card.label, round(21 * scale), paint.ACCENT if lit else paint.INK),
            paint.text(card.detail, round(18 * scale), paint.MUTED),
        ],
        round(8 * scale),
    )
    whole = Surface(
        (place.width + 2 * rim, place.height + 3 * rim + label.get_height()), pygame.SRCALPHA
    )
    if lit:
        size = (place.width + 2 * rim, place.height + 2 * rim)
        whole.blit(paint.rounded(size, radius + rim, paint.ACCENT), (0, 0))
    whole.blit(_thumbnail(card.picture, (place.width, place.height), radius), (rim, rim))
    width = min(label.get_width(), place.width)
    whole.blit(label, (rim, place.height + 3 * rim), (0, 0, width, label.get_height()))
    return whole


def _thumbnail(picture: NDArray[np.uint8] | None, size: tuple[int, int], radius: int) -> Surface:
    mask = paint.rounded(size, radius, paint.OPAQUE)
    if picture is None:
        return paint.rounded(size, radius, paint.CAP)
    height, width = picture.shape[:2]
    cut = Surface(size, pygame.SRCALPHA)
    scale = max(size[0] / width, size[1] / height)
    full = pygame.image.frombuffer(np.ascontiguousarray(picture).tobytes(), (width, height), "RGB")
    scaled = pygame.transform.smoothscale(
        full, (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
    )
    cut.blit(scaled, scaled.get_rect(center=cut.get_rect().center))
    cut.blit(mask, (0, 0), None, pygame.BLEND_RGBA_MIN)
    return cut
