"""Tracks to clip folders: opened and checked, scaled, cut to a steady rate and a size, written whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from distill.clips import write_manifest, write_shard
from distill.importers.axes import levelled
from distill.importers.fitting import Fit, fit_intrinsics
from distill.importers.resampling import runs, windows
from distill.importers.scale import How, Scale, metres_per_unit, typical_speed
from distill.importers.tracks import Array, Item, Track, checked
from distill.workers import single_threaded

CLIPS_PER_SHARD = 32
SHARDS_AT_ONCE = 3
HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """What the clips shall be."""

    fit: Fit
    frames_per_second: float = 12.0
    frames_per_clip: int = 64
    scale: How = "walk"
    metres_per_unit: float | None = None  # with scale `given`
    level: bool = True  # turn worlds so that y points down; recordings are level already
    held_out: float = 0.1  # share of the tracks (of one track: of its end)
    static: bool = False  # nothing moves by itself, so clips may be played backwards
    skip_bad: bool = False
    source: str
    licence: str = "unknown"
    facts: dict[str, Any]  # for the manifest

    def __post_init__(self) -> None:
        if not 0.5 <= self.frames_per_second <= 240:
            raise ValueError(f"--fps must lie between 0.5 and 240, got {self.frames_per_second:g}")
        if self.frames_per_clip < 2:
            raise ValueError(f"--frames-per-clip must be at least 2, got {self.frames_per_clip}")
        if not 0.0 <= self.held_out <= 0.5:
            raise ValueError(f"--held-out must lie between 0 and 0.5, got {self.held_out:g}")
        if self.metres_per_unit is not None and not self.metres_per_unit > 0.0:
            raise ValueError(f"--scale must be above 0, got {self.metres_per_unit:g}")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    frames: NDArray[np.uint8]
    cameras: Array
    intrinsics: Array
    prompt: str
    track: str


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A track, the frames to read of it, and where among them its clips begin."""

    track: Track
    chosen: list[int]
    starts: list[int]  # none: too short
    longest: int  # frames in a row


@dataclass
class Outcome:
    clips: int = 0
    held_out: int = 0
    skipped: int = 0  # broken
    short: int = 0  # whole, but shorter than a clip


def import_tracks(
    items: Sequence[Item], config: ImportConfig, out: Path, workers: int = 1
) -> Outcome:
    """Write clip folder `out`, with the held-out clips in `out`/held-out; whole or not at all.

    With several `workers`, other processes open the items; what is written does not depend on it.

    Raises:
        ValueError: naming the first item that is broken, unless those are skipped, or if no clip is
            left.
        FileExistsError: if `out` is there.
    """
    if out.exists():
        raise FileExistsError(f"{out}: already there; choose another --out")
    outcome = Outcome()
    bad = _Bad(config.skip_bad, outcome)
    names = [item.name for item in items]
    with _openings(items, workers) as openings:
        tracks = [t for t in bad.map(_called, openings, names, "open") if t]
    scale, tracks = _scaled(tracks, config)
    found = bad.map(partial(_plan, config), tracks, [track.name for track in tracks], None)
    plans = [plan for plan in found if plan]
    long_enough = [plan for plan in plans if plan.starts]
    outcome.short = len(plans) - len(long_enough)
    if not long_enough:
        raise ValueError(_nothing(outcome, items, plans, config))
    train, held_out = _split(long_enough, config)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.partial")
    unfinished.mkdir(parents=True)
    try:
        outcome.clips = _write(train, unfinished, config, bad, scale)
        if held_out:
            outcome.held_out = _write(held_out, unfinished / HELD_OUT, config, bad, scale)
        if not outcome.clips:
            raise ValueError(_nothing(outcome, items, plans, config))
        unfinished.rename(out)
    except BaseException:  # an interrupted import leaves nothing behind
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return outcome


def _nothing(
    outcome: Outcome, items: Sequence[Item], plans: Sequence[Plan], config: ImportConfig
) -> str:
    text = f"nothing to import: {outcome.skipped} of {len(items)} skipped"
    if not outcome.short:
        return text
    longest = max(plan.longest for plan in plans)
    return (
        f"{text}, {outcome.short} too short: at most {longest} frames in a row at"
        f" {config.frames_per_second:g}/s, a clip has {config.frames_per_clip}; choose a smaller"
        " --frames-per-clip"
    )


