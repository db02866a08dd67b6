"""Commands that measure: evaluate, margins, teacher, table, judge, compare, motion, walks and others."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from distill.commands import Command, decimals, filled, numbers, refuse_to_overwrite

if TYPE_CHECKING:
    from distill.clips import ClipSet
    from distill.prompt_change import Asking


def add(command: Command) -> None:
    _add_measuring(command)
    _add_table(command)
    _add_teacher(command)
    _add_judge(command)
    _add_profile(command)
    _add_walks(command)


def _add_measuring(command: Command) -> None:
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
    evaluate.add_argument(
        "--without-words", action="store_true", help="do not tell the model the clips' prompts"
    )
    evaluate.add_argument("--camera-pairs", type=int, help="moments of each clip; default 16")
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


def _add_table(command: Command) -> None:
    margins = command("margins", _margins, "what a student of one run gains, world by world")
    margins.add_argument("config", type=Path, help="how it is played: configs/export/*.yaml")
    margins.add_argument("overrides", nargs="*", help="key.path=value")
    margins.add_argument("--autoencoder", type=Path, required=True, help="run or model folder")
    margins.add_argument("--transformer", type=Path, required=True, help="run or model folder")
    margins.add_argument("--data", type=Path, required=True, help="held-out clips")
    margins.add_argument("--steps", help="several, as in 1,2,4; default: those it is played with")
    margins.add_argument("--known", type=int, help="true context frames; default 4")
    margins.add_argument("--clips", type=int, help="default 64")
    margins.add_argument("--without-words", action="store_true", help="of the clips' prompts")
    margins.add_argument("--longest", type=int, help="longest horizon, frames; default 32")
    margins.add_argument("--fp8", action="store_true", help="8-bit linear layers (NVIDIA GPUs)")
    margins.add_argument("--overwrite", action="store_true")
    margins.add_argument("--out", type=Path, required=True, help="a JSON file; a PNG beside it")
    margins.add_argument("--device")

    upscaling = command("upscaling", _upscaling, "how close large frames are to the truth")
    upscaling.add_argument("--autoencoder", type=Path, required=True, help="run or model folder")
    upscaling.add_argument("--upscaler", type=Path, required=True, help="run or model folder")
    upscaling.add_argument("--data", type=Path, required=True, help="held-out clips, large")
    upscaling.add_argument("--clips", type=int, help="default 40")
    upscaling.add_argument("--every", type=int, help="frames of which one counts; default 4")
    upscaling.add_argument("--overwrite", action="store_true")
    upscaling.add_argument("--out", type=Path, required=True, help="a JSON file; a PNG beside it")
    upscaling.add_argument("--device")

    table = command("table", _table, "what initialisations of stage 3 cost and lead to")
    table.add_argument("config", type=Path, help="configs/table/*.yaml")
    table.add_argument("overrides", nargs="*", help="key.path=value")
    table.add_argument("--runs", type=Path, required=True, help="the --out of a pipeline")
    table.add_argument("--overwrite", action="store_true")
    table.add_argument(
        "--out", type=Path, required=True, help="a Markdown file; JSON and JPG beside"
    )


def _add_teacher(command: Command) -> None:
    teacher = command("teacher", _teacher, "what a teacher of stage 3 makes by itself")
    teacher.add_argument("transformer", type=Path, help="its run folder, of stage 0")
    teacher.add_argument("--model", type=Path, required=True, help="whose frames: a model folder")
    teacher.add_argument("--data", type=Path, required=True, help="held-out clips")
    teacher.add_argument("--clips", type=int, help="default 24")
    teacher.add_argument("--first", type=int, help="frame of each clip it begins at; default 48")
    teacher.add_argument("--levels", help="of noise that it begins with; default 1.0,0.75,0.5")
    teacher.add_argument("--given", help="first frames it is given, as in 0,4; default 0")
    teacher.add_argument("--guidance", type=float, help="over no words; default 1.0: none")
    teacher.add_argument("--worse-teacher", type=Path, help="run folder; to be led away from it")
    teacher.add_argument("--autoguidance", type=float, help="over the worse one; default 1.0: none")
    teacher.add_argument("--denoising-steps", type=int, help="default 48")
    teacher.add_argument("--shift", type=float, help="of their noise levels; default 3.0")
    teacher.add_argument("--overwrite", action="store_true")
    teacher.add_argument("--out", type=Path, required=True, help="a JSON file; a PNG beside it")
    teacher.add_argument("--device")


def _add_judge(command: Command) -> None:
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


def _add_profile(command: Command) -> None:
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


def _add_walks(command: Command) -> None:
    walks = command("walks", _walks, "contact sheet of camera following, along a table of walks")
    walks.add_argument("model", type=Path)
    walks.add_argument("--table", type=Path, default=Path("configs/data/walks.yaml"))
    walks.add_argument("--overwrite", action="store_true")
    walks.add_argument("--out", type=Path, required=True, help="a PNG")
    walks.add_argument("--steps", type=int, help="denoising steps; default: those of play")
    walks.add_argument("--columns", type=int, default=7)
    walks.add_argument("--device")


def _evaluate(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.evaluate import Extent, load_truth
    from distill.features import Ruler
    from distill.long_play import LongPlay
    from distill.report import write_report
    from distill.result import evaluate
    from distill.run import load_for_evaluation

    refuse_to_overwrite(arguments)
    if arguments.out.suffix != ".json":
        raise ValueError(f"--out {arguments.out}: must end in .json; a page is written beside it")
    if arguments.videos and find_spec("av") is None:  # said now, not after all was measured
        raise ValueError("videos are written with av: pip install av, or ask for --videos 0")
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if arguments.steps is not None:
        given["steps"] = tuple(numbers(arguments.steps, "--steps"))
    given["words"] = not arguments.without_words
    extent = filled(Extent.quick() if arguments.quick else Extent(), given)
    long_play = filled(LongPlay.quick() if arguments.quick else LongPlay(), given)
    clips, model = ClipSet(arguments.data), load_for_evaluation(arguments.model, arguments.device)
    measured_by = (
        load_for_evaluation(arguments.ruler, arguments.device) if arguments.ruler else model
    )
    ruler = Ruler(measured_by.playable.name, measured_by.autoencoder.encoder)
    asking = _asking(arguments, clips, extent.known)
    frames = extent.known + extent.longest
    truth = load_truth(clips, model, extent.clips, frames, words=extent.words)
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
    from worldmodel.runtime import choose_device

    judge, measured = load_judge(arguments.judge)
    prompts = [clips.frame_prompts(clip)[known - 1] for clip in range(len(clips))]
    return Asking(judge.to(choose_device(arguments.device)), measured, prompts)


def _judge(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.judge_training import JudgeTraining, train_judge
    from worldmodel.runtime import choose_device

    refuse_to_overwrite(arguments)
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"--out {arguments.out}: must end in .safetensors")
    training = JudgeTraining(steps=arguments.steps)
    clips, held_out = ClipSet(arguments.data), ClipSet(arguments.held_out)
    device = choose_device(arguments.device)
    print(json.dumps(train_judge(clips, held_out, arguments.out, training, device), indent=1))


def _margins(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.margins import Extent, write_margins
    from distill.run import join_for_evaluation
    from worldmodel import config as strict
    from worldmodel.checkpoint import PlayableConfig

    refuse_to_overwrite(arguments)
    _place_for_json(arguments.out)
    playable = strict.load(arguments.config, PlayableConfig, arguments.overrides)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if arguments.steps is not None:
        given["steps"] = tuple(numbers(arguments.steps, "--steps"))
    given["words"] = not arguments.without_words
    parts = arguments.autoencoder, arguments.transformer
    model = join_for_evaluation(playable, *parts, arguments.device)
    clips, extent = ClipSet(arguments.data), filled(Extent(), given)
    measured = write_margins(model, clips, extent, arguments.out)
    print(json.dumps({"worlds": measured["worlds"], "seconds": measured["seconds"]}))


def _teacher(arguments: argparse.Namespace) -> None:
    from distill import lineage
    from distill.clips import ClipSet
    from distill.run import join_for_evaluation
    from distill.teacher_samples import Extent, write_samples
    from worldmodel.checkpoint import read_playable

    refuse_to_overwrite(arguments)
    _place_for_json(arguments.out)
    lineage.check_direction(arguments.transformer, "bidirectional", "teacher")
    if arguments.worse_teacher is not None:
        lineage.check_direction(arguments.worse_teacher, "bidirectional", "--worse-teacher")
    asked = {name: value for name, value in vars(arguments).items() if value is not None}
    if arguments.given is not None:
        asked["given"] = tuple(numbers(arguments.given, "--given"))
    if arguments.levels is not None:
        count = arguments.levels.count(",") + 1
        asked["levels"] = tuple(decimals(arguments.levels, "--levels", count))
    extent = filled(Extent(), asked)
    if (arguments.worse_teacher is None) == (extent.autoguidance > 1.0):
        raise ValueError("--worse-teacher RUN and --autoguidance above 1 belong together")
    playable = read_playable(arguments.model)
    teacher, *worse = (
        join_for_evaluation(playable, arguments.model, run, arguments.device)
        for run in (arguments.transformer, arguments.worse_teacher)
        if run is not None
    )
    measured = write_samples(teacher, ClipSet(arguments.data), extent, arguments.out, *worse)
    for row in (measured["autoencoder"], *measured["rows"]):
        print(json.dumps(row))


def _place_for_json(out: Path) -> None:
    """Before minutes are spent on what could then not be written."""
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: must end in .json; a picture is written beside it")
    out.parent.mkdir(parents=True, exist_ok=True)


def _upscaling(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.run import load_autoencoder, needed_upscaler
    from distill.upscaling import Extent, write_upscaling
    from worldmodel.runtime import choose_device
    from worldmodel.upscaler import UpscaledAutoencoder

    refuse_to_overwrite(arguments)
    _place_for_json(arguments.out)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    parts = load_autoencoder(arguments.autoencoder), needed_upscaler(arguments.upscaler)
    clips, extent = ClipSet(arguments.data), filled(Extent(), given)
    device = choose_device(arguments.device)
    measured = write_upscaling(UpscaledAutoencoder(*parts), clips, extent, device, arguments.out)
    print(json.dumps(measured["ways"]))


def _table(arguments: argparse.Namespace) -> None:
    from distill.table import TableConfig, write_table
    from worldmodel import config as strict

    refuse_to_overwrite(arguments)
    if arguments.out.suffix != ".md":
        raise ValueError(f"--out {arguments.out}: must end in .md; JSON and JPG are beside it")
    config = strict.load(arguments.config, TableConfig, arguments.overrides)
    print(write_table(config, arguments.runs, arguments.out))


def _compare(arguments: argparse.Namespace) -> None:
    from distill.compare import compare, compare_samplers, load_evaluation, names_of
    from distill.result import write_atomically

    refuse_to_overwrite(arguments)
    paths = arguments.evaluations
    found = {name: load_evaluation(path) for name, path in zip(names_of(paths), paths, strict=True)}
    page = compare_samplers(found) if arguments.samplers else compare(found)
    write_atomically(page + "\n", arguments.out)
    print(page)


def _motion(arguments: argparse.Namespace) -> None:
    from distill.clips import ClipSet
    from distill.motion_coverage import motion_of_clips, motion_of_play, write_motion

    refuse_to_overwrite(arguments)
    motions = {"training": motion_of_clips(ClipSet(arguments.data))}
    motions |= {f"play: {folder.name}": motion_of_play(folder) for folder in arguments.play}
    print(write_motion(motions, arguments.out))


def _sample(arguments: argparse.Namespace) -> None:
    from PIL import Image

    from distill import evaluate as evaluation
    from distill.clips import ClipSet
    from distill.run import load_for_evaluation

    refuse_to_overwrite(arguments)
    columns = numbers(arguments.columns, "--columns")
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

    refuse_to_overwrite(arguments)
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
    if arguments.data is not None and stage.sees_frames:
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
