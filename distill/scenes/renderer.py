"""Worlds to pixels: few draw calls, one uniform write and one read-back per batch of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import moderngl
import numpy as np
from numpy.typing import NDArray

from distill.scenes.batches import (
    Commands,
    all_land,
    all_objects,
    chunk_indices,
    land_commands,
    object_commands,
)
from distill.scenes.biomes import Colour
from distill.scenes.context import make_context
from distill.scenes.kinds import kinds
from distill.scenes.noise import tileable_noise
from distill.scenes.objects import TRAIL_HALF_M, Objects
from distill.scenes.terrain import POINTS, SIZE_M, Terrain, linear
from distill.scenes.views import FRAME_BLOCK_BYTES, Views, frame_blocks, make_views
from distill.scenes.world import Light, Placement, World
from worldmodel.motion import Viewpoint
from worldmodel.types import Intrinsics

SHADERS = Path(__file__).parent / "shaders"
SHADOW_PX = 2048
LAMP_MAP_PX = 384
BATCH_FRAMES = 32  # drawn into one tall image; 32 x 256 rows stay below every driver's limit
_NOISE_UNIT, _SHADOW_UNIT, _HEIGHT_UNIT, _FINE_UNIT, _LAMP_UNIT = 0, 1, 2, 3, 4
_WORLD_BINDING, _FRAME_BINDING = 0, 1
Resource = moderngl.Buffer | moderngl.Texture | moderngl.VertexArray
_INSTANCE = ("4f 4f 4f/i", "i_place", "i_look", "i_shape")
WORLD_BLOCK_BYTES = 512  # std140 size of `World`, rounded up
FALLING = 1600  # drops or flakes in the box that goes with the eye


@dataclass(slots=True, eq=False)
class _Loaded:
    """A world on the GPU."""

    world: World
    land: moderngl.VertexArray
    owned: list[Resource]
    shadow_land: moderngl.VertexArray
    light: Light  # that the world block and the shadows are of
    lamps: bool
    wet: bool


class Renderer:
    """One off-screen context. `load` a world, then `render` any number of paths through it."""

    def __init__(
        self,
        width_px: int = 224,
        height_px: int = 128,
        supersampling: int = 2,
        device_index: int = 0,
    ) -> None:
        """Raises ValueError for a size or supersampling that cannot be drawn, or without EGL."""
        if supersampling not in (1, 2):
            raise ValueError(f"supersampling must be 1 or 2, got {supersampling}")
        if not (0 < width_px <= 4096 and 0 < height_px * supersampling * BATCH_FRAMES <= 16384):
            raise ValueError(f"cannot draw frames of {width_px} x {height_px} pixels")
        self.width_px, self.height_px, self.supersampling = width_px, height_px, supersampling
        self.context = make_context(device_index)
        self._loaded: _Loaded | None = None
        self._make_programs()
        self._make_buffers()
        self._make_targets()

    @property
    def device(self) -> str:
        return str(self.context.info["GL_RENDERER"])

    def load(self, world: World) -> None:
        """Upload a world and bake its shadows; replaces the one before."""
        self._unload()
        vertices = self.context.buffer(_land_vertices(world.terrain).tobytes())
        heights = self.context.texture(
            (POINTS, POINTS), 1, world.terrain.height.astype(np.float32).tobytes(), dtype="f4"
        )
        heights.repeat_x = heights.repeat_y = False
        heights.use(_HEIGHT_UNIT)
        land = self.context.vertex_array(
            self._programs["terrain"],
            [(vertices, "3f 3f 4f", "in_position", "in_normal", "in_colour")],
            self._chunk,
        )
        shadow_land = self.context.vertex_array(
            self._programs["shadow_terrain"], [(vertices, "3f 28x", "in_position")], self._chunk
        )
        wet = bool(world.terrain.height.min() < 0.0)
        owned: list[Resource] = [land, shadow_land, heights, vertices]
        lamps = lamp_map(world.objects)
        if lamps is not None:
            texture = self.context.texture(lamps.shape[::-1], 1, lamps.tobytes())
            texture.repeat_x = texture.repeat_y = False
            texture.use(_LAMP_UNIT)
            owned.append(texture)
        light = world.light
        self._loaded = _Loaded(world, land, owned, shadow_land, light, lamps is not None, wet)
        self._write_world(self._loaded)
        self._bake_shadows(shadow_land, world)

    def render(
        self,
        placement: Placement,
        viewpoints: Sequence[Viewpoint],
        intrinsics: Intrinsics | Sequence[Intrinsics],
        seconds: NDArray[np.float64] | None = None,
        lights: Sequence[Light] | None = None,
    ) -> NDArray[np.uint8]:
        """What the commanded viewpoints see in the loaded world: (f, H, W, 3), top row first.

        Moving worlds are shown at the given times; without them, and in worlds that do not move,
        time stands still at 0. `lights` are those of the frames where they are not the world's own;
        runs of one and the same light are drawn at once.

        Raises:
            ValueError: if no world is loaded, or lenses, times, lights and viewpoints differ in
                number.
        """
        if self._loaded is None:
            raise ValueError("no world is loaded")
        single = isinstance(intrinsics, Intrinsics)
        lenses = (
            [intrinsics] * len(viewpoints)
            if isinstance(intrinsics, Intrinsics)
            else list(intrinsics)
        )
        if not single and len(lenses) != len(viewpoints):
            raise ValueError(f"{len(viewpoints)} viewpoints but {len(lenses)} lenses")
        for name, given in (("times", seconds), ("lights", lights)):
            if given is not None and len(given) != len(viewpoints):
                raise ValueError(f"{len(viewpoints)} viewpoints but {len(given)} {name}")
        times = np.zeros(len(viewpoints))
        if self._loaded.world.moving and seconds is not None:
            times = seconds
        shape = (len(viewpoints), self.height_px, self.width_px, 3)
        frames = np.empty(shape, np.uint8)
        for part in _runs(lights or [self._loaded.world.light] * len(viewpoints)):
            self._light_up(self._loaded, lights[part.start] if lights else self._loaded.world.light)
            views = make_views(
                self._loaded.world.terrain,
                placement,
                viewpoints[part],
                lenses[part],
                times[part],
            )
            frames[part] = self._batch(self._loaded, views)
        return frames

    def release(self) -> None:
        self._unload()
        self.context.release()

    def _light_up(self, loaded: _Loaded, light: Light) -> None:
        """Make the loaded world one of this light."""
        if light is loaded.light:
            return
        moved = not np.array_equal(light.sun, loaded.light.sun)
        loaded.light = light
        self._write_world(loaded)
        if moved:
            self._bake_shadows(loaded.shadow_land, loaded.world)

    def _write_world(self, loaded: _Loaded) -> None:
        lit = replace(loaded.world, light=loaded.light)
        self._world_block.write(_world_block(lit, self.supersampling, loaded.lamps))

    def _batch(self, loaded: _Loaded, views: Views) -> NDArray[np.uint8]:
        self._frame_blocks.write(frame_blocks(views).tobytes())
        instances, things = object_commands(loaded.world.objects, views)
        _refill(self._instances, instances.tobytes())
        _refill(self._thing_commands, things.words.tobytes())
        land = land_commands(loaded.world.terrain, views)
        _refill(self._land_commands, land.words.tobytes())
        self._bind()
        self._fine.use()
        self._fine.clear(0.0, 0.0, 0.0, 1.0)
        for frame in range(len(views.eye)):
            self._draw(loaded, frame, things, land)
        return self._read(len(views.eye))

    def _draw(self, loaded: _Loaded, frame: int, things: Commands, land: Commands) -> None:
        context = self.context
        rows = self.height_px * self.supersampling
        self._fine.viewport = (0, frame * rows, self.width_px * self.supersampling, rows)
        self._frame_blocks.bind_to_uniform_block(
            _FRAME_BINDING, frame * FRAME_BLOCK_BYTES, FRAME_BLOCK_BYTES
        )
        context.enable_only(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
        _draw_indirect(self._things, self._thing_commands, things, frame)
        _draw_indirect(loaded.land, self._land_commands, land, frame)
        context.enable_only(moderngl.DEPTH_TEST)
        self._sky.render(moderngl.TRIANGLE_STRIP)
        if loaded.wet:
            context.enable_only(moderngl.DEPTH_TEST | moderngl.BLEND)
            self._water.render(moderngl.TRIANGLE_STRIP)
        if loaded.light.rain + loaded.light.snow > 0.0:
            context.enable_only(moderngl.DEPTH_TEST | moderngl.BLEND)
            self._falling.render(moderngl.TRIANGLE_STRIP, instances=FALLING)

    def _read(self, count: int) -> NDArray[np.uint8]:
        """Average the sub-samples of all frames and fetch them."""
        self._out.use()
        self.context.enable_only(moderngl.NOTHING)
        self._fine_pixels.use(_FINE_UNIT)
        self._box.render(moderngl.TRIANGLE_STRIP)
        size = (0, 0, self.width_px, self.height_px * count)
        raw = self._out.read(viewport=size, components=4, alignment=1)
        return np.frombuffer(raw, np.uint8).reshape(count, self.height_px, self.width_px, 4)[
            ..., :3
        ]

    def _bind(self) -> None:
        self._world_block.bind_to_uniform_block(_WORLD_BINDING)
        self._noise.use(_NOISE_UNIT)
        self._shadow.use(_SHADOW_UNIT)
        self.context.depth_func = "<="
        self.context.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA

    def _bake_shadows(self, land: moderngl.VertexArray, world: World) -> None:
        things = all_objects(world.objects)
        _refill(self._instances, world.objects.data.tobytes())
        _refill(self._thing_commands, things.words.tobytes())
        _refill(self._land_commands, all_land().words.tobytes())
        self._world_block.bind_to_uniform_block(_WORLD_BINDING)
        self._shadow_target.use()
        self._shadow_target.clear()
        self.context.enable_only(moderngl.DEPTH_TEST)
        self.context.depth_func = "<="
        _draw_indirect(self._shadow_things, self._thing_commands, things, 0)
        _draw_indirect(land, self._land_commands, all_land(), 0)

    def _unload(self) -> None:
        if self._loaded is not None:
            for resource in self._loaded.owned:
                resource.release()
        self._loaded = None

    def _make_programs(self) -> None:
        common = _source("common.glsl")
        self._programs = {
            name: self.context.program(
                vertex_shader=common + _source(f"{name}.vert.glsl"),
                fragment_shader=common + _source(f"{fragment}.frag.glsl"),
            )
            for name, fragment in (
                ("terrain", "terrain"),
                ("object", "object"),
                ("sky", "sky"),
                ("water", "water"),
                ("falling", "falling"),
                ("shadow_terrain", "shadow"),
                ("shadow_object", "shadow"),
            )
        }
        self._programs["box"] = self.context.program(
            vertex_shader=_source("box.vert.glsl"), fragment_shader=_source("box.frag.glsl")
        )
        units = {
            "noise_map": _NOISE_UNIT,
            "shadow_map": _SHADOW_UNIT,
            "height_map": _HEIGHT_UNIT,
            "fine": _FINE_UNIT,
            "lamp_map": _LAMP_UNIT,
            "factor": self.supersampling,
        }
        bindings = {"World": _WORLD_BINDING, "Frame": _FRAME_BINDING}
        for program in self._programs.values():
            for name in program:
                member = program[name]
                if isinstance(member, moderngl.UniformBlock):
                    member.binding = bindings[name]
                elif isinstance(member, moderngl.Uniform):
                    member.value = units[name]

    def _make_buffers(self) -> None:
        context = self.context
        self._world_block = context.buffer(reserve=WORLD_BLOCK_BYTES)
        self._frame_blocks = context.buffer(reserve=FRAME_BLOCK_BYTES * BATCH_FRAMES)
        self._instances = context.buffer(reserve=1 << 16)
        self._thing_commands = context.buffer(reserve=1 << 12)
        self._land_commands = context.buffer(reserve=1 << 12)
        self._chunk = context.buffer(chunk_indices().tobytes())
        meshes = context.buffer(
            np.concatenate([k.mesh for k in kinds()]).astype(np.float32).tobytes()
        )
        quad = context.buffer(np.array([-1, -1, 1, -1, -1, 1, 1, 1], np.float32).tobytes())
        self._things = context.vertex_array(
            self._programs["object"],
            [
                (meshes, "3f 3f 4f", "in_position", "in_normal", "in_colour"),
                (self._instances, *_INSTANCE),
            ],
        )
        self._shadow_things = context.vertex_array(
            self._programs["shadow_object"],
            [(meshes, "3f 28x", "in_position"), (self._instances, *_INSTANCE)],
            skip_errors=True,  # a shadow needs no tint, so compilers drop parts of i_look
        )
        self._sky, self._water, self._falling, self._box = (
            context.vertex_array(self._programs[name], [(quad, "2f", "in_position")])
            for name in ("sky", "water", "falling", "box")
        )

    def _make_targets(self) -> None:
        context = self.context
        fine = (
            self.width_px * self.supersampling,
            self.height_px * self.supersampling * BATCH_FRAMES,
        )
        self._fine_pixels = context.texture(fine, 4)
        self._fine = context.framebuffer([self._fine_pixels], context.depth_renderbuffer(fine))
        self._out = context.framebuffer(
            [context.texture((self.width_px, self.height_px * BATCH_FRAMES), 4)]
        )
        self._shadow = context.depth_texture((SHADOW_PX, SHADOW_PX))
        self._shadow.compare_func = "<="
        self._shadow.repeat_x = self._shadow.repeat_y = False
        self._shadow_target = context.framebuffer(depth_attachment=self._shadow)
        pixels = noise_texture()
        self._noise = context.texture((pixels.shape[1], pixels.shape[0]), 2, pixels.tobytes())
        self._noise.build_mipmaps()
        self._noise.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)


def _runs(lights: Sequence[Light]) -> Iterator[slice]:
    """Frames to draw at once: of one light, and not too many."""
    start = 0
    for index in range(1, len(lights) + 1):
        full = index - start == BATCH_FRAMES
        if index == len(lights) or full or lights[index] is not lights[start]:
            yield slice(start, index)
            start = index


def _source(name: str) -> str:
    return (SHADERS / name).read_text(encoding="utf-8")


def _draw_indirect(
    array: moderngl.VertexArray, buffer: moderngl.Buffer, commands: Commands, frame: int
) -> None:
    count = int(commands.count[frame])
    if count:
        array.render_indirect(buffer, moderngl.TRIANGLES, count, first=int(commands.first[frame]))


def _refill(buffer: moderngl.Buffer, data: bytes) -> None:
    """Write, growing if needed; orphaning keeps the GPU from waiting for the frames before."""
    buffer.orphan(max(len(data), buffer.size))
    if data:
        buffer.write(data)


@cache
def noise_texture() -> NDArray[np.uint8]:
    """(512, 512, 2): broad and fine noise, without a seam."""
    rng = np.random.default_rng(7)
    broad, fine = tileable_noise(rng, 512, 8, 4), tileable_noise(rng, 512, 12, 5)
    return np.rint(np.stack([broad, fine], -1) * 255.0).astype(np.uint8)


def lamp_map(objects: Objects) -> NDArray[np.uint8] | None:
    """How strongly lamps, windows and fires light each place of the map, [z, x]; none without them."""
    reach = np.array([kind.light_m for kind in kinds()])[objects.kind]
    lit = reach > 0.0
    if not lit.any():
        return None
    cell = SIZE_M / LAMP_MAP_PX
    total = np.zeros((LAMP_MAP_PX, LAMP_MAP_PX))
    for x, z, metres in zip(objects.x_m[lit], objects.z_m[lit], reach[lit], strict=True):
        column, row = (float(x) / cell + 0.5 * LAMP_MAP_PX, float(z) / cell + 0.5 * LAMP_MAP_PX)
        span = math.ceil(2.0 * metres / cell)
        columns = np.arange(max(int(column) - span, 0), min(int(column) + span, LAMP_MAP_PX))
        rows = np.arange(max(int(row) - span, 0), min(int(row) + span, LAMP_MAP_PX))
        square = (columns[None] + 0.5 - column) ** 2 + (rows[:, None] + 0.5 - row) ** 2
        total[rows[:, None], columns[None]] += np.exp(-square * (cell / (0.5 * metres)) ** 2)
    return np.rint(255.0 * (1.0 - np.exp(-total))).astype(np.uint8)


def _land_vertices(terrain: Terrain) -> NDArray[np.float32]:
    line = np.linspace(-0.5 * SIZE_M, 0.5 * SIZE_M, POINTS)
    vertices = np.empty((POINTS, POINTS, 10), np.float32)
    vertices[..., 0], vertices[..., 2] = line[None, :], line[:, None]
    vertices[..., 1] = terrain.height
    vertices[..., 3:6] = terrain.normal
    vertices[..., 6:9] = terrain.colour
    vertices[..., 9] = terrain.trail_m
    return vertices


def _world_block(world: World, supersampling: int, lamps: bool) -> bytes:
    """The std140 bytes of the `World` block; the order is that of common.glsl."""
    light, biome = world.light, world.biome
    wet = float(world.terrain.height.min() < 0.0)

    def row(values: NDArray[np.float64] | Colour, last: float = 0.0) -> tuple[float, ...]:
        return (*(float(value) for value in values), last)

    day = light.daylight
    far_ground = linear(biome.horizon) if biome.ground.island else 0.5 * linear(biome.grass)
    rows = [
        *_shadow_from_world(light.sun).T,
        row(light.sun),
        row(light.sun_colour),
        row(light.zenith),
        row(light.horizon, light.ambient),
        row(light.glow),
        row(light.bounce),
        (light.haze_per_m, 0.0, 0.0, 0.0),
        (light.cloud_threshold, light.cloud_softness, *light.cloud_offset),
        row(day * linear(biome.ridge), biome.ridge_height),
        row(day * 0.5 * linear((0.96, 0.97, 1.0)) + 0.25 * light.horizon, biome.ridge_snow),
        row(day * linear(biome.shallow)),
        row(day * linear(biome.deep)),
        row(day * far_ground),
        row(linear(biome.trail), TRAIL_HALF_M),
        (SIZE_M, max(biome.snow, light.white), float(supersampling), wet),
        (light.dark, float(lamps), light.stars, light.overcast),
        (light.wet, light.white, light.rain, light.snow),
    ]
    return np.array(rows, np.float32).tobytes()


def _shadow_from_world(sun: NDArray[np.float64]) -> NDArray[np.float64]:
    """An orthographic view from the sun that holds the whole world."""
    half, depth = 0.56 * SIZE_M, 520.0
    side = np.cross(sun, (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    up = np.cross(side, sun)
    view = np.eye(4)
    view[:3, :3] = np.stack([side / half, up / half, -sun / depth])
    return view