@contextmanager
def _openings(items: Sequence[Item], workers: int) -> Iterator[list[Callable[[], Track]]]:
    """What gives the track of each item; if other processes do it, they have begun."""
    if workers == 1:
        yield [partial(_opened, item) for item in items]
        return
    processes = ProcessPoolExecutor(min(workers, len(items)), multiprocessing.get_context("spawn"))
    try:
        with single_threaded():
            futures = [processes.submit(_opened, item) for item in items]
        yield [future.result for future in futures]
    except BrokenProcessPool as error:
        raise ValueError("a process died; with fewer --workers less memory is needed") from error
    finally:
        processes.shutdown(cancel_futures=True)


def _opened(item: Item) -> Track:
    return checked(item.open())


def _called(opening: Callable[[], Track]) -> Track:
    return opening()


class _Bad:
    """What is broken ends the import, or is told and counted."""

    def __init__(self, skip: bool, outcome: Outcome) -> None:
        self._skip, self._outcome = skip, outcome

    def map(
        self,
        work: Callable[[Any], Any],
        inputs: Sequence[Any],
        names: Sequence[str],
        title: str | None,
    ) -> Iterator[Any]:
        """`work` of every input; None where it failed."""
        pairs = zip(inputs, names, strict=True)
        for one, name in tqdm(pairs, title, len(names), unit="track", disable=title is None):
            try:
                result = work(one)
            except ValueError as error:
                self.note(name, error)
                result = None
            yield result

    def note(self, name: str, error: ValueError) -> None:
        if not self._skip:
            raise ValueError(f"{name}: {error} (--skip-bad goes on without it)") from error
        print(f"skipped {name}: {error}", file=sys.stderr)
        self._outcome.skipped += 1


def _scaled(tracks: list[Track], config: ImportConfig) -> tuple[Scale, list[Track]]:
    """The same tracks in metres, level, and what a unit was found to be."""
    speed = typical_speed(tracks)
    if config.scale == "walk-each":
        units = [metres_per_unit([track]) for track in tracks]
    elif config.scale == "walk":
        units = [metres_per_unit(tracks)] * len(tracks)
    else:
        units = [config.metres_per_unit or 1.0] * len(tracks)
    scale = Scale(config.scale, float(np.median(units)) if units else 1.0, speed)
    pairs = zip(tracks, units, strict=True)
    return scale, [_in_metres(track, unit, level=config.level) for track, unit in pairs]


def _in_metres(track: Track, unit: float, *, level: bool) -> Track:
    cameras = track.cameras.copy()
    cameras[:, :3, 3] *= unit
    return replace(track, cameras=levelled(cameras) if level else cameras)


def _plan(config: ImportConfig, track: Track) -> Plan:
    parts = runs(track, config.frames_per_second)
    starts = windows([len(part) for part in parts], config.frames_per_clip)
    chosen = [index for part in parts for index in part]
    return Plan(track, chosen, starts, max(len(part) for part in parts))


def _split(plans: list[Plan], config: ImportConfig) -> tuple[list[Plan], list[Plan]]:
    """Whole tracks are held out, evenly spread and at least one; of a single track, its end."""
    share = config.held_out
    if share == 0.0 or not plans:
        return plans, []
    if len(plans) == 1:
        return _split_in_time(plans[0], config)
    held = {i for i in range(len(plans)) if int((i + 1) * share) > int(i * share)}
    held = held or {len(plans) - 1}
    train = [plan for i, plan in enumerate(plans) if i not in held]
    return train, [plan for i, plan in enumerate(plans) if i in held]


def _split_in_time(plan: Plan, config: ImportConfig) -> tuple[list[Plan], list[Plan]]:
    if len(plan.starts) < 2:
        return [plan], []
    late = plan.starts[-max(1, round(config.held_out * len(plan.starts))) :]
    early = [start for start in plan.starts if start + config.frames_per_clip <= late[0]]
    if not early:
        return [plan], []
    return [replace(plan, starts=early)], [replace(plan, starts=late)]


