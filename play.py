"""Walk through a world that a neural network generates: in a window, or headless into a video."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine import cli, library, output, paths, saves
from engine.cli import Request
from engine.events import VIDEO
from engine.replay import Recording
from worldmodel.types import GeneratorSpec, RuntimeChoice, WorldGenerator

if TYPE_CHECKING:
    from engine.game import Game

ROOT = Path(__file__).resolve().parent
ASSETS = ROOT / "assets"
CONFIG = ROOT / "configs" / "play" / "default.yaml"
INTERRUPTED = 130


class LoadWorld(Protocol):
    def __call__(
        self,
        folder: Path,
        *,
        device: str | None = None,
        steps: int | None = None,
        frames_per_second: float | None = None,
        runtime: RuntimeChoice = "auto",
        fp8: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> WorldGenerator:
        """`tell` hears what takes long.

        Raises ValueError or FileNotFoundError, in one clear line, for a model it cannot open.
        """
        ...


def main(argv: Sequence[str] | None = None, load_world: LoadWorld | None = None) -> int:
    """Play, and return the exit code: 0, 2 for bad input, 130 when interrupted.

    1 if a replay is not what was recorded.
    """
    try:
        options = cli.parse(argv, CONFIG)
    except SystemExit as leaving:  # argparse's end, of --help as of an error
        return int(leaving.code or 0)
    try:
        if options.list_models:
            print(library.describe(ASSETS))
            return 0
        request = cli.check(options, ASSETS)
        load = load_world or load_session
        if request.recording is not None:
            return run_replay(request, request.recording, load)
        run = run_headless if options.headless else run_window
        run(request, load)
    except (ValueError, OSError) as error:
        print(f"play.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return cli.BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def load_session(
    folder: Path,
    *,
    device: str | None = None,
    steps: int | None = None,
    frames_per_second: float | None = None,
    runtime: RuntimeChoice = "auto",
    fp8: bool = False,
    tell: Callable[[str], None] | None = None,
) -> WorldGenerator:
    from worldmodel import runtime as runtimes
    from worldmodel import session  # brings torch: seconds that bad input need not wait for

    world = session.load_session(
        folder,
        device=device,
        steps=steps,
        frames_per_second=frames_per_second,
        runtime=runtime,
        fp8=fp8,
        tell=tell,
    )
    runtimes.spare_threads(world.runtime)
    return world


def say(words: str) -> None:
    """To people; standard output is for results."""
    print(words, file=sys.stderr)


def write_state(path: Path, state: dict[str, Any]) -> None:
    from worldmodel import saves as states

    states.write_state(path, state)


def read_state(path: Path) -> dict[str, Any]:
    from worldmodel import saves as states

    return states.read_state(path)


STATES = saves.StateFormat(write_state, read_state)


def run_window(request: Request, load_world: LoadWorld) -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from engine.game import Game  # brings pygame and OpenGL
    from engine.warmup import Waiting, warm_at_held_rate

    options, waiting = request.options, Waiting()
    config = request.config
    kept = options.steps is not None or options.scripted is not None  # what is measured stays
    effort = replace(config.effort, auto=False) if kept else config.effort

    def prepare() -> WorldGenerator:
        world = load_world(
            request.model,
            device=options.device,
            steps=options.steps,
            frames_per_second=options.fps,
            runtime=options.runtime or "auto",
            fp8=options.fp8,
            tell=waiting.tell,
        )
        warm_at_held_rate(world, request.scene.start, options.fps, effort=effort)
        return world

    begin = request.scene if request.save is None else saves.read_save(request.save, STATES)
    game = Game(
        prepare,
        begin,
        request.scenes,
        request.model,
        replace(config, effort=effort),
        STATES,
        options.record,
        title=request.title,
        waiting=waiting,
    )
    if options.scripted is not None:
        run_scripted(game, options.scripted, config.keys.forward[0], options.report)
        return
    game.run()
    if options.report is not None:
        game.write_report(options.report)


def run_scripted(game: Game, frames: int, forward: str, report: Path | None) -> None:
    from engine.scripted import ScriptedPlayer

    assert report is not None, "the command line was checked"
    size = game.window.size
    played = ScriptedPlayer(game, forward).play(frames)
    game.write_report(report, window_px=size, effort=game.loop.stats().effort, **played.as_json())
    for remark in played.remarks():
        print(remark)
    for measure in played.measures:
        print(measure)
    print(f"{report}: {game.loop.stats().steps} steps")


def run_headless(request: Request, load_world: LoadWorld) -> None:
    from engine import headless, latency, recording, video  # bring the video library

    options = request.options
    rate = options.fps or request.config.headless_frames_per_second
    recordings = Path(request.config.recordings)
    out = options.out or output.free_name(recordings, request.model.name, ".mp4")
    world = load_world(
        request.model,
        device=options.device,
        steps=options.steps,
        frames_per_second=rate,
        runtime=options.runtime or "auto",
        fp8=options.fp8,
        tell=say,
    )
    spec = world.spec
    poses = choose_path(request, spec)
    recorder = None
    if options.record is not None:
        recorder = recording.Recorder(options.record, STATES, request.model)
    try:
        report = headless.run_headless(
            world,
            request.scene.start(spec),
            paths.cameras(poses, spec),
            video.open_sink(out, rate, options.scale),
            frames=options.frames,
            recorder=recorder,
        )
    finally:
        if recorder is not None:
            recorder.close()
    if recorder is not None and recorder.error:
        raise ValueError(f"recording stopped: {recorder.error}")
    if options.save_poses is not None:
        video.save_poses(options.save_poses, poses)
    if options.report is not None:
        latency.write_report(
            options.report,
            report.latency,
            model=spec.name,
            frames=report.frames,
            frames_per_second=round(report.frames_per_second, 2),
            runtime=spec.runtime,
        )
    print(
        f"{out}: {report.frames} frames at {rate:g}/s, seed {request.scene.seed};"
        f" first frame {report.first_frame_s:.2f} s, then {report.frames_per_second:.1f} frames/s"
        + (f", by {spec.runtime}" if spec.runtime else "")
    )


def run_replay(request: Request, recorded: Recording, load_world: LoadWorld) -> int:
    from engine import export, replay, video  # bring the video library

    options, header = request.options, recorded.header
    if not recorded.complete:
        print(f"{recorded.folder}: cut short by a crash; {recorded.steps} steps are there")
    if options.export is not None:
        frames = export.export(recorded, options.export)
        print(f"{options.export}: {frames} frames")
        return 0
    world = load_world(
        request.model,
        device=options.device,
        steps=options.steps or header["steps"] or None,
        frames_per_second=header["frames_per_second"],
        runtime=options.runtime or recorded.runtime,
        fp8=options.fp8 or recorded.fp8,
        tell=say,
    )
    shown = replay.replay(recorded, world, STATES)
    other = world.spec.weights != header["weights"]
    if other and options.model is None:
        say(f"{request.model} is another version of the model than the recorded one")
    sink = None
    if options.out is not None:
        sink = video.open_sink(options.out, header["frames_per_second"], options.scale)
    beside = recorded.folder / VIDEO if other else None
    result = replay.compare(video.write_replay(shown, sink, beside))
    print(f"{recorded.folder}: {result.describe(other=other)}")
    return 0 if other or result.first is None else 1


def choose_path(request: Request, spec: GeneratorSpec) -> paths.Poses:
    """Raises ValueError if the path is shorter than --frames."""
    options = request.options
    if request.poses is not None:
        poses = request.poses
    elif options.trajectory is None and options.frames is not None:
        return paths.walk_ahead(options.frames, spec)
    else:
        poses = paths.walk_trajectory(options.trajectory or paths.DEFAULT_TRAJECTORY, spec)
    frames = paths.frame_count(len(poses), spec)
    if options.frames is not None and options.frames > frames:
        raise ValueError(f"--frames {options.frames}: the path has only {frames} frames")
    return poses


if __name__ == "__main__":
    sys.exit(main())
