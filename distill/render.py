"""Render a data set of procedural worlds into clip shards, with any number of processes.

A shard is a pure function of the configuration and its number, so a data set is the same whoever
renders it and can be continued after any interruption.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from distill.clips import Prompts, Shard, write_manifest, write_shard
from distill.scenes.changes import draw_change
from distill.scenes.mix import WorldMix
from distill.scenes.paths import Lens, PathMix, draw_path, viewpoints_for
from distill.scenes.paths import Path as CameraPath
from distill.scenes.placements import choose_placement
from distill.scenes.renderer import Renderer
from distill.scenes.world import Placement, make_world
from distill.workers import single_threaded
from worldmodel import trajectory as keys
from worldmodel.config import build, load, to_plain
from worldmodel.prompts import START_PROMPT
from worldmodel.types import Intrinsics, MotionLimits

# What moves by itself moves so far in a frame as it does in play at this rate, whatever the rate that
# the clip's controls were drawn at: a model is told no rate, so it could not tell one from another.
LIFE_FRAMES_PER_SECOND = 12.0
LATEST_START_S = 300.0

# Those of configs/data/pocket.yaml (a test compares them).
SHIPPED_LIMITS = MotionLimits(0.6, math.radians(10.0), (0.0, 12.0))


@dataclass(frozen=True)
class RenderConfig:
    """What to render."""

    seed: int  # of the first world; the others follow one by one
    shards: int
    worlds_per_shard: int
    clips_per_world: int
    frames_per_clip: int
    height_px: int
    width_px: int
    limits: MotionLimits
    supersampling: int = 2
    frames_per_second: tuple[float, float] = (8.0, 60.0)  # world rate of a clip, log-uniform
    paths: PathMix = field(default_factory=PathMix)
    lens: Lens = field(default_factory=Lens)
    worlds: WorldMix = field(default_factory=WorldMix)
    source: str = "procedural worlds of this repository"
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        counts = (self.shards, self.worlds_per_shard, self.clips_per_world, self.frames_per_clip)
        if min(counts) < 1:
            raise ValueError(f"shards, worlds, clips and frames must be at least 1, got {counts}")
        low, high = self.frames_per_second
        if not 0.0 < low <= high:
            raise ValueError(
                f"frames_per_second must be a rising range above 0, got {low:g} to {high:g}"
            )

    @property
    def clips_per_shard(self) -> int:
        return self.worlds_per_shard * self.clips_per_world

    @property
    def frames(self) -> int:
        return self.shards * self.clips_per_shard * self.frames_per_clip


@dataclass(frozen=True)
class Walk:
    """A trajectory through a certain place, for pictures and measurements to come back to."""

    name: str
    world: int  # seed
    trajectory: str = "."
    frames_per_second: float = 12.0
    placement: tuple[float, float, float] | None = (
        None  # x, z metres, yaw degrees; none: chosen by seed
    )


@dataclass(frozen=True)
class Walks:
    """A table of walks in a file."""

    walks: tuple[Walk, ...]
    worlds: WorldMix = field(default_factory=WorldMix)  # what the seeds mean


def render_dataset(
    config: RenderConfig,
    out: Path,
    *,
    workers: int = 1,
    devices: int = 1,
    overwrite: bool = False,
    sheet: Path | None = None,
) -> None:
    """Render all shards that `out` lacks, then write the manifest.

    Workers take turns on `devices` GPUs. A contact sheet of the result is written to `sheet`.

    Raises:
        ValueError: if `out` holds clips of another configuration, or a worker fails: then it
            names the shard.
    """
    if workers < 1 or devices < 1:
        raise ValueError(f"workers and devices must be at least 1, got {workers} and {devices}")
    out.mkdir(parents=True, exist_ok=True)
    _claim(config, out, overwrite)
    missing = [index for index in range(config.shards) if not shard_path(out, index).is_file()]
    started = time.perf_counter()
    per_shard = config.clips_per_shard * config.frames_per_clip
    with tqdm(
        total=len(missing) * per_shard, unit="frame", unit_scale=True, desc="rendering"
    ) as bar:
        for _ in _rendered(config, out, missing, workers, devices):
            bar.update(per_shard)
    if missing:
        rate = len(missing) * per_shard / (time.perf_counter() - started)
        print(f"{len(missing)} shards, {len(missing) * per_shard:,} frames, {rate:,.0f} frames/s")
    write_manifest(out, source=config.source, licence=config.licence, config=to_plain(config))
    if sheet is not None:
        write_sheet(out, sheet)


def shard_path(out: Path, index: int) -> Path:
    return out / f"{index:05d}.safetensors"


def render_shard(config: RenderConfig, index: int, renderer: Renderer, path: Path) -> None:
    """Render and write one shard."""
    count, length = config.clips_per_shard, config.frames_per_clip
    frames = np.empty((count, length, config.height_px, config.width_px, 3), np.uint8)
    cameras = np.empty((count, length, 4, 4))
    intrinsics = np.empty((count, length, 4), np.float32)
    prompts: list[Prompts] = []
    rates, places, seeds, one_way = [], [], [], []
    for clip in range(count):
        nth_world, nth_clip = divmod(clip, config.clips_per_world)
        if nth_clip == 0:
            seed = config.seed + index * config.worlds_per_shard + nth_world
            world = make_world(seed, mix=config.worlds)
            renderer.load(world)
        rng = np.random.default_rng((world.seed, nth_clip))
        placement = choose_placement(world, rng)
        path_taken = _draw_path(config, rng)
        change = None
        if config.worlds.changing and rng.random() < config.worlds.changing:
            change = draw_change(world, config.worlds, length, rng)
        frames[clip] = renderer.render(
            placement,
            path_taken.viewpoints,
            path_taken.lenses,
            _life(length, rng) if world.moving else None,
            change.lights(length) if change else None,
        )
        cameras[clip] = [viewpoint.camera_from_world() for viewpoint in path_taken.viewpoints]
        intrinsics[clip] = [(k.fx, k.fy, k.cx, k.cy) for k in path_taken.lenses]
        prompts.append(change.prompts(length) if change else world.prompt)
        rates.append(path_taken.frames_per_second)
        places.append((placement.x_m, placement.z_m, placement.yaw_rad))
        seeds.append(world.seed)
        one_way.append(world.moving or change is not None)
    facts = {"frames_per_second": rates, "worlds": seeds, "placements": places}
    if any(one_way):
        facts["one_way"] = one_way
    write_shard(
        path,
        frames=frames,
        cameras=cameras,
        intrinsics=intrinsics,
        prompts=prompts,
        metadata={name: json.dumps(value) for name, value in facts.items()},
    )


def true_walk(
    renderer: Renderer,
    seed: int,
    trajectory: str,
    frames_per_second: float,
    placement: Placement | None = None,
    limits: MotionLimits = SHIPPED_LIMITS,
    intrinsics: Intrinsics | None = None,
    mix: WorldMix | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], Intrinsics]:
    """What a walker sees who holds the keys of `trajectory`: frames, commanded poses, and the lens.

    Without a placement, the world's own first one is used.
    """
    world = make_world(seed, mix=mix)
    renderer.load(world)
    placement = placement or choose_placement(world, np.random.default_rng((seed, 0)))
    lens = intrinsics or Intrinsics.from_field_of_view(
        np.radians(Lens().mean_deg), renderer.width_px, renderer.height_px
    )
    viewpoints = viewpoints_for(
        keys.parse(trajectory, frames_per_second), frames_per_second, limits
    )
    cameras = np.stack([viewpoint.camera_from_world() for viewpoint in viewpoints])
    return renderer.render(placement, viewpoints, lens, _life(len(viewpoints))), cameras, lens


def walk_truth(
    renderer: Renderer, walk: Walk, mix: WorldMix | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], Intrinsics]:
    """`true_walk` of one row of a walks table."""
    place = walk.placement
    placement = (
        None if place is None else Placement(place[0], place[1], float(np.radians(place[2])))
    )
    return true_walk(
        renderer, walk.world, walk.trajectory, walk.frames_per_second, placement, mix=mix
    )


def write_starts(table: Path, folder: Path, renderer: Renderer) -> None:
    """Render the first view of every walk in `table` to `folder`/NAME.png, with its prompt as a text."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = load(table, Walks)
    for start in starts.walks:
        frames = walk_truth(renderer, start, starts.worlds)[0]
        texts = PngInfo()
        texts.add_text(START_PROMPT, make_world(start.world, mix=starts.worlds).prompt)
        Image.fromarray(frames[0]).save(folder / f"{start.name}.png", pnginfo=texts)


