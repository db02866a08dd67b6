"""Small images for the HUD: panels, text and key caps as pygame surfaces. No GL, no state."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pygame
from pygame import Surface

Colour = tuple[int, int, int, int]
INK: Colour = (236, 240, 245, 255)
MUTED: Colour = (165, 176, 190, 255)
ACCENT: Colour = (255, 201, 107, 255)
PANEL: Colour = (13, 17, 23, 172)
SHEET: Colour = (13, 17, 23, 226)  # behind more than a line or two of text
CAP: Colour = (38, 44, 54, 190)
CAP_RIM: Colour = (236, 240, 245, 80)
TRACK: Colour = (236, 240, 245, 90)
RECORD: Colour = (232, 76, 61, 255)
DARK_INK: Colour = (24, 20, 12, 255)
OPAQUE: Colour = (255, 255, 255, 255)  # as a mask
SMOOTH = 4  # shapes are drawn this much larger and scaled down, because pygame draws hard edges

SHORT_NAMES = {
    "left shift": "Shift",
    "right shift": "Shift",
    "left ctrl": "Ctrl",
    "right ctrl": "Ctrl",
    "escape": "Esc",
    "return": "Enter",
    "tab": "Tab",
    "page up": "PgUp",
    "page down": "PgDn",
}
ARROWS = ("left", "right", "up", "down")


@functools.lru_cache(maxsize=64)
def font(height_px: int) -> pygame.font.Font:
    return pygame.font.Font(None, height_px)


def text(words: str, height_px: int, colour: Colour = INK) -> Surface:
    return font(height_px).render(words, True, colour)


def rounded(size: tuple[int, int], radius: int, fill: Colour, rim: Colour | None = None) -> Surface:
    large = Surface((size[0] * SMOOTH, size[1] * SMOOTH), pygame.SRCALPHA)
    large.fill((*fill[:3], 0))
    pygame.draw.rect(large, fill, large.get_rect(), border_radius=radius * SMOOTH)
    if rim is not None:
        pygame.draw.rect(large, rim, large.get_rect(), SMOOTH, border_radius=radius * SMOOTH)
    return pygame.transform.smoothscale(large, size)


def row(parts: Sequence[Surface], gap: int, centred: bool = True) -> Surface:
    width = sum(part.get_width() for part in parts) + gap * (len(parts) - 1)
    height = max(part.get_height() for part in parts)
    whole = Surface((max(width, 1), height), pygame.SRCALPHA)
    left = 0
    for part in parts:
        whole.blit(part, (left, (height - part.get_height()) // 2 if centred else 0))
        left += part.get_width() + gap
    return whole


def column(parts: Sequence[Surface], gap: int, centred: bool = False) -> Surface:
    width = max(part.get_width() for part in parts)
    height = sum(part.get_height() for part in parts) + gap * (len(parts) - 1)
    whole = Surface((width, height), pygame.SRCALPHA)
    top = 0
    for part in parts:
        whole.blit(part, ((width - part.get_width()) // 2 if centred else 0, top))
        top += part.get_height() + gap
    return whole


def wrapped(parts: Sequence[Surface], widest: int, gap: int) -> Surface:
    """Rows, each as long as fits."""
    rows: list[list[Surface]] = [[]]
    width = 0
    for part in parts:
        if rows[-1] and width + gap + part.get_width() > widest:
            rows.append([])
            width = 0
        rows[-1].append(part)
        width += gap + part.get_width()
    return column([row(one, gap) for one in rows], gap)


def padded(content: Surface, width: int, left: int = 0) -> Surface:
    """The content, `left` pixels from the left of at least `width`."""
    whole = Surface((max(width, content.get_width()), content.get_height()), pygame.SRCALPHA)
    whole.blit(content, (left, 0))
    return whole


def panel(content: Surface, padding: int, fill: Colour = PANEL) -> Surface:
    size = (content.get_width() + 2 * padding, content.get_height() + 2 * padding)
    whole = rounded(size, padding, fill)
    whole.blit(content, (padding, padding))
    return whole


def key_cap(name: str, height_px: int, lit: bool = False) -> Surface:
    """A key with its short name, or an arrow; `name` is pygame's."""
    ink = DARK_INK if lit else INK
    label = arrow(name, height_px // 2, ink) if name in ARROWS else _label(name, height_px, ink)
    wide = name not in ARROWS and len(short_name(name)) > 1
    width = max(height_px, label.get_width() + height_px * 2 // 3) if wide else height_px
    radius = max(3, height_px // 5)
    cap = rounded((width, height_px), radius, ACCENT if lit else CAP, ACCENT if lit else CAP_RIM)
    cap.blit(label, label.get_rect(center=cap.get_rect().center))
    return cap


def short_name(key: str) -> str:
    return SHORT_NAMES.get(key, key.upper() if len(key) <= 3 else key.capitalize())


def arrow(direction: str, size_px: int, colour: Colour) -> Surface:
    """A small triangle: pygame's built-in font has no arrows."""
    large = size_px * SMOOTH
    surface = Surface((large, large), pygame.SRCALPHA)
    surface.fill((*colour[:3], 0))
    pointing_up = [(0.5, 0.2), (0.9, 0.8), (0.1, 0.8)]
    turn = {"up": (0, 1), "down": (0, -1), "left": (1, 1), "right": (1, -1)}[direction]
    points = [_turn(point, *turn) for point in pointing_up]
    pygame.draw.polygon(surface, colour, [(x * large, y * large) for x, y in points])
    return pygame.transform.smoothscale(surface, (size_px, size_px))


def icon(size_px: int) -> Surface:
    """A mountain under the sun."""
    unit = size_px / 16
    surface = rounded((size_px, size_px), size_px // 5, (96, 148, 190, 255))
    pygame.draw.circle(surface, ACCENT, (11.5 * unit, 4.5 * unit), 2 * unit)
    for peak, shade in [((6.5, 4.0), (236, 240, 245)), ((11.0, 8.0), (60, 92, 88))]:
        slope = [peak, (peak[0] + 16 - peak[1], 16.0), (peak[0] - 16 + peak[1], 16.0)]
        pygame.draw.polygon(surface, shade, [(x * unit, y * unit) for x, y in slope])
    surface.blit(
        rounded((size_px, size_px), size_px // 5, INK), (0, 0), None, pygame.BLEND_RGBA_MIN
    )
    return surface


def _turn(point: tuple[float, float], swap: int, sign: int) -> tuple[float, float]:
    x, y = point
    y = y if sign > 0 else 1.0 - y
    return (y, x) if swap else (x, y)


def _label(name: str, height_px: int, ink: Colour) -> Surface:
    return text(short_name(name), max(12, round(height_px * 0.72)), ink)
