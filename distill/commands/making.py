"""Commands that make models: render, train, encode, trajectories, export, pipeline, moments."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from distill.commands import Command, refuse_to_overwrite


def add(command: Command) -> None:
    _add_pipeline(command)
    _add_making(command)
    _add_starts(command)
    _add_moments(command)


def _add_pipeline(command: Command) -> None:
    pipeline = command("pipeline", _pipeline, "run all steps from clips to a measured model")
    pipeline.add_argument("config", type=Path, help="configs/pipeline/*.yaml")
    pipeline.add_argument("overrides", nargs="*", help="NAME=VALUE of the file's words")
    pipeline.add_argument("--out", type=Path, required=True, help="a folder; resumed if it exists")
    pipeline.add_argument("--processes", type=int, default=1, help="of training: one per GPU")
    pipeline.add_argument(
        "--lanes",
        type=int,
        default=1,
        help="steps at once; more than GPUs share them; logs in files",
    )
    pipeline.add_argument("--only", help="a pattern: steps of such names, and what they read")
    pipeline.add_argument(
        "--keep-going", action="store_true", help="after a failure, with what does not depend on it"
    )
    pipeline.add_argument(
        "--renew", action="store_true", help="a new process for every step of a lane"
    )
    pipeline.add_argument("--workers", type=int, default=0, help="of rendering; 0: by CPU cores")
    pipeline.add_argument("--here", action="store_true", help="run all commands in one process")
    pipeline.add_argument("--device")


def _add_making(command: Command) -> None:
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
    train.add_argument(
        "--worse-teacher", type=Path, help="run folder of what objective.autoguidance leads away from"
    )
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
    export.add_argument(
        "--averaged-with",
        type=Path,
        action="append",
        default=[],
        help="another: their mean is exported",
    )
    export.add_argument("--upscaler", type=Path, help="its run folder; or a model: drawn as its frames")
    export.add_argument("--data", type=Path, help="its clips: lens, limits, licence, starts, card")
    export.add_argument("--overwrite", action="store_true")
    export.add_argument("--out", type=Path, required=True)


def _add_starts(command: Command) -> None:
    starts = command("starts", _starts, "render start frames from a table of places")
    starts.add_argument("--table", type=Path, default=Path("configs/data/starts.yaml"))
    starts.add_argument("--overwrite", action="store_true")
    starts.add_argument("--out", type=Path, required=True, help="a folder of PNGs")


def _add_moments(command: Command) -> None:
    moments = command("moments", _moments, "a copy of a model that keeps long walks from drifting")
    moments.add_argument("model", type=Path)
    moments.add_argument("--data", type=Path, required=True, help="clips of true frames")
    moments.add_argument("--limit", type=float, default=18.0, help="worldmodel/drift.py")
    moments.add_argument("--out", type=Path, required=True, help="a new model folder")


def _moments(arguments: argparse.Namespace) -> None:
    from distill.run import write_moments

    if arguments.out.exists():
        raise FileExistsError(f"{arguments.out}: already there; choose another --out")
    write_moments(arguments.model, arguments.data, arguments.out, arguments.limit)


def _pipeline(arguments: argparse.Namespace) -> None:
    from distill.__main__ import main
    from distill.pipeline import Machine, run_pipeline
    from distill.pipeline_steps import load_pipeline

    config = load_pipeline(arguments.config, arguments.overrides)
    machine = Machine(
        processes=arguments.processes,
        lanes=arguments.lanes,
        workers=arguments.workers,
        device=arguments.device,
        here=arguments.here,
        keep_going=arguments.keep_going,
        renew=arguments.renew,
    )
    run_pipeline(config, arguments.out, machine, main, arguments.only)


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
            arguments.worse_teacher,
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

    refuse_to_overwrite(arguments)
    playable = strict.load(arguments.config, PlayableConfig, arguments.overrides)
    parts = arguments.autoencoder, arguments.transformer
    more = arguments.averaged_with, arguments.upscaler
    export(playable, *parts, arguments.out, arguments.data, *more)


def _starts(arguments: argparse.Namespace) -> None:
    from distill.render import write_starts
    from distill.scenes.renderer import Renderer

    refuse_to_overwrite(arguments)
    write_starts(arguments.table, arguments.out, Renderer())
