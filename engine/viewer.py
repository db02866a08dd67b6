"""Frames on the screen: upload, sharpen, timewarp and upscale, letterbox; sprites above."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources

import moderngl
import numpy as np
from numpy.typing import NDArray

from engine.timewarp import NO_WARP, Homography, uncovered

GLSL = "#version 330\n"
BACKGROUND = (0.035, 0.043, 0.055)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Window pixels from the top left."""

    left: int
    top: int
    width: int
    height: int


def letterbox(window_size: tuple[int, int], frame_size: tuple[int, int]) -> Rectangle:
    """The largest rectangle of the frame's aspect in the middle of the window."""
    scale = min(window_size[0] / frame_size[0], window_size[1] / frame_size[1])
    width = min(window_size[0], max(1, round(frame_size[0] * scale)))
    height = min(window_size[1], max(1, round(frame_size[1] * scale)))
    return Rectangle((window_size[0] - width) // 2, (window_size[1] - height) // 2, width, height)


class Viewer:
    """Draws the newest frame; `context` must be current on the calling thread."""

    def __init__(self, context: moderngl.Context, sharpness: float, *, detail: float = 1.0) -> None:
        """`detail`: of the upscale, as a share of the window's sides; processors that draw want less."""
        self._context = context
        self._detail = detail
        self._sharpen = _program(context, "frame.vert", "sharpen.frag")
        self._sharpen["sharpness"] = sharpness
        self._upscale = _program(context, "frame.vert", "upscale.frag")
        self._warp = _program(context, "frame.vert", "warp.frag")
        self._rim = _program(context, "frame.vert", "rim.frag")
        self._sharpen_quad = context.vertex_array(self._sharpen, [])
        self._upscale_quad = context.vertex_array(self._upscale, [])
        self._warp_quad = context.vertex_array(self._warp, [])
        self._rim_quad = context.vertex_array(self._rim, [])
        self._source: moderngl.Texture | None = None
        self._sharpened: moderngl.Framebuffer | None = None
        self._upscaled: moderngl.Framebuffer | None = None  # the frame on show, for warps
        self._upscaled_is_fresh = False

    def show(self, frame: NDArray[np.uint8]) -> None:
        """Upload (H, W, 3) RGB, top row first; the size may differ from the frame before."""
        size = (frame.shape[1], frame.shape[0])
        if self._source is None or self._source.size != size:
            self._allocate(size)
        assert self._source is not None and self._sharpened is not None
        self._source.write(np.ascontiguousarray(frame), alignment=1)
        self._sharpened.use()
        self._context.disable(moderngl.BLEND)
        self._source.use(0)
        self._sharpen_quad.render(moderngl.TRIANGLES, vertices=3)
        self._upscaled_is_fresh = False

    def draw(
        self,
        target: moderngl.Framebuffer,
        size: tuple[int, int],
        brightness: float = 1.0,
        warp: Homography = NO_WARP,
    ) -> None:
        """Clear `target`, whose size is `size`, and draw the frame in the middle.

        `warp` is the `timewarp.frame_from_view` of the frame on show.
        """
        target.use()
        # The window's framebuffer reports its first size for ever, so the viewport is always set.
        target.viewport = (0, 0, *size)
        target.clear(*BACKGROUND)
        if self._sharpened is None:
            return
        place = letterbox(size, self._sharpened.size)
        bottom = size[1] - place.top - place.height
        viewport = (place.left, bottom, place.width, place.height)
        self._render_frame(target, viewport, brightness, warp)
        target.viewport = (0, 0, *size)

    def capture(
        self, window_size: tuple[int, int], warp: Homography = NO_WARP
    ) -> NDArray[np.uint8]:
        """The frame as the window shows it, without bars and sprites: (height, width, 3)."""
        if self._sharpened is None:
            raise ValueError("there is no frame to capture yet")
        place = letterbox(window_size, self._sharpened.size)
        size = (place.width, place.height)
        target = self._context.simple_framebuffer(size, components=4)
        self._render_frame(target, (0, 0, *size), 1.0, warp)
        # Four components: reading three is far slower. GL rows come bottom first.
        pixels = np.frombuffer(target.read(components=4), np.uint8).reshape(*size[::-1], 4)
        target.release()
        return np.ascontiguousarray(pixels[::-1, :, :3])

    def _render_frame(
        self,
        target: moderngl.Framebuffer,
        viewport: tuple[int, int, int, int],
        brightness: float,
        warp: Homography,
    ) -> None:
        """A warp upscales once per frame and size, so that a picture in motion is cheap to draw."""
        self._context.disable(moderngl.BLEND)
        if warp is NO_WARP and self._detail == 1.0:
            self._render_upscaled(target, viewport, brightness)
            return
        width, height = (max(1, round(self._detail * side)) for side in viewport[2:])
        picture = self._upscale_for_warps((width, height))
        target.use()
        target.viewport = viewport
        for program in (self._rim, self._warp):
            program["brightness"] = brightness
            program["frame_from_view"] = tuple(warp.T.ravel())  # GL counts by columns
        _texture_of(self._sharpened).use(0)
        for strip in uncovered(warp):
            target.scissor = _pixels_of(strip, viewport)
            self._rim_quad.render(moderngl.TRIANGLES, vertices=3)
        target.scissor = None  # type: ignore[assignment] # moderngl's word for the whole
        picture.use(0)
        self._warp_quad.render(moderngl.TRIANGLES, vertices=3)

    def _render_upscaled(
        self,
        target: moderngl.Framebuffer,
        viewport: tuple[int, int, int, int],
        brightness: float,
    ) -> None:
        target.use()
        target.viewport = viewport
        _texture_of(self._sharpened).use(0)
        self._upscale["brightness"] = brightness
        self._upscale_quad.render(moderngl.TRIANGLES, vertices=3)

    def _upscale_for_warps(self, size: tuple[int, int]) -> moderngl.Texture:
        if self._upscaled is None or self._upscaled.size != size:
            if self._upscaled is not None:
                _texture_of(self._upscaled).release()
                self._upscaled.release()
            texture = self._context.texture(size, 4)
            texture.repeat_x = texture.repeat_y = False
            self._upscaled = self._context.framebuffer([texture])
            self._upscaled_is_fresh = False
        if not self._upscaled_is_fresh:
            self._render_upscaled(self._upscaled, (0, 0, *size), brightness=1.0)
            _texture_of(self._sharpened).build_mipmaps()
            self._upscaled_is_fresh = True
        return _texture_of(self._upscaled)

    def _allocate(self, size: tuple[int, int]) -> None:
        self._source = self._context.texture(size, 3, alignment=1)
        sharpened = self._context.texture(size, 4)
        sharpened.repeat_x = sharpened.repeat_y = False
        self._sharpened = self._context.framebuffer([sharpened])


def _pixels_of(
    share: tuple[float, float, float, float], viewport: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """A rectangle in fractions from the top left, as pixels from the bottom left, rounded outwards."""
    left, bottom, width, height = viewport
    x0, x1 = math.floor(share[0] * width) - 1, math.ceil(share[2] * width) + 1
    y0, y1 = math.floor(share[1] * height) - 1, math.ceil(share[3] * height) + 1
    x0, x1, y0, y1 = max(x0, 0), min(x1, width), max(y0, 0), min(y1, height)
    return left + x0, bottom + height - y1, x1 - x0, y1 - y0


def _texture_of(framebuffer: moderngl.Framebuffer | None) -> moderngl.Texture:
    assert framebuffer is not None, "a frame was shown"
    texture = framebuffer.color_attachments[0]
    assert isinstance(texture, moderngl.Texture)
    return texture


class SpriteLayer:
    """Small premultiplied images over the frame, uploaded only when they change."""

    def __init__(self, context: moderngl.Context) -> None:
        self._context = context
        self._program = _program(context, "sprite.vert", "sprite.frag")
        self._quad = context.vertex_array(self._program, [])
        self._textures: dict[str, moderngl.Texture] = {}

    def upload(self, name: str, size: tuple[int, int], bgra: bytes | memoryview) -> None:
        texture = self._textures.get(name)
        if texture is None or texture.size != size:
            if texture is not None:
                texture.release()
            texture = self._context.texture(size, 4)
            texture.swizzle = "BGRA"
            self._textures[name] = texture
        texture.write(bgra)

    def draw(
        self,
        target: moderngl.Framebuffer,
        window_size: tuple[int, int],
        places: dict[str, tuple[int, int]],
    ) -> None:
        """Draw the named sprites, each with its left and top in `places`, in that order."""
        target.use()
        target.viewport = (0, 0, *window_size)
        self._context.enable(moderngl.BLEND)
        self._context.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
        self._program["window_size"] = window_size
        for name, (left, top) in places.items():
            texture = self._textures[name]
            texture.use(0)
            self._program["rectangle"] = (left, top, *texture.size)
            self._quad.render(moderngl.TRIANGLE_STRIP, vertices=4)
        self._context.disable(moderngl.BLEND)


def _program(context: moderngl.Context, vertex: str, fragment: str) -> moderngl.Program:
    folder = resources.files("engine") / "shaders"
    return context.program(
        vertex_shader=GLSL + (folder / vertex).read_text(encoding="utf-8"),
        fragment_shader=GLSL + (folder / fragment).read_text(encoding="utf-8"),
    )
