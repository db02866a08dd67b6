"""What lies over the picture: status, keys held, banners and the loading screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pygame
from pygame import Surface

from engine import painting as paint
from engine.bindings import KeyBindings
from engine.help_sheet import help_sheet
from engine.prompt import PromptEntry
from engine.viewer import SpriteLayer

DESIGN_HEIGHT_PX = 640  # the window height at which one design pixel is one pixel
LOADING_BAR = (240, 4)
LOADING_LIGHT = 64
ENTRY_SHARE = 0.7  # of the window's width
TIMELINE_SHARE = 0.5  # of the window's width
SLOW = 0.9  # share of the world's rate below which the HUD says so


LatencyLine = tuple[str, int, int, int]  # a stage and its p50, p95 and p99 in milliseconds

TimelineBar = tuple[float, float]  # seconds gone back, of how many


@dataclass(frozen=True, slots=True)
class HudState:
    """Everything the HUD depends on: equal states look equal."""

    model: str
    scene: str = ""
    seed: int = 0
    prompt: str = ""
    world_fps: float = 0.0
    generated_fps: float = 0.0
    shown_fps: float = 0.0
    step_ms: float = 0.0
    latency: tuple[LatencyLine, ...] = ()
    held: frozenset[str] = frozenset()
    timeline: TimelineBar | None = None
    entry: PromptEntry | None = None  # a prompt that is being typed
    recorded_s: int | None = None  # None: nothing is recorded
    toast: str = ""
    loading: str = ""  # what is being waited for; empty once the world is there
    loading_phase: float = 0.0  # 0 to 1, where the moving light is
    runtime: str = ""  # what computes the model
    effort: str = ""  # denoising steps of a frame, and how long memory is
    paused: bool = False
    photo: bool = False  # paused, with a free look
    timewarp: bool = True
    help: bool = False
    without: frozenset[str] = frozenset()  # actions that this model has no words for
    visible: bool = True


class Hud:
    """Paints a sprite again only when what it shows has changed."""

    def __init__(self, sprites: SpriteLayer, keys: KeyBindings) -> None:
        self._sprites = sprites
        self._keys = keys
        self._painted: dict[str, tuple[object, tuple[int, int]]] = {}  # name -> cause, size
        self.places: dict[str, tuple[int, int]] = {}  # sprite -> left, top; in drawing order

    def update(self, state: HudState, window_size: tuple[int, int]) -> bool:
        """Bring sprites and places up to date; True if the picture changed."""
        repainted = set(self._painted.items())
        scale = min(3.0, max(0.55, window_size[1] / DESIGN_HEIGHT_PX))
        places = self._lay_out(state, window_size, scale)
        changed = places != self.places or set(self._painted.items()) != repainted
        self.places = places
        return changed

    def _lay_out(
        self, state: HudState, window: tuple[int, int], scale: float
    ) -> dict[str, tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        margin = round(14 * scale)
        if state.loading:
            self._lay_out_loading(places, state, window, scale)
            return places
        if state.visible and not state.help and not state.photo:
            self.sprite("status", (status_of(state), scale), lambda: status(state, scale))
            places["status"] = (margin, margin)
            if state.latency:
                below = self._painted["status"][1][1]
                cause = (state.latency, scale)
                self.sprite("latency", cause, lambda: latency_table(state.latency, scale))
                places["latency"] = (margin, margin + below + margin // 2)
            size = self.sprite(
                "keys", (state.held, scale), lambda: held_keys(state.held, self._keys, scale)
            )
            places["keys"] = (margin, window[1] - margin - size[1])
            size = self.sprite("hint", scale, lambda: hint(self._keys, scale))
            places["hint"] = (window[0] - margin - size[0], window[1] - margin - size[1])
        if state.help:
            without = state.without
            size = self.sprite(
                "help", (without, scale), lambda: help_sheet(self._keys, scale, without)
            )
            places["help"] = _centred(size, window)
        elif state.photo:
            size = self.sprite("photo", scale, lambda: photo_line(self._keys, scale))
            places["photo"] = ((window[0] - size[0]) // 2, window[1] - margin - size[1])
        elif state.paused:
            size = self.sprite("paused", scale, lambda: pause_banner(self._keys, scale))
            places["paused"] = _centred(size, window)
        self._lay_out_messages(places, state, window, scale)
        return places

    def _lay_out_messages(
        self,
        places: dict[str, tuple[int, int]],
        state: HudState,
        window: tuple[int, int],
        scale: float,
    ) -> None:
        """What comes and goes: a prompt being typed, the recording, the timeline, a toast."""
        margin = round(14 * scale)
        if state.entry is not None:
            entry, widest = state.entry, round(ENTRY_SHARE * window[0])
            line = (entry, widest, scale)
            size = self.sprite("entry", line, lambda: prompt_line(entry, widest, scale))
            places["entry"] = ((window[0] - size[0]) // 2, round(0.86 * window[1]) - size[1])
        if state.recorded_s is not None:
            seconds = state.recorded_s
            size = self.sprite("record", (seconds, scale), lambda: recording(seconds, scale))
            places["record"] = (window[0] - margin - size[0], margin)
        if state.timeline is not None and not state.help:
            self._lay_out_timeline(places, state.timeline, state.paused, window, scale)
        if state.toast and not state.help:
            size = self.sprite("toast", (state.toast, scale), lambda: toast(state.toast, scale))
            # Above the lines at the lower edge.
            places["toast"] = ((window[0] - size[0]) // 2, window[1] - 5 * margin - size[1])

    def _lay_out_timeline(
        self,
        places: dict[str, tuple[int, int]],
        bar: TimelineBar,
        paused: bool,
        window: tuple[int, int],
        scale: float,
    ) -> None:
        """In the upper middle, where it hides neither the status nor the lines below."""
        width = round(TIMELINE_SHARE * window[0])
        cause = (bar, paused, width, scale)
        size = self.sprite(
            "timeline", cause, lambda: timeline(bar, paused, self._keys, width, scale)
        )
        places["timeline"] = ((window[0] - size[0]) // 2, round(0.8 * window[1]) - size[1])

    def _lay_out_loading(
        self,
        places: dict[str, tuple[int, int]],
        state: HudState,
        window: tuple[int, int],
        scale: float,
    ) -> None:
        cause = (state.model, state.loading, scale)
        size = self.sprite("title", cause, lambda: loading_title(state.model, state.loading, scale))
        left, top = _centred(size, window)
        places["title"] = (left, top)
        width, height = (round(side * scale) for side in LOADING_BAR)
        light = round(LOADING_LIGHT * scale)
        self.sprite("bar", scale, lambda: paint.rounded((width, height), height // 2, paint.TRACK))
        self.sprite(
            "light", scale, lambda: paint.rounded((light, height), height // 2, paint.ACCENT)
        )
        left, top = (window[0] - width) // 2, top + size[1] + round(22 * scale)
        places["bar"] = (left, top)
        places["light"] = (left + round((width - light) * state.loading_phase), top)

    def sprite(self, name: str, cause: object, painter: Callable[[], Surface]) -> tuple[int, int]:
        known = self._painted.get(name)
        if known is not None and known[0] == cause:
            return known[1]
        surface = painter().premul_alpha()
        self._sprites.upload(name, surface.get_size(), surface.get_view("1").raw)
        self._painted[name] = (cause, surface.get_size())
        return surface.get_size()


def status_of(state: HudState) -> tuple[str, str, bool]:
    """The two lines of the status panel, and whether the world runs slower than its clock."""
    scene = f" · {state.scene}" if state.scene else ""
    world = f"{state.model}{scene} · seed {state.seed}"
    world += f" · {state.prompt}" if state.prompt else ""
    slow = 0.0 < state.generated_fps < SLOW * state.world_fps
    if state.paused:
        return world, "paused", False
    if state.timeline is not None:
        return world, "time runs backwards", False
    speed = (
        f"{state.generated_fps:.1f} frames/s generated · {state.shown_fps:.0f} shown"
        f" · {state.step_ms:.0f} ms a step"
    )
    if state.effort:
        speed += f" · {state.effort}"
    if state.runtime:
        speed += f" · {state.runtime}"
    if not state.timewarp:
        speed += " · timewarp off"
    if slow:
        speed += f" · slow motion, the world runs at {state.world_fps:.0f}"
    return world, speed, slow


def status(state: HudState, scale: float) -> Surface:
    first, second, slow = status_of(state)
    lines = [
        paint.text(first, round(23 * scale)),
        paint.text(second, round(19 * scale), paint.ACCENT if slow else paint.MUTED),
    ]
    return paint.panel(paint.column(lines, round(4 * scale)), round(9 * scale))


def latency_table(lines: tuple[LatencyLine, ...], scale: float) -> Surface:
    """Stages one below the other; what the player feels is lit."""
    height, gap = round(19 * scale), round(14 * scale)

    def number_column(title: str, which: int) -> Surface:
        cells = [paint.text(title, height, paint.MUTED)]
        cells += [paint.text(f"{line[which]}", height, _latency_ink(line[0])) for line in lines]
        width = max(cell.get_width() for cell in cells)
        right = [paint.padded(cell, width, left=width - cell.get_width()) for cell in cells]
        return paint.column(right, round(3 * scale))

    names = [paint.text("latency, ms", height, paint.MUTED)]
    names += [paint.text(line[0], height, _latency_ink(line[0])) for line in lines]
    columns = [number_column(title, 1 + at) for at, title in enumerate(("p50", "p95", "p99"))]
    table = paint.row([paint.column(names, round(3 * scale)), *columns], gap)
    return paint.panel(table, round(9 * scale))


def _latency_ink(stage: str) -> paint.Colour:
    return paint.ACCENT if stage in ("move", "look") else paint.INK


def held_keys(held: frozenset[str], keys: KeyBindings, scale: float) -> Surface:
    """The movement and look keys as they lie on the keyboard, lit while held."""
    height, gap = round(26 * scale), max(2, round(4 * scale))

    def cap(action: str) -> Surface:
        return paint.key_cap(getattr(keys, action)[0], height, lit=action in held)

    def cluster(above: tuple[str, ...], below: tuple[str, ...]) -> Surface:
        rows = [paint.row([cap(action) for action in actions], gap) for actions in (above, below)]
        return paint.column(rows, gap, centred=True)

    walking = cluster(("down", "forward", "up"), ("left", "back", "right"))
    looking = cluster(("look_up",), ("look_left", "look_down", "look_right"))
    return paint.row([walking, looking, cap("run")], round(14 * scale))


def hint(keys: KeyBindings, scale: float) -> Surface:
    words = paint.text("help", round(20 * scale))
    cap = paint.key_cap(keys.help[0], round(22 * scale))
    return paint.panel(paint.row([cap, words], round(7 * scale)), round(6 * scale))


def toast(words: str, scale: float) -> Surface:
    return paint.panel(paint.text(words, round(22 * scale)), round(10 * scale), paint.SHEET)


def pause_banner(keys: KeyBindings, scale: float) -> Surface:
    resume = f"{paint.short_name(keys.pause[0])} or click to go on"
    leave = f"{paint.short_name(keys.leave[0])} to leave"
    lines = [
        paint.text("Paused", round(52 * scale)),
        paint.text(f"{resume}   ·   {leave}", round(22 * scale), paint.MUTED),
    ]
    return paint.panel(paint.column(lines, round(10 * scale), centred=True), round(26 * scale))


def prompt_line(entry: PromptEntry, widest: int, scale: float) -> Surface:
    """The line with its completion, the words there are, and what is wrong."""
    height = round(26 * scale)
    wrong = bool(entry.unknown) and not entry.completion  # a word half typed is not wrong yet
    line = [
        paint.text("Prompt:", height, paint.MUTED),
        paint.text(" " + entry.text, height, paint.RECORD if wrong else paint.INK),
        paint.text(entry.completion or "_", height, paint.MUTED),
    ]
    chips = [
        _chip(word, word in entry.words, index == entry.marked, scale)
        for index, word in enumerate(entry.vocabulary)
    ]
    rows = paint.wrapped(chips, widest, round(6 * scale))
    if wrong:
        told = f"unknown: {', '.join(entry.unknown)}"
        note = paint.text(told, round(19 * scale), paint.RECORD)
    else:
        words = "words with commas between · Tab completes · Enter applies · Esc leaves"
        if entry.marked is not None:
            words = "cross: choose · A: add or take away · Start: apply · B: leave"
        note = paint.text(words, round(19 * scale), paint.MUTED)
    parts = [paint.row(line, 0), rows, note]
    return paint.panel(paint.column(parts, round(10 * scale)), round(14 * scale), paint.SHEET)


def _chip(word: str, lit: bool, marked: bool, scale: float) -> Surface:
    label = paint.text(word, round(20 * scale), paint.DARK_INK if lit else paint.INK)
    width, height = label.get_width() + round(18 * scale), label.get_height() + round(8 * scale)
    fill = paint.ACCENT if lit else paint.CAP
    rim = paint.INK if marked else paint.ACCENT if lit else paint.CAP_RIM
    chip = paint.rounded((width, height), height // 2, fill, rim)
    chip.blit(label, label.get_rect(center=chip.get_rect().center))
    return chip


def recording(seconds: int, scale: float) -> Surface:
    """A red light and for how long."""
    side = round(14 * scale)
    light = paint.rounded((side, side), side // 2, paint.RECORD)
    words = paint.text(f"{seconds // 60}:{seconds % 60:02d}", round(20 * scale))
    return paint.panel(paint.row([light, words], round(7 * scale)), round(7 * scale))


def timeline(
    bar: TimelineBar, paused: bool, keys: KeyBindings, width: int, scale: float
) -> Surface:
    """How far back the world has gone, in what is remembered."""
    back_s, all_s = bar
    height = max(3, round(5 * scale))
    at = round(width * (1.0 - back_s / all_s)) if all_s > 0.0 else width
    knob = 3 * height
    track = Surface((width + knob, knob), pygame.SRCALPHA)
    track.blit(paint.rounded((width, height), height // 2, paint.TRACK), (knob // 2, height))
    if at > height:
        track.blit(paint.rounded((at, height), height // 2, paint.ACCENT), (knob // 2, height))
    track.blit(paint.rounded((knob, knob), knob // 2, paint.ACCENT), (at, 0))
    forward = keys.pause[0] if paused else keys.rewind[0]
    goes_on = "goes on from here" if paused else "released goes on from here"
    words = [
        paint.text(f"{back_s:.1f} s back", round(24 * scale)),
        paint.text(f"of {all_s:.0f} s", round(19 * scale), paint.MUTED),
        paint.key_cap(forward, round(22 * scale)),
        paint.text(goes_on, round(19 * scale), paint.MUTED),
    ]
    lines = [paint.row(words, round(10 * scale)), track]
    return paint.panel(paint.column(lines, round(8 * scale), centred=True), round(12 * scale))


def photo_line(keys: KeyBindings, scale: float) -> Surface:
    """One quiet line, so that the picture stays free."""
    height = round(22 * scale)

    def entry(key: str, words: str) -> Surface:
        parts = [paint.key_cap(key, height), paint.text(words, round(20 * scale))]
        return paint.row(parts, round(7 * scale))

    entries = [
        paint.text("Paused · look around", round(20 * scale), paint.ACCENT),
        entry(keys.step_back[0], "step back"),
        entry(keys.step_forward[0], "step on"),
        entry(keys.screenshot[0], "picture"),
        entry(keys.pause[0], "go on"),
    ]
    return paint.panel(paint.row(entries, round(22 * scale)), round(7 * scale))


def loading_title(model: str, waiting_for: str, scale: float) -> Surface:
    lines = [
        paint.text(model, round(64 * scale)),
        paint.text(waiting_for, round(22 * scale), paint.MUTED),
    ]
    return paint.column(lines, round(10 * scale), centred=True)


def _centred(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    return (window[0] - size[0]) // 2, (window[1] - size[1]) // 2
