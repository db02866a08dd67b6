"""Commands for clips from anywhere: import, data."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.commands import Command, decimals, refuse_to_overwrite


def add(command: Command) -> None:
    _add_import(command)
    _add_data(command)


def _add_import(command: Command) -> None:
    add = command("import", _import, "clips from recordings, games, videos, data sets").add_argument
    add("format", help="recording, poses, nerfstudio, realestate10k, tum, minwm, worldplay, game")
    add("src", help="a folder of that format (game: MODULE:FUNCTION)")
    add("--out", type=Path, required=True, help="a new clip folder; held-out/ is in it")
    add("--height-px", type=int, default=128)
    add("--width-px", type=int, default=224)
    add("--fps", type=float, default=12.0, help="of the clips; default 12")
    add("--frames-per-clip", type=int, default=64)
    add("--held-out", type=float, default=0.1, help="share of the walks kept for evaluation")
    add("--static", action="store_true", help="nothing moves by itself in this world")
    add("--skip-bad", action="store_true", help="tell and count what is broken, and go on")
    add("--scale", help="keep, walk, walk-each, or metres per unit; docs/your-own-world.md")
    add("--widest-deg", type=float, help="cut wider lenses to this horizontal field of view")
    add("--source-fps", type=float, help="of the source, where it has no clock")
    add("--intrinsics", help="fx,fy,cx,cy in pixels of the source, where it has none")
    add("--axes", default="opencv", help="of poses and tum: opencv, opengl, unity, unreal")
    add("--poses-are", choices=("world-from-camera", "camera-from-world"))
    add("--prompt", default="", help="of clips that have none")
    add("--source", help="who made it, for the manifest; default: format and name")
    add("--licence", default="unknown", help="of the data, for the manifest and the model card")
    add("--episodes", type=int, default=20, help="game: how many")
    add("--episode-frames", type=int, default=600, help="game: of each, at most")
    add("--seed", type=int, default=0, help="game: of the first episode")
    add("--workers", type=int, default=1, help="game: processes that play")


def _add_data(command: Command) -> None:
    data = command("data", _data, "look into a clip folder: info, check or view")
    data.add_argument("what", choices=("info", "check", "view"))
    data.add_argument("data", type=Path, help="a clip folder")
    data.add_argument("--json", action="store_true", help="info: as JSON")
    data.add_argument(
        "--out", type=Path, help="view: a picture; a plan (.svg) is written beside it"
    )
    data.add_argument("--clips", type=int, default=8, help="view: rows")
    data.add_argument("--columns", type=int, default=6, help="view: frames of each")
    data.add_argument("--overwrite", action="store_true")


def _import(arguments: argparse.Namespace) -> None:
    from distill.importers.fitting import Fit
    from distill.importers.formats import FORMATS, Format
    from distill.importers.writing import ImportConfig, import_tracks

    formats = {"recording": Format(_recorded, "keep", level=False), **FORMATS}
    if arguments.format not in formats:
        raise ValueError(f"format {arguments.format!r}: known are {', '.join(formats)}")
    chosen = formats[arguments.format]
    scale, metres = chosen.scale, None
    if arguments.scale in ("keep", "walk", "walk-each"):
        scale = arguments.scale
    elif arguments.scale is not None:
        scale, metres = "given", decimals(arguments.scale, "--scale", 1)[0]
    config = ImportConfig(
        fit=Fit(arguments.height_px, arguments.width_px, arguments.widest_deg),
        frames_per_second=arguments.fps,
        frames_per_clip=arguments.frames_per_clip,
        scale=scale,
        metres_per_unit=metres,
        level=chosen.level,
        held_out=arguments.held_out,
        static=arguments.static,
        skip_bad=arguments.skip_bad,
        source=arguments.source or f"{arguments.format}: {Path(arguments.src).resolve().name}",
        licence=arguments.licence,
        facts={"format": arguments.format},
    )
    if arguments.out.exists():
        raise FileExistsError(f"{arguments.out}: already there; choose another --out")
    if arguments.workers < 1 or (arguments.workers > 1 and not chosen.played):
        raise ValueError("--workers must be at least 1, and is for games")
    spool = arguments.out.with_name(f".{arguments.out.name}.{os.getpid()}.frames")
    items = chosen.find(arguments.src, _hints(arguments, spool))
    try:
        outcome = import_tracks(items, config, arguments.out, arguments.workers)
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
    skipped += f", {outcome.short} shorter than a clip left out" if outcome.short else ""
    print(f"{arguments.out}: {outcome.clips} clips, {outcome.held_out} held out{skipped}")


def _hints(arguments: argparse.Namespace, spool: Path) -> Any:
    from distill.importers.tracks import AXES, Hints

    if arguments.axes not in AXES:
        raise ValueError(f"--axes {arguments.axes!r}: known are {', '.join(AXES)}")
    if arguments.source_fps is not None and not 0 < arguments.source_fps <= 1000:
        raise ValueError(f"--source-fps must lie above 0, got {arguments.source_fps:g}")
    if min(arguments.episodes, arguments.episode_frames) < 1:
        raise ValueError("--episodes and --episode-frames must be at least 1")
    lens = arguments.intrinsics
    return Hints(
        fps=arguments.source_fps,
        intrinsics_px=None if lens is None else tuple(decimals(lens, "--intrinsics", 4)),  # type: ignore[arg-type]
        axes=arguments.axes,
        poses_are=arguments.poses_are,
        prompt=arguments.prompt,
        episodes=arguments.episodes,
        episode_frames=arguments.episode_frames,
        seed=arguments.seed,
        height_px=arguments.height_px,
        width_px=arguments.width_px,
        spool=spool,
    )


def _recorded(src: str, _hints: Any) -> list[Any]:
    """The ways of the recordings in `src`: the engine reads them, clips are made of them."""
    from distill.importers.recordings import Way, track_of
    from distill.importers.tracks import Item, folders_with
    from engine.events import EVENTS, VIDEO
    from engine.replay import read_recording, trajectories

    items = []
    for folder in folders_with(Path(src), EVENTS):
        recording = read_recording(folder)
        begins = [event["scene"] for event in recording.events if event["event"] == "begin"]
        prompt = begins[0]["prompt"] if len({scene["prompt"] for scene in begins}) == 1 else ""
        for nth, seen in enumerate(way for way in trajectories(recording) if way):
            lenses = [one.camera.intrinsics for one in seen]
            way = Way(
                name=f"{folder.name} {nth}",
                video=folder / VIDEO,
                frames_per_second=float(recording.header["frames_per_second"]),
                numbers=[one.video_frame for one in seen],
                cameras=np.array([one.camera.camera_from_world for one in seen]),
                intrinsics=np.array([(lens.fx, lens.fy, lens.cx, lens.cy) for lens in lenses]),
                prompt=prompt,
            )
            items.append(Item(way.name, partial(track_of, way)))
    return items


def _data(arguments: argparse.Namespace) -> None:
    from distill import clip_facts, clip_view
    from distill.clips import ClipSet

    if arguments.what == "info" and arguments.json:
        print(json.dumps(clip_facts.facts(ClipSet(arguments.data)), indent=1))
    elif arguments.what == "info":
        print(clip_facts.describe(arguments.data))
    elif arguments.what == "check":
        found = list(clip_facts.problems(arguments.data))
        if found:
            print("\n".join(found))
            raise ValueError(f"{arguments.data}: broken in {len(found)} places, listed above")
        print(f"{arguments.data}: {len(ClipSet(arguments.data))} clips, nothing is broken")
    else:
        if arguments.out is None:
            raise ValueError("view needs --out, a picture to write")
        refuse_to_overwrite(arguments)
        if min(arguments.clips, arguments.columns) < 1:
            raise ValueError("--clips and --columns must be at least 1")
        plan = clip_view.view(arguments.data, arguments.out, arguments.clips, arguments.columns)
        print(f"{arguments.out} and {plan}")
