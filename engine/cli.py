"""The command line of `play.py`, checked in full before anything slow is imported."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, get_args

from engine.display import check_display
from engine.library import find_model, shipped_models, start_files
from engine.output import MOST_SCALE, check_output, check_parent
from engine.paths import Poses, read_poses
from engine.replay import Recording, read_recording
from engine.saves import find_save
from engine.scene import Scene, read_image, read_start
from engine.settings import PlayConfig
from worldmodel import config, trajectory
from worldmodel.types import RuntimeChoice

BAD_INPUT = 2
DEFAULT_MODEL = "pocket"
FASTEST_FPS = 240.0
LEAST_SCRIPTED = 80  # frames: ten a leg
RUNTIMES = get_args(RuntimeChoice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line as typed."""

    model: str | None  # None: the shipped one, or that of a recording
    list_models: bool
    start: str | None
    load: str | None
    image: Path | None
    prompt: str | None  # None: what a start picture says of itself
    seed: int | None
    device: str | None
    runtime: RuntimeChoice | None  # None: the fastest there is, or that of a recording
    fp8: bool
    steps: int | None
    fps: float | None
    headless: bool
    trajectory: str | None
    poses: Path | None
    poses_are_world_from_camera: bool
    frames: int | None
    out: Path | None
    save_poses: Path | None
    scale: float
    report: Path | None
    record: Path | None
    scripted: int | None
    replay: Path | None
    export: Path | None
    overwrite: bool
    config: Path
    overrides: list[str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """The command line after everything was checked that needs no open model."""

    options: Options
    config: PlayConfig
    model: Path
    scene: Scene  # where play begins
    recording: Recording | None  # to be made again, instead of play
    scenes: list[Scene]  # the model's own starts, in the order of the digit keys
    save: Path | None  # the slot to go on from, instead of `scene`
    poses: Poses | None

    @property
    def title(self) -> bool:
        """Does play begin with the choice of worlds? Not if the command line has chosen."""
        options = self.options
        chosen = options.start, options.load, options.image, options.scripted
        return self.config.window.title and not any(chosen) and not options.prompt


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; `--help` has the rest."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def parse(argv: Sequence[str] | None, default_config: Path) -> Options:
    parser = Parser(
        prog="play.py",
        description="Walk through a world that a neural network generates frame by frame.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", help=f"a name in assets/ or a folder (default: {DEFAULT_MODEL})")
    add(
        "--list",
        action="store_true",
        dest="list_models",
        help="list the shipped models and their starts",
    )
    add("--config", type=Path, default=default_config, help="default: configs/play/default.yaml")
    add("overrides", nargs="*", metavar="key.path=value", help="single values of the config")
    add("--record", type=Path, metavar="DIR", help="record the session into a new folder")
    add("--report", type=Path, metavar="FILE.json", help="write the latencies that were measured")
    add(
        "--scripted",
        type=int,
        metavar="FRAMES",
        help="let a script play in the window, and write what was measured (--report)",
    )
    add("--overwrite", action="store_true", help="replace output that exists")
    _add_world(parser)
    _add_headless(parser)
    _add_replay(parser)
    return Options(**vars(parser.parse_args(argv)))


def _add_world(parser: Parser) -> None:
    add = parser.add_argument_group("world").add_argument
    add("--start", metavar="NAME", help="one of the model's start frames (default: the first)")
    add("--load", metavar="SAVE", help="go on from a save: its name in saves/ or its folder")
    add("--image", type=Path, help="start from your own picture")
    add("--prompt", help="what the world is like, for models that read it")
    add("--seed", type=int, help="default: random in the window, 0 headless")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the fastest there is)")
    add("--runtime", choices=RUNTIMES, help="what computes (default: auto, the fastest installed)")
    add("--fp8", action="store_true", help="compute in 8 bits where it is faster (NVIDIA GPUs)")
    add("--steps", type=int, help="denoising steps per frame (default: the model's)")
    add("--fps", type=float, help="rate of the world (default: what this machine holds)")


def _add_headless(parser: Parser) -> None:
    add = parser.add_argument_group("without a window").add_argument
    add("--headless", action="store_true", help="write a video; needs no display")
    add("--trajectory", metavar="KEYS", help='keys and frames, such as "w*20,l*10,wd*8"')
    add("--poses", type=Path, metavar="FILE.npy", help="(T, 4, 4) camera_from_world, OpenCV axes")
    add("--poses-are-world-from-camera", action="store_true", help="the poses are the inverse")
    add("--frames", type=int, help="how many to write; without a path the walk goes ahead")
    add("--out", type=Path, help="a video (.mp4, .mkv, .mov) or a folder for PNG frames")
    add("--save-poses", type=Path, metavar="FILE.npy", help="write the path that was walked")
    add("--scale", type=float, default=1.0, help="enlarge the written frames")


def _add_replay(parser: Parser) -> None:
    add = parser.add_argument_group("recordings").add_argument
    add("--replay", type=Path, metavar="DIR", help="make a recording again and compare it")
    add(
        "--export",
        type=Path,
        metavar="DIR",
        help="with --replay: write its path and images instead",
    )


