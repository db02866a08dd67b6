"""The game as the player meets it: events, actions, presentation. Runs on the main thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import moderngl
import pygame
from pygame.event import Event

from engine.choosing import Chooser
from engine.controls import REWIND
from engine.hud import Hud, HudState, LatencyLine, TimelineBar
from engine.input import PlayerInput
from engine.keepsakes import Keepsakes
from engine.latency import write_report
from engine.loop import Generated, GenerationLoop, Prepare, scene_of
from engine.painting import short_name
from engine.prompting import Prompting, without
from engine.saves import SavedGame, StateFormat, read_save
from engine.scene import Scene, read_image
from engine.screen import Screen
from engine.settings import PlayConfig
from engine.title import MOST_SAVES, Card, TitleScreen, save_card, world_card
from engine.warmup import Waiting
from engine.window import Window

PAUSED_WAIT_S = 0.25
LOADING_WAIT_S = 1 / 15  # as often as frames will come: drawing may slow the model measured now
STATUS_PERIOD_S = 0.25
RESCUE_S = 10.0  # a step may be running
TOAST_S = 2.5
EVENT_WAS_THERE_S = 0.0005
LOADING_SWEEP_S = 1.4
DIMMED = 0.45
LOADING_DIMMED = 0.35
REDRAW_EVENTS = (
    pygame.WINDOWSIZECHANGED,
    pygame.WINDOWEXPOSED,
    pygame.WINDOWRESTORED,
)


class Game:
    """One window, one world. `run` returns when the player leaves."""

    def __init__(
        self,
        prepare: Prepare,
        begin: Scene | SavedGame,
        scenes: Sequence[Scene],
        model: Path,
        config: PlayConfig,
        states: StateFormat,
        record: Path | None = None,
        title: bool = False,
        waiting: Waiting | None = None,
    ) -> None:
        """Play begins with `begin`; the digit keys lead to `scenes`, and `states` writes saves.

        `model` is the model's folder; `record`: record into that folder from the first frame on.
        `title`: first let the player choose. `waiting`: what is shown until there is a frame.
        """
        self.window = Window(config.window, f"{model.name} · world model")
        self.input = PlayerInput(config.keys, config.controls)
        self.screen = Screen(self.window, config.window)
        self._hud = Hud(self.screen.sprites, config.keys)
        self._waiting = waiting or Waiting()
        self._config = config
        self._model = model.name
        self._scenes = scenes
        self._wake = pygame.event.custom_type()
        self.loop = GenerationLoop(
            prepare,
            begin,
            self.input.take,
            config.controls,
            peek_input=self.input.peek,
            history=config.history,
            effort=config.effort,
            on_change=self._wake_up,
        )
        self.title: TitleScreen | None = None
        self._chooser = Chooser()
        self.prompting = Prompting(self.loop, self._chooser, model.name)
        self.keepsakes = Keepsakes(config, model, states, self.loop, self.write_report)
        self._awaited: Scene | None = None  # chosen, and no frame of it was seen yet
        self._record_into = record  # once play begins
        self._unchecked: SavedGame | None = None
        self.paused = False
        self.photo = False  # paused, and still looking around
        self.timewarp = config.window.timewarp
        self.help = False
        self.leaving = False
        self._hud_level = 1 if config.window.hud else 0  # 2: with latencies
        self._polled_s = time.monotonic()
        self._status = HudState(model.name)
        self._status_due_s = 0.0
        self._toast, self._toast_until_s = "", 0.0
        if title:
            self._open_title()
        if record is not None and self.title is None:
            self.keepsakes.record(record)

    @property
    def scene(self) -> Scene:
        """What is played, or will be in a moment."""
        return self.loop.scene

    def run(self) -> None:
        """Play until the player leaves; an error of the generation thread is raised here.

        Raises:
            ValueError: if the window or its OpenGL context is lost; says where the walk is saved.
        """
        if self.title is None and self.scene.image is not None:
            self.screen.show_picture(self.scene.image)  # something to look at while the model loads
        self.loop.start()
        try:
            while not self.leaving:
                self.tick()
        except (pygame.error, moderngl.Error) as error:
            raise ValueError(self._rescue(error)) from error
        finally:
            self.close()

    def _rescue(self, error: Exception) -> str:
        """The window is gone, the world is not: keep it. Returns what to tell the player."""
        told = f"the window was lost ({error})"
        self.loop.save()
        deadline_s = time.monotonic() + RESCUE_S
        while (saved := self.loop.take_saved()) is None:
            if self.loop.newest() is None or time.monotonic() > deadline_s:
                return told
            time.sleep(0.01)
        try:
            slot = self.keepsakes.write_save(saved)
        except OSError as full:
            return f"{told}, and the walk could not be saved ({full.strerror or full})"
        return f"{told}; the walk is saved: play.py --load {slot.name} goes on"

    def close(self) -> None:
        self.loop.stop()
        self.keepsakes.stop_recording()
        self.input.close()
        self.window.close()

    def tick(self) -> None:
        """Wait for something to happen, at most until the next moment that needs drawing."""
        began_s = time.monotonic()
        first = pygame.event.wait(max(1, round(1000 * self._wait_s(began_s))))
        now_s = time.monotonic()
        # pygame says not when an event arrived. One that was there already may have waited since the
        # last look: latencies count the most it can have been.
        arrived_s = self._polled_s if now_s - began_s < EVENT_WAS_THERE_S else now_s
        for event in (first, *pygame.event.get()):
            self._handle(event, arrived_s)
        self._polled_s = now_s
        self.loop.set_rewinding(REWIND in self.input.held())
        self._watch_disk()
        news = self.loop.take_effort_news()
        if news:
            self._say(f"{news} · {short_name(self._config.keys.effort[0])} chooses")
        self._check_chosen()
        newest = self._newest_awaited()
        if newest is not None:
            self._show(newest, now_s)
        if self.title is not None:
            toast = self._toast if now_s < self._toast_until_s else ""
            self.screen.dirty |= self.title.update(self._model, self.window.size, toast)
        else:
            state = self._hud_state(newest, now_s)
            self.screen.dirty |= self._hud.update(state, self.window.size)
        if self.screen.due(now_s):
            self._draw(newest, now_s)

    def _newest_awaited(self) -> Generated | None:
        """None while the title screen is open, and until the world chosen there has a frame."""
        newest = self.loop.newest()
        if self.title is not None:
            return None
        if newest is not None and self._awaited is not None:
            if newest.scene is not self._awaited:
                return None
            self._awaited = None
        return newest

    def _wait_s(self, now_s: float) -> float:
        if self.screen.dirty:
            return self.screen.wait_s(now_s)
        if self.title is not None:
            return PAUSED_WAIT_S
        if self.loop.spec is None or self._awaited is not None:
            return LOADING_WAIT_S
        # New frames and input end the wait at once. A step of several frames needs the clock, and so
        # does a view that turns by itself while a key is held.
        several = self.loop.spec.frames_per_step > 1 and not self.paused
        turning = self.timewarp and self.input.looking()
        return 1 / self.window.refresh_hz if several or turning else PAUSED_WAIT_S

    def _wake_up(self) -> None:
        if pygame.display.get_init():
            pygame.event.post(Event(self._wake))

    def _show(self, newest: Generated, now_s: float) -> None:
        """The frame that is due, from where the player looks."""
        assert self.loop.spec is not None, "frames come from an open model"
        if self.screen.shown is None and self._config.window.capture_mouse:
            self._capture_mouse(True)
        self.screen.take(newest, self.loop.spec.frames_per_second, now_s)
        if self.timewarp:
            self.screen.look_from(self.loop.view(newest), newest)
        else:
            self.screen.look_straight()

    def _draw(self, newest: Generated | None, now_s: float) -> None:
        brightness = DIMMED if self.help or (self.paused and not self.photo) else 1.0
        if newest is None:
            brightness = LOADING_DIMMED
            self.screen.look_straight()
        places = self._hud.places if self.title is None else self.title.places
        self.screen.draw(places, brightness, now_s)

    def write_report(self, path: Path, **facts: Any) -> None:
        """The latencies of this session, and `facts`, for `--report`."""
        write_report(
            path,
            self.screen.latency,
            model=self._model,
            frames=self.screen.frames,
            display_hz=self.window.refresh_hz,
            opengl=self.window.renderer,
            timewarp=self.timewarp,
            runtime=self.loop.spec.runtime if self.loop.spec is not None else "",
            **facts,
        )

    def _hud_state(self, newest: Generated | None, now_s: float) -> HudState:
        spec = self.loop.spec
        if newest is None or spec is None:
            phase = abs(2.0 * (now_s / LOADING_SWEEP_S % 1.0) - 1.0)
            return HudState(self._model, loading=self._waiting.words, loading_phase=round(phase, 3))
        if now_s >= self._status_due_s:
            self._status_due_s = now_s + STATUS_PERIOD_S
            self.window.check()
            stats = self.loop.stats()
            self._status = replace(
                self._status,
                world_fps=spec.frames_per_second,
                generated_fps=round(stats.frames_per_second, 1),
                shown_fps=round(self.screen.meter.rate(now_s), 1),
                step_ms=round(1000 * stats.step_s),
                effort=stats.effort,
                latency=self._latency_lines(),
            )
        return replace(
            self._status,
            runtime=spec.runtime,
            scene=newest.scene.name,
            seed=newest.scene.seed,
            prompt=newest.scene.prompt,
            held=self.input.held(),
            toast=self._toast if now_s < self._toast_until_s else "",
            timeline=self._timeline_of_now(),
            entry=self.prompting.entry,
            recorded_s=self._recorded_s(now_s),
            paused=self.paused,
            photo=self.photo,
            timewarp=self.timewarp,
            help=self.help,
            without=without(self._vocabulary()),
            visible=self._hud_level > 0,
        )

    def _timeline_of_now(self) -> TimelineBar | None:
        """Seconds gone back, of how many; None while the world goes forward."""
        timeline = self.loop.timeline()
        if timeline.at is None:
            return None
        last = timeline.moments - 1
        seconds = timeline.seconds_per_moment
        return round((last - timeline.at) * seconds, 1), round(last * seconds, 1)

    def _recorded_s(self, now_s: float) -> int | None:
        recorder = self.keepsakes.recorder
        return None if recorder is None else int(now_s - recorder.began_s)

    def _latency_lines(self) -> tuple[LatencyLine, ...]:
        if self._hud_level < 2:
            return ()
        measured = self.screen.latency.percentiles()
        return tuple(
            (stage, round(values.p50_ms), round(values.p95_ms), round(values.p99_ms))
            for stage, values in measured.items()
        )

    def _handle(self, event: Event, arrived_s: float) -> None:
        if self.title is not None and self._handle_title(event, self.title):
            return
        said = self.prompting.handle(event)
        if said is not None:
            self._say(said)
            self.screen.dirty = True
            return
        action = self.input.handle(event, arrived_s)
        if event.type == pygame.MOUSEMOTION and self.input.mouse_looks and self.timewarp:
            self.screen.turned(arrived_s)
        if action is not None:
            self._act(action, pad=event.type == pygame.CONTROLLERBUTTONDOWN)
        elif event.type == pygame.QUIT:
            self.leaving = True
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT:
            self._capture_mouse(True)
            self._pause(False)
        elif event.type == pygame.KEYDOWN and pygame.K_1 <= event.key <= pygame.K_9:
            self._go_to(event.key - pygame.K_1)
        elif event.type == pygame.DROPFILE:
            self._open_picture(Path(event.file))
        elif event.type in REDRAW_EVENTS:
            self.screen.dirty = True

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "pause": lambda: self._pause(not self.paused, photo=self.timewarp),
            "reset": lambda: self._begin(self.scene),
            "new_seed": lambda: self._begin(replace(self.scene, seed=random.randrange(2**31))),
            "step_back": lambda: self._nudge(-1),
            "step_forward": lambda: self._nudge(1),
            "save": self.loop.save,
            "load": lambda: self._say(self.keepsakes.go_back()),
            "record": lambda: self._say(self.keepsakes.toggle_recording()),
            "worlds": self._open_title,
            "prompt": self._open_prompt,
            "time_of_day": lambda: self._next_word("time_of_day"),
            "weather": lambda: self._next_word("weather"),
            "full_screen": self._toggle_full_screen,
            "screenshot": self._screenshot,
            "help": self._toggle_help,
            "hud": self._next_hud,
            "timewarp": self._toggle_timewarp,
            "effort": self._choose_effort,
            "leave": self._step_back,
        }

    def _act(self, action: str, *, pad: bool) -> None:
        self._actions()[action]()
        if pad:
            self.prompting.mark_first()
        self.screen.dirty = True

    def _choose_effort(self) -> None:
        chosen = self.loop.choose_effort()
        self._say(chosen or f"{self._model} has no fewer steps and no shorter memory")

    def _nudge(self, moments: int) -> None:
        self._pause(True, photo=self.timewarp)
        self.loop.nudge(moments)

    def _toggle_full_screen(self) -> None:
        if not self.window.toggle_full_screen():
            self._say("full screen is not available on this display")

    def _toggle_help(self) -> None:
        self.help = not self.help

    def _next_hud(self) -> None:
        self._hud_level = (self._hud_level + 1) % 3

    def _toggle_timewarp(self) -> None:
        self.timewarp = not self.timewarp
        self._say(f"timewarp {'on' if self.timewarp else 'off'}")

    def _vocabulary(self) -> tuple[str, ...]:
        """Empty until there is a world whose words could be changed."""
        waiting = self.loop.spec is None or self._awaited is not None
        return () if waiting or self.loop.spec is None else self.loop.spec.vocabulary

    def _next_word(self, action: str) -> None:
        self._say(self.prompting.next_word(action, self._vocabulary()))

    def _open_prompt(self) -> None:
        said = self.prompting.open(self._vocabulary())
        self._say(said)
        if not said:
            self.input.release_all()
            self.help = False

    def _open_title(self) -> None:
        """Choose a world or a save; the one that is played waits."""
        worlds = [world_card(scene) for scene in self._scenes]
        cards = (save_card(slot) for slot in self.keepsakes.slots()[:MOST_SAVES])
        saves = [card for card in cards if card is not None]
        if not worlds and not saves:
            return
        self._pause(True)
        self.title = TitleScreen(self._hud.sprite, worlds, saves)
        self._show_card(self.title.card)

    def _handle_title(self, event: Event, title: TitleScreen) -> bool:
        """True if the event is of no further interest."""
        before = title.selected
        asked = title.handle(event, self._chooser)
        if title.selected != before:
            self._show_card(title.card)
        if asked == "choose":
            self._choose(title.card)
        elif asked == "leave":
            self._close_title()
        return asked is not None

    def _show_card(self, card: Card) -> None:
        if card.picture is not None:
            self.screen.show_picture(card.picture)

    def _choose(self, card: Card) -> None:
        try:
            if isinstance(card.choice, Scene):
                begin: Scene | SavedGame = replace(card.choice, seed=self.scene.seed)
            else:
                begin = read_save(card.choice, self.keepsakes.states)
            if self._record_into is not None:
                self.keepsakes.record(self._record_into)
                self._record_into = None
            if isinstance(begin, SavedGame) and self.loop.spec is None:
                self._unchecked = begin  # whether it fits is known once the model is open
            else:
                self.loop.reset(begin)
        except (ValueError, OSError) as error:  # a damaged save, or another model's; a full disk
            self._say(str(error))
            return
        self._awaited = scene_of(begin)
        self._leave_title()

    def _check_chosen(self) -> None:
        """Begin the save that was chosen before the model was open, if it fits."""
        if self._unchecked is None or self.loop.spec is None:
            return
        saved, self._unchecked = self._unchecked, None
        try:
            self.loop.reset(saved)
        except ValueError as error:
            self._awaited = None
            self._say(str(error))

    def _close_title(self) -> None:
        """Back to the world that is played; without one, leave."""
        if self.screen.shown is None:
            self.leaving = True
        else:
            self._leave_title()

    def _leave_title(self) -> None:
        self.title = None
        self.screen.forget()  # the picture behind the cards gives way
        self.input.release_all()
        self._pause(False)

    def _step_back(self) -> None:
        """Close the help, else free the mouse and pause, else leave."""
        if self.help:
            self.help = False
        elif self.loop.spec is None or (self.paused and not self.photo):
            self.leaving = True
        else:
            self._pause(True)

    def _pause(self, paused: bool, photo: bool = False) -> None:
        """`photo`: the mouse goes on looking around."""
        if paused and not photo:
            self._capture_mouse(False)
        self.photo = paused and photo
        self.screen.dirty = True
        if paused == self.paused:
            return
        if self.timewarp:  # what was looked at while nothing moved is on show: it stays
            self.input.drop_taps()
        else:
            self.input.take()  # what was done while nothing moved is not owed later
        self.paused = paused
        self.loop.set_paused(paused)
        self.screen.meter.clear()

    def _capture_mouse(self, captured: bool) -> None:
        self.window.capture_mouse(captured)
        self.input.mouse_looks = captured

    def _begin(self, scene: Scene) -> None:
        self.loop.reset(scene)
        self._say(f"{scene.name or 'new world'} · seed {scene.seed}")

    def _open_picture(self, path: Path) -> None:
        """A picture that was dropped on the window becomes a world."""
        try:
            image = read_image(path)
        except ValueError as error:
            self._say(str(error))
            return
        scene = Scene(path.stem, self.scene.seed, image)  # the words of another world do not fit it
        if self.title is not None:
            self._choose(world_card(scene))
        else:
            self._begin(scene)

    def _go_to(self, index: int) -> None:
        if index < len(self._scenes):
            self._begin(replace(self._scenes[index], seed=self.scene.seed))

    def _screenshot(self) -> None:
        if self.screen.shown is not None:
            self._say(self.keepsakes.screenshot(self.screen.capture()))

    def _watch_disk(self) -> None:
        """On this thread: the world goes on while a save is written."""
        saved = self.loop.take_saved()
        if saved is not None:
            self._say(self.keepsakes.save(saved))
        self._say(self.keepsakes.watch_recording())

    def _say(self, words: str) -> None:
        """Empty: there is nothing to say."""
        if words:
            self._toast, self._toast_until_s = words, time.monotonic() + TOAST_S
