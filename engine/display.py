"""Is there a display to open a window on? Answers before pygame is loaded."""

from __future__ import annotations

import os
import sys

HEADLESS_HINT = 'run without one: python play.py --headless --trajectory "w*20" --out walk.mp4'


def check_display() -> None:
    """Raises:
    ValueError: on a Unix without a display server; says how to run headless.
    """
    if sys.platform in ("win32", "darwin") or os.environ.get("SDL_VIDEODRIVER"):
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ValueError(f"no display (DISPLAY and WAYLAND_DISPLAY are not set); {HEADLESS_HINT}")
