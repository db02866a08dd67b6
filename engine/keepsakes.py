"""What a player keeps on disk: screenshots, saves and recordings. A full disk never ends the walk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.events import LATENCY
from engine.loop import GenerationLoop
from engine.output import free_name
from engine.painting import short_name
from engine.recording import Recorder
from engine.saves import SavedGame, StateFormat, find_saves, read_save, write_save
from engine.settings import PlayConfig


class Keepsakes:
    """Methods return what to tell the player."""

    def __init__(
        self,
        config: PlayConfig,
        model: Path,
        states: StateFormat,
        loop: GenerationLoop,
        write_report: Callable[[Path], None],
    ) -> None:
        """`write_report` writes the latencies of the session beside a recording that has ended."""
        self.recorder: Recorder | None = None
        self.states = states
        self._config = config
        self._model = model
        self._loop = loop
        self._write_report = write_report

    def screenshot(self, picture: NDArray[np.uint8]) -> str:
        path = free_name(Path(self._config.screenshots), self._model.name, ".png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            return f"no screenshot: {error.strerror or error}"
        return f"saved {path}"

    def save(self, game: SavedGame) -> str:
        try:
            slot = self.write_save(game)
        except OSError as error:
            return f"not saved: {error.strerror or error}"
        return f"saved as {slot.name} · {short_name(self._config.keys.load[0])} goes back"

    def write_save(self, game: SavedGame) -> Path:
        """Raises:
        OSError: if the disk is full or not writable.
        """
        slot = free_name(Path(self._config.saves), self._model.name, "")
        write_save(slot, game, self.states)
        return slot

    def slots(self) -> list[Path]:
        """The newest first. Those of all models, until the model is open and has told its name."""
        spec = self._loop.spec
        return find_saves(Path(self._config.saves), "" if spec is None else spec.name)

    def go_back(self) -> str:
        """To the newest save; where it cannot be read, the walk goes on as if nothing had been asked."""
        slots = self.slots()
        if not slots:
            return f"no save of {self._model.name} in {self._config.saves}/"
        try:
            self._loop.reset(read_save(slots[0], self.states))
        except (ValueError, OSError) as error:
            return str(error)
        return f"back in {slots[0].name}"

    def toggle_recording(self) -> str:
        if self.recorder is not None:
            folder = self.recorder.folder
            return self.stop_recording() or f"recorded {folder}"
        try:
            self.record(free_name(Path(self._config.recordings), self._model.name, ""))
        except OSError as error:
            return f"cannot record: {error.strerror or error}"
        return ""

    def record(self, folder: Path) -> None:
        """Raises:
        OSError: if it cannot be written.
        """
        self.recorder = Recorder(folder, self.states, self._model)
        self._loop.record(self.recorder)

    def stop_recording(self) -> str:
        """Empty if all of it is on disk, or if there was none."""
        self._loop.record(None)
        if self.recorder is None:
            return ""
        recorder, self.recorder = self.recorder, None
        recorder.close()
        if recorder.error:
            return f"recording stopped: {recorder.error}"
        try:
            self._write_report(recorder.folder / LATENCY)
        except OSError as error:
            return f"{recorder.folder}: {error.strerror or error}"
        return ""

    def watch_recording(self) -> str:
        """A recording that has failed ends; the game goes on."""
        failed = self.recorder is not None and self.recorder.error
        return self.stop_recording() if failed else ""