def _write(plans: list[Plan], folder: Path, config: ImportConfig, bad: _Bad, scale: Scale) -> int:
    """Write shards and a manifest; returns how many clips."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting: list[Clip] = []
    count = 0
    with _Shards(folder, config) as shards:
        for plan in tqdm(plans, "import", unit="track"):
            clips = _clips(plan, config)
            while True:
                try:
                    clip = next(clips, None)
                except ValueError as error:
                    bad.note(plan.track.name, error)
                    break
                if clip is None:
                    break
                waiting.append(clip)
                count += 1
                if len(waiting) == CLIPS_PER_SHARD:
                    shards.write(waiting)
                    waiting = []
        if waiting:
            shards.write(waiting)
    facts = config.facts | {
        "frames_per_second": config.frames_per_second,
        "size_px": [config.fit.width_px, config.fit.height_px],
        "tracks": len(plans),
    }
    if not count:
        folder.rmdir()
    else:
        told: dict[str, Any] = {"scale": asdict(scale), "import": facts}
        write_manifest(folder, source=config.source, licence=config.licence, **told)
    return count


def _clips(plan: Plan, config: ImportConfig) -> Iterator[Clip]:
    """The clips of a track, in order; a frame is read once, also where clips overlap."""
    track, length = plan.track, config.frames_per_clip
    needed = sorted({start + k for start in plan.starts for k in range(length)})
    kept: dict[int, tuple[NDArray[np.uint8], Array]] = {}
    starts = list(plan.starts)
    box, size = None, None
    frames = track.read([plan.chosen[place] for place in needed])
    for place, frame in zip(needed, frames, strict=True):
        height, width = frame.shape[:2]
        size = size or (width, height)
        if size != (width, height):
            raise ValueError(
                f"frames of {size[0]}x{size[1]} and of {width}x{height} px in one walk"
            )
        index = plan.chosen[place]
        box = box or config.fit.box(width, height, float(track.intrinsics[index, 0]))
        lens = fit_intrinsics(track.intrinsics[index], width, height, box)
        kept[place] = (config.fit.frame(frame, box), lens)
        if place == starts[0] + length - 1:
            start = starts.pop(0)
            places = range(start, start + length)
            yield Clip(
                frames=np.stack([kept[at][0] for at in places]),
                cameras=track.cameras[[plan.chosen[at] for at in places]],
                intrinsics=np.stack([kept[at][1] for at in places]),
                prompt=track.prompt,
                track=track.name,
            )
            first = starts[0] if starts else place + 1
            kept = {at: pair for at, pair in kept.items() if at >= first}


class _Shards:
    """Shards are written by threads while the next are gathered, a few at once, for memory's sake."""

    def __init__(self, folder: Path, config: ImportConfig) -> None:
        self._folder, self._config = folder, config
        self._threads = ThreadPoolExecutor(SHARDS_AT_ONCE)
        self._under_way: list[Future[None]] = []
        self._count = 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._under_way:
                future.result()

    def write(self, clips: Sequence[Clip]) -> None:
        while len(self._under_way) >= SHARDS_AT_ONCE:
            self._under_way.pop(0).result()
        path = self._folder / f"{self._count:05d}.safetensors"
        self._under_way.append(self._threads.submit(_write_shard, clips, path, self._config))
        self._count += 1


def _write_shard(clips: Sequence[Clip], path: Path, config: ImportConfig) -> None:
    write_shard(
        path,
        frames=np.stack([clip.frames for clip in clips]),
        cameras=np.stack([clip.cameras for clip in clips]),
        intrinsics=np.stack([clip.intrinsics for clip in clips]).astype(np.float32),
        prompts=[clip.prompt for clip in clips],
        metadata={
            "frames_per_second": json.dumps([config.frames_per_second] * len(clips)),
            "tracks": json.dumps([clip.track for clip in clips]),
            "one_way": json.dumps([not config.static] * len(clips)),
        },
    )
