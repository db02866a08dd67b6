"""Command line: `python -m distill pipeline|import|data|render|train|export|evaluate|...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from distill.clips import ClipSet
    from distill.prompt_change import Asking

E = TypeVar("E", bound=Any)


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    arguments = _parse(argv)
    try:
        arguments.run(arguments)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"distill {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; key=value may stand anywhere, also after options."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    takes_keys = hasattr(arguments, "overrides")
    late = [word for word in rest if takes_keys and "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in late]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if late:
        arguments.overrides += late
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill", description="Make playable world models.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text)
        sub.set_defaults(run=run)
        return sub

    pipeline = command("pipeline", _pipeline, "run all steps from clips to a measured model")
    pipeline.add_argument("config", type=Path, help="configs/pipeline/*.yaml")
    pipeline.add_argument("overrides", nargs="*", help="NAME=VALUE of the file's words")
    pipeline.add_argument("--out", type=Path, required=True, help="a folder; resumed if it exists")
    pipeline.add_argument("--processes", type=int, default=1, help="of training: one per GPU")
    pipeline.add_argument("--workers", type=int, default=0, help="of rendering; 0: by CPU cores")
    pipeline.add_argument("--here", action="store_true", help="run all commands in one process")
    pipeline.add_argument("--device")

    _add_making(command)
    _add_measuring(command)
    _add_judge(command)
    _add_import(command)
    _add_data(command)
    starts = command("starts", _starts, "render start frames from a table of places")
    starts.add_argument("--table", type=Path, default=Path("configs/data/starts.yaml"))
    starts.add_argument("--overwrite", action="store_true")
    starts.add_argument("--out", type=Path, required=True, help="a folder of PNGs")

    profile = command("profile", _profile, "how fast a stage trains here, on random data")
    profile.add_argument("config", type=Path)
    profile.add_argument("overrides", nargs="*", help="key.path=value")
    profile.add_argument("--steps", type=int, default=20)
    profile.add_argument("--warm", type=int, default=3, help="steps before those; default 3")
    profile.add_argument("--step-only", action="store_true", help="not the passes by themselves")
    profile.add_argument("--kernels", type=int, default=0, help="list the most expensive kernels")
    profile.add_argument(
        "--data", type=Path, help="also from this clip folder; of noise, if it is not there"
    )
    profile.add_argument("--device")

    walks = command("walks", _walks, "contact sheet of camera following, along a table of walks")
    walks.add_argument("model", type=Path)
    walks.add_argument("--table", type=Path, default=Path("configs/data/walks.yaml"))
    walks.add_argument("--overwrite", action="store_true")
    walks.add_argument("--out", type=Path, required=True, help="a PNG")
    walks.add_argument("--steps", type=int, help="denoising steps; default: those of play")
    walks.add_argument("--columns", type=int, default=7)
    walks.add_argument("--device")
    return parser


def _add_making(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    render = command("render", _render, "render training or evaluation clips")
    render.add_argument("config", type=Path)
    render.add_argument("overrides", nargs="*", help="key.path=value")
    render.add_argument("--out", type=Path, required=True)
    render.add_argument("--workers", type=int, default=0, help="processes; 0: one per CPU core")
    render.add_argument("--devices", type=int, default=1, help="GPUs to spread the workers over")
    render.add_argument("--sheet", type=Path, help="also write a contact sheet")

    train = command("train", _train, "run or resume one stage of training")
    train.add_argument("config", type=Path)
    train.add_argument("overrides", nargs="*", help="key.path=value")
    train.add_argument("--data", type=Path, required=True, help="a clip folder")
    train.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    train.add_argument("--init", type=Path, help="run or model folder to start from")
    train.add_argument("--teacher", type=Path, help="run folder of the teacher, to distil from")
    train.add_argument("--autoencoder", type=Path, help="run folder, to show samples with")
    train.add_argument("--device")

    encode = command("encode", _encode, "turn clips of frames into clips of latents")
    encode.add_argument("data", type=Path)
    encode.add_argument("--autoencoder", type=Path, required=True, help="run or model folder")
    encode.add_argument("--umt5", type=Path, help="Wan: to embed prompts the model does not know")
    encode.add_argument("--out", type=Path, required=True)
    encode.add_argument("--device")

    paths = command("trajectories", _trajectories, "store a teacher's paths, for ODE distillation")
    paths.add_argument("config", type=Path, help="configs/trajectories/*.yaml")
    paths.add_argument("overrides", nargs="*", help="key.path=value")
    paths.add_argument("--data", type=Path, required=True, help="a clip folder of latents")
    paths.add_argument("--teacher", type=Path, required=True, help="run folder")
    paths.add_argument(
        "--out", type=Path, required=True, help="a clip folder; resumed if it exists"
    )
    paths.add_argument("--device")

    export = command("export", _export, "join an autoencoder and a transformer to a playable model")
    export.add_argument("config", type=Path, help="configs/export/*.yaml")
    export.add_argument("overrides", nargs="*", help="key.path=value")
    export.add_argument("--autoencoder", type=Path, required=True, help="run folder")
    export.add_argument("--transformer", type=Path, required=True, help="run or model folder")
    export.add_argument("--data", type=Path, help="its clips: lens, limits, licence, starts, card")
    export.add_argument("--overwrite", action="store_true")
    export.add_argument("--out", type=Path, required=True)


def _add_measuring(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    evaluate = command("evaluate", _evaluate, "measure a playable model against rendered truth")
    evaluate.add_argument("model", type=Path)
    evaluate.add_argument("--data", type=Path, required=True, help="held-out clips")
    evaluate.add_argument("--overwrite", action="store_true")
    evaluate.add_argument("--out", type=Path, required=True, help="evaluation.json; .md beside it")
    evaluate.add_argument("--quick", action="store_true", help="a small measurement, for a CPU")
    evaluate.add_argument("--steps", help="also measured beside the model's own; default 4,2,16")
    evaluate.add_argument("--known", type=int, help="true context frames; default 4")
    evaluate.add_argument("--clips", type=int, help="default 64")
    evaluate.add_argument("--longest", type=int, help="longest horizon, frames; default 128")
    evaluate.add_argument("--walks", type=int, help="long walks; default 16")
    evaluate.add_argument("--walk-frames", type=int, help="of each; default 1000")
    evaluate.add_argument("--still-frames", type=int, help="of a resting camera; default 200")
    evaluate.add_argument("--videos", type=int, default=2, help="long walks written as videos")
    evaluate.add_argument("--ruler", type=Path, help="measure in the features of another model")
    evaluate.add_argument("--judge", type=Path, help="a file: also measure changes of the prompt")
    evaluate.add_argument("--commit", help="of this code, where there is no git to ask")
    evaluate.add_argument("--device")

    compare = command("compare", _compare, "several evaluations as one table")
    compare.add_argument("evaluations", type=Path, nargs="+", help="evaluation.json files")
    compare.add_argument("--samplers", action="store_true", help="a line per model and steps")
    compare.add_argument("--overwrite", action="store_true")
    compare.add_argument("--out", type=Path, required=True, help="a Markdown file")

    motion = command("motion", _motion, "how the cameras of clips move, beside recorded play")
    motion.add_argument("data", type=Path, help="a clip folder")
    motion.add_argument("--play", type=Path, nargs="*", default=[], help="exported recordings")
    motion.add_argument("--overwrite", action="store_true")
    motion.add_argument("--out", type=Path, required=True, help="a Markdown file; plots beside it")

    sample = command("sample", _sample, "contact sheet: truth above, generated below")
    sample.add_argument("model", type=Path)
    sample.add_argument("--data", type=Path, required=True)
    sample.add_argument("--overwrite", action="store_true")
    sample.add_argument("--out", type=Path, required=True, help="a PNG")
    sample.add_argument("--steps", type=int, help="denoising steps; default: those of play")
    sample.add_argument("--known", type=int, default=1, help="true context frames")
    sample.add_argument("--clips", type=int, default=10)
    sample.add_argument("--columns", default="0,1,4,8,16,24,32")
    sample.add_argument("--device")


def _add_judge(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    judge = command("judge", _judge, "train what tells place, hour and weather of a frame")
    judge.add_argument("what", choices=("train",))
    judge.add_argument(
        "--data", type=Path, required=True, help="rendered clips; prompts are labels"
    )
    judge.add_argument("--held-out", type=Path, required=True, help="clips to measure it on")
    judge.add_argument("--overwrite", action="store_true")
    judge.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    judge.add_argument("--steps", type=int, default=1500)
    judge.add_argument("--device")


def _add_import(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
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


def _add_data(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
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


def _refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    """Raises FileExistsError: what was measured or exported before is not lost by a typing error."""
    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(
            f"{arguments.out}: already there; choose another --out or --overwrite"
        )


def _pipeline(arguments: argparse.Namespace) -> None:
    from distill.pipeline import Machine, load_pipeline, run_pipeline

    config = load_pipeline(arguments.config, arguments.overrides)
    machine = Machine(
        processes=arguments.processes,
        workers=arguments.workers,
        device=arguments.device,
        here=arguments.here,
    )
    run_pipeline(config, arguments.out, machine, main)


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
        scale, metres = "given", _decimals(arguments.scale, "--scale", 1)[0]
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
    items = chosen.find(arguments.src, _hints(arguments))
    outcome = import_tracks(items, config, arguments.out)
    skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
    skipped += f", {outcome.short} shorter than a clip left out" if outcome.short else ""
    print(f"{arguments.out}: {outcome.clips} clips, {outcome.held_out} held out{skipped}")


def _hints(arguments: argparse.Namespace) -> Any:
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
        intrinsics_px=None if lens is None else tuple(_decimals(lens, "--intrinsics", 4)),  # type: ignore[arg-type]
        axes=arguments.axes,
        poses_are=arguments.poses_are,
        prompt=arguments.prompt,
        episodes=arguments.episodes,
        episode_frames=arguments.episode_frames,
        seed=arguments.seed,
        height_px=arguments.height_px,
        width_px=arguments.width_px,
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


def _decimals(text: str, flag: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"{flag} {text!r}: expected {count} numbers separated by commas")
    return numbers


def _render(arguments: argparse.Namespace) -> None:
    from distill.render import RenderConfig, render_dataset
    from worldmodel import config as strict

    config = strict.load(arguments.config, RenderConfig, arguments.overrides)
    render_dataset(
        config,
        arguments.out,
        workers=arguments.workers or os.cpu_count() or 1,
        devices=arguments.devices,
        sheet=arguments.sheet,
    )


def _train(arguments: argparse.Namespace) -> None:
    from distill.processes import join
    from distill.run import run_stage
    from distill.stages import load_stage

    stage, model = load_stage(arguments.config, arguments.overrides)
    with join(arguments.device) as processes:
        report = run_stage(
            stage,
            model,
            arguments.data,
            arguments.out,
            arguments.init,
            processes,
            arguments.teacher,
            arguments.autoencoder,
        )
        if processes.leads:
            print(json.dumps(report["last"] | {"seconds": report["seconds"]}))


def _encode(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.encode import encode_clips
    from distill.processes import join
    from distill.run import load_autoencoder
    from distill.wan_encode import encode_wan_clips
    from worldmodel.checkpoint import stored_kind

    clips, folder = ClipSet(arguments.data), arguments.autoencoder
    if stored_kind(folder, "decoder") is not None:
        with join(arguments.device) as processes:
            encode_wan_clips(clips, folder, arguments.out, processes, arguments.umt5)
        return
    if arguments.umt5 is not None:
        raise ValueError("--umt5 is for Wan models")
    autoencoder = load_autoencoder(folder)
    with join(arguments.device) as processes:
        encode_clips(clips, autoencoder, arguments.out, processes)


def _trajectories(arguments: argparse.Namespace) -> None:
    from distill.processes import join
    from distill.run import run_trajectories
    from distill.trajectories import TrajectoriesConfig
    from worldmodel import config as strict

    config = strict.load(arguments.config, TrajectoriesConfig, arguments.overrides)
    with join(arguments.device) as processes:
        facts = run_trajectories(
            config, arguments.data, arguments.teacher, arguments.out, processes
        )
        if processes.leads:
            print(json.dumps({key: facts[key] for key in ("seconds", "extra_bytes")}))


def _export(arguments: argparse.Namespace) -> None:
    from distill.run import export
    from worldmodel import config as strict
    from worldmodel.checkpoint import PlayableConfig

    _refuse_to_overwrite(arguments)
    playable = strict.load(arguments.config, PlayableConfig, arguments.overrides)
    parts = arguments.autoencoder, arguments.transformer
    export(playable, *parts, arguments.out, arguments.data)


def _evaluate(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.evaluate import Extent, load_truth
    from distill.features import Ruler
    from distill.long_play import LongPlay
    from distill.report import write_report
    from distill.result import evaluate
    from distill.run import load_for_evaluation

    _refuse_to_overwrite(arguments)
    if arguments.out.suffix != ".json":
        raise ValueError(f"--out {arguments.out}: must end in .json; a page is written beside it")
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if arguments.steps is not None:
        given["steps"] = tuple(_numbers(arguments.steps, "--steps"))
    extent = _filled(Extent.quick() if arguments.quick else Extent(), given)
    long_play = _filled(LongPlay.quick() if arguments.quick else LongPlay(), given)
    clips, model = ClipSet(arguments.data), load_for_evaluation(arguments.model, arguments.device)
    measured_by = (
        load_for_evaluation(arguments.ruler, arguments.device) if arguments.ruler else model
    )
    ruler = Ruler(measured_by.playable.name, measured_by.autoencoder.encoder)
    asking = _asking(arguments, clips, extent.known)
    truth = load_truth(clips, model, extent.clips, extent.known + extent.longest)
    evaluation = evaluate(model, truth, extent, long_play, ruler, asking)
    if arguments.commit:
        evaluation.numbers["commit"] = arguments.commit
    write_report(evaluation, model, truth, extent, arguments.out, videos=arguments.videos)
    print(arguments.out.with_suffix(".md").read_text(encoding="utf-8"))


def _asking(arguments: argparse.Namespace, clips: ClipSet, known: int) -> Asking | None:
    if arguments.judge is None:
        return None
    from distill.judge import load_judge
    from distill.prompt_change import Asking
    from worldmodel.session import choose_device

    judge, measured = load_judge(arguments.judge)
    prompts = [clips.frame_prompts(clip)[known - 1] for clip in range(len(clips))]
    return Asking(judge.to(choose_device(arguments.device)), measured, prompts)


def _judge(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.judge_training import JudgeTraining, train_judge
    from worldmodel.session import choose_device

    _refuse_to_overwrite(arguments)
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"--out {arguments.out}: must end in .safetensors")
    training = JudgeTraining(steps=arguments.steps)
    clips, held_out = ClipSet(arguments.data), ClipSet(arguments.held_out)
    device = choose_device(arguments.device)
    print(json.dumps(train_judge(clips, held_out, arguments.out, training, device), indent=1))


def _filled(extent: E, given: dict[str, Any]) -> E:
    """`extent` with the values of those flags that were given."""
    return replace(extent, **{f.name: given[f.name] for f in fields(extent) if f.name in given})


def _compare(arguments: argparse.Namespace) -> None:
    from distill.compare import compare, compare_samplers, load_evaluation, names_of
    from distill.result import write_atomically

    _refuse_to_overwrite(arguments)
    paths = arguments.evaluations
    found = {name: load_evaluation(path) for name, path in zip(names_of(paths), paths, strict=True)}
    page = compare_samplers(found) if arguments.samplers else compare(found)
    write_atomically(page + "\n", arguments.out)
    print(page)


def _motion(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.motion_coverage import motion_of_clips, motion_of_play, write_motion

    _refuse_to_overwrite(arguments)
    motions = {"training": motion_of_clips(ClipSet(arguments.data))}
    motions |= {f"play: {folder.name}": motion_of_play(folder) for folder in arguments.play}
    print(write_motion(motions, arguments.out))


def _sample(arguments: argparse.Namespace) -> None:
    from PIL import Image

    from distill import evaluate as evaluation
    from distill.clips import ClipSet
    from distill.run import load_for_evaluation

    _refuse_to_overwrite(arguments)
    columns = _numbers(arguments.columns, "--columns")
    clips, model = ClipSet(arguments.data), load_for_evaluation(arguments.model, arguments.device)
    image = evaluation.sheet(
        model,
        clips,
        count=arguments.clips,
        known=arguments.known,
        columns=columns,
        steps=arguments.steps or model.playable.rollout.steps,
    )
    Image.fromarray(image).save(arguments.out)


def _walks(arguments: argparse.Namespace) -> None:
    from PIL import Image

    from distill.run import load_for_evaluation
    from distill.walks import walk_sheet

    _refuse_to_overwrite(arguments)
    model = load_for_evaluation(arguments.model, arguments.device)
    steps = arguments.steps or model.playable.rollout.steps
    sheet = walk_sheet(model, arguments.table, steps=steps, columns=arguments.columns)
    Image.fromarray(sheet).save(arguments.out)


def _profile(arguments: argparse.Namespace) -> None:
    from distill.processes import join
    from distill.speed import Extent, profile_stage
    from distill.stages import load_stage

    if arguments.steps < 1 or arguments.warm < 0:
        raise ValueError("--steps must be at least 1 and --warm not negative")
    stage, model = load_stage(arguments.config, arguments.overrides)
    if arguments.data is not None and stage.network_name == "autoencoder":
        raise ValueError("--data is for stages of latents")
    extent = Extent(
        steps=arguments.steps,
        warm=arguments.warm,
        parts=not arguments.step_only,
        kernels=arguments.kernels,
        data=arguments.data,
    )
    with join(arguments.device) as processes:
        result = profile_stage(stage, model, processes, extent)
        lines = result.pop("kernels", [])
        if processes.leads:
            print("\n".join([json.dumps(result, indent=1), *lines]))


def _starts(arguments: argparse.Namespace) -> None:
    from distill.render import write_starts
    from distill.scenes.renderer import Renderer

    _refuse_to_overwrite(arguments)
    write_starts(arguments.table, arguments.out, Renderer())


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
        _refuse_to_overwrite(arguments)
        if min(arguments.clips, arguments.columns) < 1:
            raise ValueError("--clips and --columns must be at least 1")
        plan = clip_view.view(arguments.data, arguments.out, arguments.clips, arguments.columns)
        print(f"{arguments.out} and {plan}")


def _numbers(text: str, flag: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{flag} {text!r}: expected numbers separated by commas") from error


if __name__ == "__main__":
    raise SystemExit(main())