def check(options: Options, assets: Path) -> Request:
    """Raises:
    ValueError, OSError: with the one line to show.
    """
    play_config = config.load(options.config, PlayConfig, options.overrides)
    _check_numbers(options)
    _check_scripted(options)
    recording = _check_replay(options)
    model = _find_model(options, recording, assets)
    if options.record is not None:
        _check_record(options.record)
    if recording is not None:
        if options.out is not None:
            check_output(options.out, overwrite=options.overwrite)
    elif options.headless:
        _check_headless(options)
    else:
        _check_windowed(options)
    if options.report is not None:
        _check_file(options.report, ".json", "a report", overwrite=options.overwrite)
    poses = None
    if options.poses is not None:
        inverse = options.poses_are_world_from_camera
        poses = read_poses(options.poses, world_from_camera=inverse)
    seed = options.seed
    if seed is None:
        seed = 0 if options.headless else random.randrange(2**31)
    save = None if options.load is None else _check_load(options, play_config)
    scenes = [read_start(file, seed, options.prompt) for file in start_files(model).values()]
    scene = _first_scene(options, seed, scenes, model)
    return Request(
        options=options,
        config=play_config,
        model=model,
        recording=recording,
        scene=scene,
        scenes=scenes,
        save=save,
        poses=poses,
    )


def _find_model(options: Options, recording: Recording | None, assets: Path) -> Path:
    if options.model is not None or recording is None:
        return find_model(options.model or DEFAULT_MODEL, assets)
    name, folder = str(recording.header["model"]), recording.header["folder"]
    for known in (folder, name):
        if known is not None and (Path(known).is_dir() or known in shipped_models(assets)):
            return find_model(str(known), assets)
    raise ValueError(f"recording {recording.folder}: its model {name!r} is not here; name --model")


def _check_replay(options: Options) -> Recording | None:
    if options.replay is None:
        if options.export is not None:
            raise ValueError("--export needs --replay")
        return None
    forbidden = {
        "--headless": options.headless,
        "--record": options.record,
        "--report": options.report,
        "--scripted": options.scripted,
        "--start": options.start,
        "--image": options.image,
        "--load": options.load,
        "--seed": options.seed,
        "--trajectory": options.trajectory,
        "--poses": options.poses,
    }
    for flag, value in forbidden.items():
        if value not in (None, False):
            raise ValueError(f"--replay and {flag} exclude each other")
    if options.export is not None and options.export.exists():
        raise ValueError(f"output {options.export} exists; name a new folder")
    return read_recording(options.replay)


def _check_record(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output {folder} exists; record into a new folder")
    check_parent(folder)


def _check_load(options: Options, play_config: PlayConfig) -> Path:
    assert options.load is not None
    slot = find_save(options.load, Path(play_config.saves))
    if options.headless:
        raise ValueError("--load needs a window")
    if options.start is not None or options.image is not None:
        raise ValueError("--load excludes --start and --image")
    return slot


def _check_numbers(options: Options) -> None:
    fps, scale = options.fps, options.scale
    if fps is not None and not 1.0 <= fps <= FASTEST_FPS:
        raise ValueError(f"--fps must lie between 1 and {FASTEST_FPS:.0f}, got {fps}")
    if not (math.isfinite(scale) and 0.0 < scale <= MOST_SCALE):
        raise ValueError(f"--scale must lie above 0 and be at most {MOST_SCALE}, got {scale}")
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    if options.frames is not None and not 1 <= options.frames <= trajectory.MAX_FRAMES:
        raise ValueError(
            f"--frames must lie between 1 and {trajectory.MAX_FRAMES:,}, got {options.frames}"
        )
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed must lie between 0 and 2^63 - 1, got {options.seed}")


def _check_scripted(options: Options) -> None:
    if options.scripted is None:
        return
    if not LEAST_SCRIPTED <= options.scripted <= trajectory.MAX_FRAMES:
        raise ValueError(
            f"--scripted must lie between {LEAST_SCRIPTED} and {trajectory.MAX_FRAMES:,},"
            f" got {options.scripted}"
        )
    if options.report is None:
        raise ValueError("--scripted needs --report FILE.json")
    for flag, value in {"--headless": options.headless, "--record": options.record}.items():
        if value:
            raise ValueError(f"--scripted and {flag} exclude each other")


def _check_windowed(options: Options) -> None:
    headless_only = {
        "--trajectory": options.trajectory,
        "--poses": options.poses,
        "--frames": options.frames,
        "--out": options.out,
        "--save-poses": options.save_poses,
    }
    for flag, value in headless_only.items():
        if value is not None:
            raise ValueError(f"{flag} needs --headless")
    check_display()


def _check_headless(options: Options) -> None:
    if options.trajectory is not None and options.poses is not None:
        raise ValueError("--trajectory and --poses exclude each other")
    if options.poses is None and options.poses_are_world_from_camera:
        raise ValueError("--poses-are-world-from-camera needs --poses")
    if options.trajectory is not None:
        trajectory.parse(options.trajectory, frames_per_second=1.0)  # the rate changes no error
    if options.out is not None:
        check_output(options.out, overwrite=options.overwrite)
    if options.save_poses is not None:
        _check_file(options.save_poses, ".npy", "a path", overwrite=options.overwrite)


def _check_file(path: Path, suffix: str, what: str, *, overwrite: bool) -> None:
    if path.suffix != suffix:
        raise ValueError(f"output {path}: {what} is written to a {suffix} file")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"output {path} exists; add --overwrite to replace it")
    check_parent(path)


def _first_scene(options: Options, seed: int, scenes: list[Scene], model: Path) -> Scene:
    prompt = options.prompt or ""
    if options.image is not None:
        if options.start is not None:
            raise ValueError("--start and --image exclude each other")
        return Scene(options.image.stem, seed, read_image(options.image), prompt)
    if options.start is None:
        return scenes[0] if scenes else Scene("", seed, None, prompt)
    for scene in scenes:
        if scene.name == options.start:
            return scene
    known = ", ".join(scene.name for scene in scenes) or "none"
    raise ValueError(f"unknown start {options.start!r}; starts of {model.name}: {known}")
