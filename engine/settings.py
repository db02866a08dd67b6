"""The player's configuration: `configs/play/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.bindings import KeyBindings
from engine.controls import ControlSettings
from engine.effort import EffortSettings
from engine.history import HistorySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    width_px: int = 1120
    height_px: int = 640
    full_screen: bool = False
    sharpness: float = 0.3  # of the source image before the upscale, 0 to 1
    # in all detail, or in half of it, a third of the work; auto: half where a processor draws
    upscale: Literal["auto", "full", "half"] = "auto"
    hud: bool = True
    capture_mouse: bool = True  # from the first frame on; otherwise from the first click on
    title: bool = True  # begin with the choice of worlds and saves
    timewarp: bool = True  # show the newest frame as seen from the camera of this instant

    def __post_init__(self) -> None:
        if self.width_px < 160 or self.height_px < 90:
            raise ValueError(f"window {self.width_px}x{self.height_px} is smaller than 160x90")
        if not 0.0 <= self.sharpness <= 1.0:
            raise ValueError(f"sharpness must lie in [0, 1], got {self.sharpness}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayConfig:
    headless_frames_per_second: float = 12.0  # world rate of videos, where nothing has to hold it
    screenshots: str = "screenshots"  # folder, relative to the working directory
    recordings: str = "recordings"
    saves: str = "saves"
    history: HistorySettings = field(default_factory=HistorySettings)
    effort: EffortSettings = field(default_factory=EffortSettings)
    controls: ControlSettings = field(default_factory=ControlSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    keys: KeyBindings = field(default_factory=KeyBindings)
