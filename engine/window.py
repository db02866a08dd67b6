"""The pygame window with an OpenGL 3.3 context."""

from __future__ import annotations

import os
import sys

import moderngl
import pygame

from engine import painting
from engine.display import HEADLESS_HINT
from engine.settings import WindowSettings

INVISIBLE_DRIVERS = ("offscreen", "dummy")
SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swiftshader")
LEAST_REFRESH_HZ = 60.0  # also where the display does not say


class Window:
    """Owns pygame's display; one at a time, on the main thread."""

    def __init__(self, settings: WindowSettings, title: str) -> None:
        """Raises:
        ValueError: if no window with OpenGL 3.3 can be opened; says how to run headless.
        """
        try:
            self.vsync = _open((settings.width_px, settings.height_px))
            self.context = _create_context()
        except pygame.error as error:
            pygame.quit()
            raise ValueError(f"cannot open a window ({error}); {HEADLESS_HINT}") from error
        pygame.font.init()
        pygame.display.set_caption(title)
        pygame.display.set_icon(painting.icon(64))
        self.renderer = str(self.context.info["GL_RENDERER"])
        self.software = any(name in self.renderer.lower() for name in SOFTWARE_RENDERERS)
        self.refresh_hz = max(LEAST_REFRESH_HZ, float(pygame.display.get_current_refresh_rate()))
        # Neither the off-screen driver nor a processor that draws waits in flip: frames would queue
        # up in the GL driver.
        self._must_finish = self.software or pygame.display.get_driver() == "offscreen"
        self.mouse_captured = False
        if settings.full_screen:
            self.toggle_full_screen()

    @property
    def size(self) -> tuple[int, int]:
        return pygame.display.get_window_size()

    @property
    def target(self) -> moderngl.Framebuffer:
        return self.context.screen

    def flip(self) -> None:
        pygame.display.flip()
        if self._must_finish:
            self.context.finish()

    def check(self) -> None:
        """Raises:
        pygame.error: if the OpenGL context was lost, as when a graphics driver starts again.
        """
        # moderngl has no name for GL_CONTEXT_LOST, and names all other errors.
        if self.context.error == "GL_UNKNOWN_ERROR":
            raise pygame.error("the OpenGL context was lost")

    def toggle_full_screen(self) -> bool:
        """False where the display cannot."""
        try:
            pygame.display.toggle_fullscreen()
        except pygame.error:
            return False
        return True

    def capture_mouse(self, captured: bool) -> None:
        """Hide the mouse and report endless relative motion, or give it back."""
        try:
            pygame.mouse.set_relative_mode(captured)
        except pygame.error:  # the driver has no relative mode
            pygame.event.set_grab(captured)
            pygame.mouse.set_visible(not captured)
        self.mouse_captured = captured

    def close(self) -> None:
        self.context.release()
        painting.font.cache_clear()  # fonts do not outlive pygame
        pygame.quit()


def _open(size: tuple[int, int]) -> bool:
    """True if flips wait for the display."""
    # Else Windows enlarges the finished picture on dense displays, and all is blurred.
    os.environ.setdefault("SDL_WINDOWS_DPI_AWARENESS", "permonitorv2")
    pygame.display.init()
    driver = pygame.display.get_driver()
    if driver in INVISIBLE_DRIVERS and os.environ.get("SDL_VIDEODRIVER") != driver:
        # SDL's last resort where no display answers: a game that nobody can see.
        raise pygame.error("no display answers")
    pygame.display.gl_set_attribute(pygame.GL_CONTEXT_MAJOR_VERSION, 3)
    pygame.display.gl_set_attribute(pygame.GL_CONTEXT_MINOR_VERSION, 3)
    pygame.display.gl_set_attribute(pygame.GL_CONTEXT_PROFILE_MASK, pygame.GL_CONTEXT_PROFILE_CORE)
    if sys.platform == "darwin":
        pygame.display.gl_set_attribute(
            pygame.GL_CONTEXT_FLAGS, pygame.GL_CONTEXT_FORWARD_COMPATIBLE_FLAG
        )
    flags = pygame.OPENGL | pygame.DOUBLEBUF | pygame.RESIZABLE
    try:
        pygame.display.set_mode(size, flags, vsync=1)
    except pygame.error:
        pygame.display.set_mode(size, flags)
        return False
    return True


def _create_context() -> moderngl.Context:
    try:
        return moderngl.create_context(require=330)
    except Exception as error:  # moderngl and glcontext raise it bare
        raise pygame.error(f"no OpenGL 3.3: {' '.join(str(error).split())}") from error
