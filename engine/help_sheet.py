"""Every control on one page."""

from __future__ import annotations

from pygame import Surface

from engine import painting as paint
from engine.bindings import KeyBindings

DIMMED_ALPHA = 110  # of 255: keys without a use


def help_sheet(keys: KeyBindings, scale: float, without: frozenset[str] = frozenset()) -> Surface:
    """Every control, in two columns; what the model has no words for is greyed out."""
    walking: list[tuple[str, tuple[str, ...]]] = [
        ("walk", ("forward", "left", "back", "right")),
        ("look", ("look_left", "look_up", "look_down", "look_right")),
        ("rise", ("up",)),
        ("sink", ("down",)),
        ("run", ("run",)),
        ("hold: time runs backwards", ("rewind",)),
        ("one step back or on", ("step_back", "step_forward")),
        ("another time of day", ("time_of_day",)),
        ("other weather", ("weather",)),
    ]
    running: list[tuple[str, tuple[str, ...]]] = [
        ("pause, and look around", ("pause",)),
        ("save; go back to the last save", ("save", "load")),
        ("start again", ("reset",)),
        ("new seed", ("new_seed",)),
        ("record, stop", ("record",)),
        ("type a prompt", ("prompt",)),
        ("other worlds, saves", ("worlds",)),
        ("full screen", ("full_screen",)),
        ("screenshot", ("screenshot",)),
        ("status, latencies, nothing", ("hud",)),
        ("timewarp on or off", ("timewarp",)),
        ("work a frame: automatic, most, less", ("effort",)),
        ("pause and free the mouse; again: leave", ("leave",)),
    ]
    lists = [_help_list(entries, keys, scale, without) for entries in (walking, running)]
    lists[0] = paint.column([lists[0], _device_notes(scale)], round(14 * scale))
    sheet = [
        paint.text("Controls", round(38 * scale)),
        paint.row(lists, round(44 * scale), centred=False),
    ]
    return paint.panel(paint.column(sheet, round(18 * scale)), round(26 * scale), paint.SHEET)


def _help_list(
    entries: list[tuple[str, tuple[str, ...]]],
    keys: KeyBindings,
    scale: float,
    without: frozenset[str],
) -> Surface:
    height = round(26 * scale)
    caps = [
        paint.row(
            [paint.key_cap(key, height) for key in _shown_keys(actions, keys)], round(4 * scale)
        )
        for _, actions in entries
    ]
    width = max(cap.get_width() for cap in caps)
    lines = [
        _help_line(paint.padded(cap, width), words, bool(without & {*actions}), scale)
        for cap, (words, actions) in zip(caps, entries, strict=True)
    ]
    return paint.column(lines, round(9 * scale))


def _help_line(cap: Surface, words: str, missing: bool, scale: float) -> Surface:
    if missing:
        words += ": no words for it in this model"
        cap.set_alpha(DIMMED_ALPHA)
    label = paint.text(words, round(21 * scale), paint.MUTED if missing else paint.INK)
    return paint.row([cap, label], round(14 * scale))


def _device_notes(scale: float) -> Surface:
    notes = [
        "Mouse: click to look around",
        "1-9: other starting points",
        "Gamepad: sticks walk and look, triggers sink and rise,",
        "A runs, B rewinds, X starts again, Y new seed, Start pauses;",
        "cross: hour (up), weather (right), prompt (down), worlds (left)",
    ]
    height = round(19 * scale)
    return paint.column([paint.text(note, height, paint.MUTED) for note in notes], round(5 * scale))


def _shown_keys(actions: tuple[str, ...], keys: KeyBindings) -> list[str]:
    """One key for each of several actions; every key of a single one, left and right as one."""
    if len(actions) > 1:
        return [getattr(keys, action)[0] for action in actions]
    by_name = {paint.short_name(key): key for key in getattr(keys, actions[0])}
    return list(by_name.values())
