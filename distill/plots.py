"""Line plots as SVG: a page of results needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Line = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 34, 44  # margins; the names of the lines stand at the right
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6d597a", "#555555")
TICKS = 5


def line_plot(title: str, x_label: str, lines: Mapping[str, Line], *, log_x: bool = False) -> str:
    """An SVG picture of named lines, each a sequence of (x, y).

    Raises:
        ValueError: if there is nothing to draw, or a logarithmic axis would need a number below 1.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(f"plot {title!r}: no points")
    if log_x and min(x for x, _ in points) < 1:
        raise ValueError(f"plot {title!r}: a logarithmic axis begins at 1")
    across = _Axis([math.log10(x) if log_x else x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([0.0, *(y for _, y in points)], HEIGHT - BOTTOM, TOP)
    parts = [_text(LEFT, TOP - 14, title, "start", 14), *_y_ticks(up)]
    xs = sorted({x for x, _ in points})
    for x in _x_ticks(xs, log_x):
        at = across(math.log10(x) if log_x else x)
        parts.append(_text(at, HEIGHT - BOTTOM + 16, f"{x:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    for nth, (name, line) in enumerate(lines.items()):
        colour = COLOURS[nth % len(COLOURS)]
        path = " ".join(f"{across(math.log10(x) if log_x else x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y_px = TOP + 8 + 18 * nth
        parts.append(_text(WIDTH - RIGHT + 12, y_px, name, "start", colour=colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )


class _Axis:
    """Values to pixels."""

    def __init__(self, values: Sequence[float], first_px: float, last_px: float) -> None:
        self.low, self.high = min(values), max(values)
        self.first_px, self.last_px = first_px, last_px

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.first_px + share * (self.last_px - self.first_px)


def _y_ticks(up: _Axis) -> list[str]:
    parts = []
    step = _round_step((up.high - up.low) / TICKS)
    for nth in range(math.ceil(up.low / step), math.floor(up.high / step + 1e-9) + 1):
        at = up(nth * step)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(LEFT - 6, at + 4, f"{nth * step:.6g}", "end"))
    return parts


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next((n * power for n in (1, 2, 5) if n * power >= step), 10 * power)


def _x_ticks(xs: Sequence[float], log_x: bool) -> list[float]:
    if len(xs) <= 8:
        return list(xs)
    if log_x:
        return [x for x in (10.0**n for n in range(7)) if xs[0] <= x <= xs[-1]]
    step = _round_step((xs[-1] - xs[0]) / TICKS)
    first = math.ceil(xs[0] / step)
    return [nth * step for nth in range(first, math.floor(xs[-1] / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{colour}">{escape(text)}</text>'
    )