def write_sheet(out: Path, target: Path, clips: int = 12, columns: int = 6) -> None:
    """A contact sheet: one clip per row, spread over the data set."""
    shards = [Shard(path) for path in sorted(out.glob("*.safetensors"))]
    total = sum(shard.clips for shard in shards)
    rows = []
    for clip in np.linspace(0, total - 1, min(clips, total)).astype(int):
        shard, nth = divmod(int(clip), shards[0].clips)
        frames = shards[shard].array("frames")[nth]
        at = np.linspace(0, len(frames) - 1, columns).astype(int)
        rows.append(np.concatenate(list(frames[at]), axis=1))
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(target)


def _life(frames: int, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """Times of the frames, seconds: from a random one if there is a generator, else from 0."""
    start = rng.uniform(0.0, LATEST_START_S) if rng else 0.0
    return start + np.arange(frames) / LIFE_FRAMES_PER_SECOND


def _draw_path(config: RenderConfig, rng: np.random.Generator) -> CameraPath:
    return draw_path(
        rng,
        config.frames_per_clip,
        config.frames_per_second,
        config.paths,
        config.lens,
        config.limits,
        config.width_px,
        config.height_px,
    )


def _claim(config: RenderConfig, out: Path, overwrite: bool) -> None:
    """Refuse to mix two configurations in one folder; `overwrite` starts afresh."""
    record = out / "render.json"
    text = json.dumps(to_plain(config), indent=1) + "\n"
    if overwrite:
        for stale in [*out.glob("*.safetensors"), out / "manifest.json"]:
            stale.unlink(missing_ok=True)
    elif record.is_file() and replace(_recorded(record), shards=config.shards) != config:
        raise ValueError(
            f"{out}: holds clips of another configuration; choose another folder or overwrite"
        )
    record.write_text(text, encoding="utf-8")


def _recorded(record: Path) -> RenderConfig:
    """More shards of the same recipe may be added later, and options whose default changes nothing."""
    return build(json.loads(record.read_text("utf-8")), RenderConfig, str(record))


def _rendered(
    config: RenderConfig, out: Path, missing: list[int], workers: int, devices: int
) -> Iterator[int]:
    """Hand shards to worker processes one by one; yield each shard's number when it is on disk."""
    waiting = list(reversed(missing))
    busy: dict[Connection, tuple[SpawnProcess, int]] = {}
    spawn = multiprocessing.get_context("spawn")
    try:
        with single_threaded():
            for nth in range(min(workers, len(waiting))):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(
                    target=_work, args=(config, out, nth % devices, theirs), daemon=True
                )
                process.start()
                theirs.close()
                busy[ours] = (process, waiting.pop())
                ours.send(busy[ours][1])
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, index = busy.pop(pipe)
                _check(pipe, process, index)
                if waiting:
                    busy[pipe] = (process, waiting.pop())
                pipe.send(busy[pipe][1] if pipe in busy else None)
                yield index
    finally:
        for process, _ in busy.values():
            process.terminate()


def _check(pipe: Connection, process: SpawnProcess, index: int) -> None:
    try:
        problem = pipe.recv()
    except EOFError:
        process.join()
        problem = f"its process died with exit code {process.exitcode}"
    if problem is not None:
        raise ValueError(f"rendering shard {index} failed: {problem}")


def _work(config: RenderConfig, out: Path, device_index: int, pipe: Connection) -> None:
    """One worker: render the shards that come through the pipe, answer None or what went wrong."""
    try:
        renderer = Renderer(config.width_px, config.height_px, config.supersampling, device_index)
        while (index := pipe.recv()) is not None:
            render_shard(config, index, renderer, shard_path(out, index))
            pipe.send(None)
    except (ValueError, OSError) as error:
        pipe.send(str(error))
