"""What is on the display: the newest frame, seen from the camera of this instant, and how late it is."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from engine.latency import LatencyLog
from engine.loop import Generated
from engine.pacing import RateMeter, draw_period_s, frame_due
from engine.settings import WindowSettings
from engine.timewarp import NO_WARP, frame_from_view
from engine.viewer import SpriteLayer, Viewer
from engine.window import Window
from worldmodel.types import Camera


class Screen:
    """Draws when something has changed, at its own pace; a finished frame waits for nothing else."""

    def __init__(self, window: Window, settings: WindowSettings) -> None:
        self.sprites = SpriteLayer(window.context)
        self.latency = LatencyLog()
        self.meter = RateMeter()  # of pictures on the display
        self.frames = 0  # generated ones that were on the display
        self.dirty = True
        self.shown: tuple[int, int] | None = None  # step and frame on show
        self._window = window
        less = settings.upscale == "half" or (settings.upscale == "auto" and window.software)
        detail = 0.5 if less else 1.0
        self._viewer = Viewer(window.context, settings.sharpness, detail=detail)
        self._frame: NDArray[np.uint8] | None = None  # the pixels of that frame
        self._warp = NO_WARP
        self._unshown: Generated | None = None  # taken, and not on the display yet
        self._look_since_s: float | None = None  # an input has turned the view, undrawn so far
        self._next_draw_s = 0.0

    def show_picture(self, picture: NDArray[np.uint8]) -> None:
        """Something else than a frame of the world."""
        self._viewer.show(picture)
        self.dirty = True

    def forget(self) -> None:
        """The next frame is shown whatever it is: another picture has taken its place."""
        self.shown = self._frame = None

    def take(self, newest: Generated, frames_per_second: float, now_s: float) -> None:
        """Show the frame of `newest` that is due in a world of that rate."""
        which = frame_due(newest.ready_s, now_s, len(newest.frames), frames_per_second)
        due = newest.number, which
        if due == self.shown:
            return
        another = self.shown is None or newest.number != self.shown[0]
        frame = newest.frames[which]
        self.shown = due
        if self._frame is None or not np.array_equal(frame, self._frame):  # at rest it is
            self._viewer.show(frame)
            self._frame = frame
            self._unshown = newest if another else self._unshown
            self.dirty = True

    def look_from(self, view: Camera, newest: Generated) -> None:
        """Show the frame that was taken of `newest` as it looks from there."""
        assert self.shown is not None, "a frame was taken"
        self._set_warp(frame_from_view(newest.camera_of(self.shown[1]), view))

    def look_straight(self) -> None:
        """Show what is on show as it is."""
        self._set_warp(NO_WARP)

    def turned(self, arrived_s: float) -> None:
        """An input that turns the view arrived then: how late it is seen is measured."""
        self._look_since_s = self._look_since_s or arrived_s

    def wait_s(self, now_s: float) -> float:
        """Until the next drawing may begin."""
        return max(0.0, self._next_draw_s - now_s)

    def due(self, now_s: float) -> bool:
        return self.dirty and (self._unshown is not None or now_s >= self._next_draw_s)

    def draw(self, places: dict[str, tuple[int, int]], brightness: float, now_s: float) -> None:
        """The frame, and the sprites over it at their `places`."""
        window, size = self._window, self._window.size
        self._viewer.draw(window.target, size, brightness, self._warp)
        self.sprites.draw(window.target, size, places)
        window.flip()
        self.dirty = False
        flipped_s = time.monotonic()
        took_s = flipped_s - now_s
        self.meter.add(flipped_s)
        self.latency.add("draw", took_s)
        self._measure(flipped_s)
        self._next_draw_s = now_s + draw_period_s(
            window.refresh_hz, took_s, vsync=window.vsync, software=window.software
        )

    def capture(self) -> NDArray[np.uint8]:
        """The picture without bars and sprites, (height, width, 3)."""
        return self._viewer.capture(self._window.size, self._warp)

    def _set_warp(self, warp: NDArray[np.float64]) -> None:
        self.dirty |= not np.array_equal(warp, self._warp)
        self._warp = warp

    def _measure(self, flipped_s: float) -> None:
        if self._unshown is not None:
            new, self._unshown = self._unshown, None
            self.frames += len(new.frames)
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
