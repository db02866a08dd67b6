"""A display that refuses to keep the pace still gets a window."""

from __future__ import annotations

from typing import Any

import pygame
import pytest

from engine import window


@pytest.mark.parametrize("granted", [True, False])
def test_a_window_opens_with_vsync_or_without(
    monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    opened: list[int] = []

    def set_mode(_size: tuple[int, int], _flags: int, vsync: int = 0) -> None:
        if vsync and not granted:
            raise pygame.error("no vsync here")
        opened.append(vsync)

    def attribute(*_: Any) -> None: ...

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(pygame.display, "gl_set_attribute", attribute)
    monkeypatch.setattr(pygame.display, "set_mode", set_mode)
    try:
        assert window._open((320, 180)) is granted
    finally:
        pygame.display.quit()
    assert opened == [int(granted)]
