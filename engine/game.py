"""The game as the player meets it: events, actions, presentation. Runs on the main thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import moderngl
import numpy as np
import pygame
from numpy.typing import NDArray
from PIL import Image
from pygame.event import Event

from engine.choosing import DIRECTIONS, Chooser
from engine.controls import REWIND
from engine.events import LATENCY
from engine.hud import Hud, HudState, LatencyLine, TimelineBar
from engine.input import PlayerInput
from engine.latency import LatencyLog, write_report
from engine.loop import Generated, GenerationLoop, Prepare, scene_of
from engine.output import free_name
from engine.pacing import RateMeter, draw_period_s, frame_due
from engine.painting import short_name
from engine.prompt import PromptEntry
from engine.recording import Recorder
from engine.saves import SavedGame, StateFormat, describe, find_saves, read_save, write_save
from engine.scene import Scene, read_image
from engine.settings import PlayConfig
from engine.timewarp import NO_WARP, frame_from_view
from engine.title import MOST_SAVES, Card, TitleScreen, label_of
from engine.viewer import SpriteLayer, Viewer
from engine.warmup import Waiting
from engine.window import Window
from worldmodel.prompts import GROUPS, Group, choices, with_next

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
        self.viewer = Viewer(self.window.context, config.window.sharpness)
        self._sprites = SpriteLayer(self.window.context)
        self._hud = Hud(self._sprites, config.keys)
        self._waiting = waiting or Waiting()
        self._config = config
        self._model, self._model_folder = model.name, model
        self._scenes = scenes
        self._states = states
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
        self.entry: PromptEntry | None = None  # while a prompt is typed
        self._awaited: Scene | None = None  # chosen, and no frame of it was seen yet
        self.recorder: Recorder | None = None
        self._record_into = record  # once play begins
        self._unchecked: SavedGame | None = None
        self._entry_key = False  # the letter of the key that opened the line is still to come
        self.paused = False
        self.photo = False  # paused, and still looking around
        self.timewarp = config.window.timewarp
        self._warp = NO_WARP
        self.help = False
        self.leaving = False
        self._hud_level = 1 if config.window.hud else 0  # 2: with latencies
        self._shown: tuple[int, int] | None = None  # step and frame on show
        self._frame: NDArray[np.uint8] | None = None  # its pixels
        self._drawn_meter = RateMeter()
        self.latency = LatencyLog()
        self._unshown: Generated | None = None  # taken, and not on the screen yet
        self._look_since_s: float | None = None  # an input has turned the view, undrawn so far
        self._polled_s = time.monotonic()
        self._frames_shown = 0
        self._status = HudState(model.name)
        self._status_due_s = 0.0
        self._toast, self._toast_until_s = "", 0.0
        self._dirty = True
        self._next_draw_s = 0.0
        if title:
            self._open_title()
        if record is not None and self.title is None:
            self.start_recording(record)

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
            self.viewer.show(self.scene.image)  # something to look at while the model loads
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
        folder = free_name(Path(self._config.saves), self._model, "")
        try:
            write_save(folder, saved, self._states)
        except OSError as full:
            return f"{told}, and the walk could not be saved ({full.strerror or full})"
        return f"{told}; the walk is saved: play.py --load {folder.name} goes on"

    def close(self) -> None:
        self.loop.stop()
        self.stop_recording()
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
        self._write_save()
        self._watch_recording()
        news = self.loop.take_effort_news()
        if news:
            self._say(f"{news} · {short_name(self._config.keys.effort[0])} chooses")
        self._check_chosen()
        newest = self._newest_awaited()
        if newest is not None:
            self._take_frame(newest, now_s)
            self._look_around(newest)
        if self.title is not None:
            toast = self._toast if now_s < self._toast_until_s else ""
            self._dirty |= self.title.update(self._model, self.window.size, toast)
        else:
            state = self._hud_state(newest, now_s)
            self._dirty |= self._hud.update(state, self.window.size)
        fresh = self._unshown is not None  # a finished frame waits for nothing but the display
        if self._dirty and (fresh or now_s >= self._next_draw_s):
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
        if self._dirty:
            return max(0.0, self._next_draw_s - now_s)
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

    def _take_frame(self, newest: Generated, now_s: float) -> None:
        assert self.loop.spec is not None, "frames come from an open model"
        rate = self.loop.spec.frames_per_second
        due = (newest.number, frame_due(newest.ready_s, now_s, len(newest.frames), rate))
        if due == self._shown:
            return
        if self._shown is None and self._config.window.capture_mouse:
            self._capture_mouse(True)
        another = self._shown is None or newest.number != self._shown[0]
        frame = newest.frames[due[1]]
        self._shown = due
        if self._frame is None or not np.array_equal(frame, self._frame):  # at rest it is
            self.viewer.show(frame)
            self._frame = frame
            self._unshown = newest if another else self._unshown
            self._dirty = True

    def _look_around(self, newest: Generated) -> None:
        """Find out how the frame on show looks from the camera of this instant."""
        warp = NO_WARP
        if self.timewarp:
            assert self._shown is not None, "a frame was taken"
            camera = newest.camera_of(self._shown[1])
            warp = frame_from_view(camera, self.loop.view(newest))
        if not np.array_equal(warp, self._warp):
            self._dirty = True
        self._warp = warp

    def _draw(self, newest: Generated | None, now_s: float) -> None:
        if newest is None:
            brightness = LOADING_DIMMED
            self._warp = NO_WARP
        else:
            brightness = DIMMED if self.help or (self.paused and not self.photo) else 1.0
        size = self.window.size
        self.viewer.draw(self.window.target, size, brightness, self._warp)
        places = self._hud.places if self.title is None else self.title.places
        self._sprites.draw(self.window.target, size, places)
        self.window.flip()
        self._dirty = False
        flipped_s = time.monotonic()
        self._drawn_meter.add(flipped_s)
        self.latency.add("draw", flipped_s - now_s)
        self._measure(flipped_s)
        window = self.window
        took_s = flipped_s - now_s
        self._next_draw_s = now_s + draw_period_s(
            window.refresh_hz, took_s, vsync=window.vsync, software=window.software
        )

    def _measure(self, flipped_s: float) -> None:
        if self._unshown is not None:
            new, self._unshown = self._unshown, None
            self._frames_shown += len(new.frames)
            self.latency.add_step(
                new.times,
                input_s=new.input_s,
                began_s=new.began_s,
                ready_s=new.ready_s,
                shown_s=flipped_s,
            )
        if self._look_since_s is not None:
            self.latency.add("look", flipped_s - self._look_since_s)
            self._look_since_s = None

    @property
    def drawn(self) -> int:
        """Pictures on the display so far."""
        return self._drawn_meter.total

    def write_report(self, path: Path, **facts: Any) -> None:
        """The latencies of this session, and `facts`, for `--report`."""
        write_report(
            path,
            self.latency,
            model=self._model,
            frames=self._frames_shown,
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
                shown_fps=round(self._drawn_meter.rate(now_s), 1),
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
            entry=self.entry,
            recorded_s=self._recorded_s(now_s),
            paused=self.paused,
            photo=self.photo,
            timewarp=self.timewarp,
            help=self.help,
            without=self._without(),
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
        return None if self.recorder is None else int(now_s - self.recorder.began_s)

    def _latency_lines(self) -> tuple[LatencyLine, ...]:
        if self._hud_level < 2:
            return ()
        measured = self.latency.percentiles()
        return tuple(
            (stage, round(values.p50_ms), round(values.p95_ms), round(values.p99_ms))
            for stage, values in measured.items()
        )

    def _handle(self, event: Event, arrived_s: float) -> None:
        if self.title is not None and self._handle_title(event, self.title):
            return
        if self.entry is not None and self._handle_entry(event, self.entry):
            self._dirty = True
            return
        action = self.input.handle(event, arrived_s)
        if event.type == pygame.MOUSEMOTION and self.input.mouse_looks and self.timewarp:
            self._look_since_s = self._look_since_s or arrived_s
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
            self._dirty = True

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "pause": lambda: self._pause(not self.paused, photo=self.timewarp),
            "reset": lambda: self._begin(self.scene),
            "new_seed": lambda: self._begin(replace(self.scene, seed=random.randrange(2**31))),
            "step_back": lambda: self._nudge(-1),
            "step_forward": lambda: self._nudge(1),
            "save": self.loop.save,
            "load": self._load,
            "record": self._toggle_recording,
            "worlds": self._open_title,
            "prompt": self._open_prompt,
            "time_of_day": lambda: self._next_word("time of day"),
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
        if pad and self.entry is not None:
            self.entry = self.entry.moved(1)  # something for the buttons to act on
        self._dirty = True

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

    def _without(self) -> frozenset[str]:
        """Actions for which the model has no words."""
        vocabulary = self._vocabulary()
        missing = {group.replace(" ", "_") for group in GROUPS if not choices(group, vocabulary)}
        return frozenset(missing if vocabulary else {*missing, "prompt"})

    def _next_word(self, group: Group) -> None:
        """Another hour, or other weather; the walk goes on."""
        if not choices(group, self._vocabulary()):
            self._say(f"{self._model} knows no words for the {group}")
            return
        prompt = with_next(self.scene.prompt, group, self._vocabulary())
        self.loop.set_prompt(prompt)
        self._say(f"prompt: {prompt}")

    def _open_prompt(self) -> None:
        """Type what the world is to be like; it goes on meanwhile."""
        vocabulary = self._vocabulary()
        if not vocabulary:
            self._say(f"{self._model} takes no prompt")
            return
        self.input.release_all()
        self.help = False
        self.entry = PromptEntry(vocabulary, self.scene.prompt)
        self._entry_key = True

    def _handle_entry(self, event: Event, entry: PromptEntry) -> bool:
        """True if the event belongs to the line that is typed."""
        if event.type == pygame.TEXTINPUT:
            if not self._entry_key:  # the letter that opened the line is not part of it
                self.entry = entry.typed(event.text)
            self._entry_key = False
        elif event.type == pygame.KEYDOWN:
            self._entry_key = False
            if event.key == pygame.K_BACKSPACE:
                self.entry = entry.erased()
            elif event.key == pygame.K_TAB:
                self.entry = entry.completed()
            elif event.key == pygame.K_RETURN:
                self._apply_prompt(entry)
            elif event.key == pygame.K_ESCAPE:
                self.entry = None
        elif event.type == pygame.CONTROLLERBUTTONDOWN:
            self._entry_button(self._chooser.pad(event), entry)
        else:
            return False
        return True

    def _entry_button(self, meaning: str, entry: PromptEntry) -> None:
        if meaning in DIRECTIONS:
            self.entry = entry.moved(sum(DIRECTIONS[meaning]))
        elif meaning == "choose":
            self.entry = entry.toggled()
        elif meaning == "start":
            self._apply_prompt(entry)
        elif meaning == "leave":
            self.entry = None

    def _apply_prompt(self, entry: PromptEntry) -> None:
        try:
            self.loop.set_prompt(entry.text)
        except ValueError:  # the line names them in red
            return
        self.entry = None
        self._say(f"prompt: {entry.text}" if entry.words else "no prompt")

    def _open_title(self) -> None:
        """Choose a world or a save; the one that is played waits."""
        worlds = [Card(label_of(scene.name), "", scene, scene.image) for scene in self._scenes]
        saves = [
            card
            for folder in find_saves(Path(self._config.saves), self._saves_of())[:MOST_SAVES]
            if (card := _save_card(folder)) is not None
        ]
        if not worlds and not saves:
            return
        self._pause(True)
        self.title = TitleScreen(self._hud.sprite, worlds, saves)
        self._select(0)

    def _handle_title(self, event: Event, title: TitleScreen) -> bool:
        """True if the event is of no further interest."""
        if event.type == pygame.MOUSEMOTION:
            self._select(title.card_at(event.pos))
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT:
            if title.card_at(event.pos) is not None:
                self._select(title.card_at(event.pos))
                self._choose(title.card)
        elif event.type == pygame.KEYDOWN:
            self._title_key(self._chooser.key(event), title)
        elif event.type in (pygame.CONTROLLERBUTTONDOWN, pygame.CONTROLLERAXISMOTION):
            self._title_key(self._chooser.pad(event), title)
        else:
            return False
        return True

    def _title_key(self, meaning: str, title: TitleScreen) -> None:
        if meaning in DIRECTIONS:
            title.move(*DIRECTIONS[meaning])
            self._select(title.selected)
        elif meaning in ("choose", "start"):
            self._choose(title.card)
        elif meaning == "leave":
            self._close_title()

    def _select(self, index: int | None) -> None:
        if self.title is None or index is None:
            return
        self.title.selected = index
        if self.title.card.picture is not None:
            self.viewer.show(self.title.card.picture)
        self._dirty = True

    def _choose(self, card: Card) -> None:
        try:
            if isinstance(card.choice, Scene):
                begin: Scene | SavedGame = replace(card.choice, seed=self.scene.seed)
            else:
                begin = read_save(card.choice, self._states)
            if self._record_into is not None:
                self.start_recording(self._record_into)
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
        if self._shown is None:
            self.leaving = True
        else:
            self._leave_title()

    def _leave_title(self) -> None:
        self.title = None
        self._shown = self._frame = None  # the picture behind the cards gives way
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
        self._dirty = True
        if paused == self.paused:
            return
        if self.timewarp:  # what was looked at while nothing moved is on show: it stays
            self.input.drop_taps()
        else:
            self.input.take()  # what was done while nothing moved is not owed later
        self.paused = paused
        self.loop.set_paused(paused)
        self._drawn_meter.clear()

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
        scene = Scene(path.stem, self.scene.seed, image, self.scene.prompt)
        if self.title is not None:
            self._choose(Card(label_of(scene.name), "", scene, image))
        else:
            self._begin(scene)

    def _go_to(self, index: int) -> None:
        if index < len(self._scenes):
            self._begin(replace(self._scenes[index], seed=self.scene.seed))

    def _screenshot(self) -> None:
        if self._shown is None:
            return
        path = free_name(Path(self._config.screenshots), self._model, ".png")
        picture = Image.fromarray(self.viewer.capture(self.window.size, self._warp))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            self._say(f"no screenshot: {error.strerror or error}")
        else:
            self._say(f"saved {path}")

    def _toggle_recording(self) -> None:
        if self.recorder is None:
            folder = free_name(Path(self._config.recordings), self._model, "")
            try:
                self.start_recording(folder)
            except OSError as error:
                self._say(f"cannot record: {error.strerror or error}")
        else:
            folder = self.recorder.folder
            self.stop_recording()
            self._say(f"recorded {folder}")

    def start_recording(self, folder: Path) -> None:
        self._record_into = None
        self.recorder = Recorder(folder, self._states, self._model_folder)
        self.loop.record(self.recorder)

    def stop_recording(self) -> None:
        self.loop.record(None)
        if self.recorder is None:
            return
        recorder, self.recorder = self.recorder, None
        recorder.close()
        if recorder.error:
            return
        try:
            self.write_report(recorder.folder / LATENCY)
        except OSError as error:
            self._say(f"{recorder.folder}: {error.strerror or error}")

    def _watch_recording(self) -> None:
        """A recording that has failed ends; the game goes on."""
        if self.recorder is not None and self.recorder.error:
            error = self.recorder.error
            self.stop_recording()
            self._say(f"recording stopped: {error}")

    def _write_save(self) -> None:
        """On this thread: the world goes on meanwhile."""
        saved = self.loop.take_saved()
        if saved is None:
            return
        folder = free_name(Path(self._config.saves), self._model, "")
        try:
            write_save(folder, saved, self._states)
        except OSError as error:
            self._say(f"not saved: {error.strerror or error}")
        else:
            self._say(f"saved as {folder.name} · {short_name(self._config.keys.load[0])} goes back")

    def _saves_of(self) -> str:
        """Whose saves can be gone on from: all, until the model is open and has told its name."""
        return "" if self.loop.spec is None else self.loop.spec.name

    def _load(self) -> None:
        slots = find_saves(Path(self._config.saves), self._saves_of())
        if not slots:
            self._say(f"no save of {self._model} in {self._config.saves}/")
            return
        try:
            saved = read_save(slots[0], self._states)
            self.loop.reset(saved)
        except (ValueError, OSError) as error:  # the walk goes on as if nothing had been asked
            self._say(str(error))
        else:
            self._say(f"back in {slots[0].name}")

    def _say(self, words: str) -> None:
        self._toast, self._toast_until_s = words, time.monotonic() + TOAST_S


def _save_card(folder: Path) -> Card | None:
    """None for a slot that cannot be read."""
    try:
        slot = describe(folder)
        picture = read_image(folder / "picture.png")
    except ValueError:
        return None
    today = slot.saved.date() == datetime.now().date()
    when = f"{slot.saved:%H:%M}" if today else f"{slot.saved:%d %b}"
    return Card(label_of(slot.scene), when, folder, picture)
