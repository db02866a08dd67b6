"""Command line: `python -m worldmodel bench | convert | prompt | info`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

WAN = Path("configs/model/wan2.1-1.3b.yaml")


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="worldmodel", description="Measure and convert world models."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="how fast a model plays on this machine")
    bench.add_argument("model", type=Path, nargs="?", default=Path("assets/pocket"))
    bench.add_argument("--device")
    bench.add_argument("--steps", type=int, help="denoising steps; default: the model's own")
    bench.add_argument("--runtime", choices=["auto", "torch", "openvino"], default="auto")
    bench.add_argument("--frames", type=int, default=60)
    bench.add_argument("--config", type=Path, help="a Wan model that is not there: its rollouts")
    bench.add_argument("--random-weights", action="store_true", help="what --config is made of")
    bench.add_argument("--latents", type=int, default=21, help="of one such rollout")
    bench.add_argument("--out", type=Path, help="write the result as JSON")
    compiling = bench.add_mutually_exclusive_group()
    compiling.add_argument("--compile", action="store_true", default=None, dest="compiled")
    compiling.add_argument("--no-compile", action="store_false", default=None, dest="compiled")
    bench.add_argument(
        "--fp8", action="store_true", help="8-bit linear layers, on Hopper 8-bit attention (NVIDIA)"
    )
    bench.add_argument("--packed", action="store_true", help="commits in the pass that follows")
    bench.set_defaults(run=_bench)
    _add_convert(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"worldmodel {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="Wan checkpoints to model folders, and back")
    add = convert.add_argument
    add("source", type=Path, help=".safetensors, .pt, a folder of shards, or a model folder")
    add("target", type=Path, help="a new model folder; a .safetensors file if SOURCE is one")
    add("overrides", nargs="*", metavar="key.path=value", help="single values of the config")
    add("--config", type=Path, default=WAN, help=f"default: {WAN}")
    add(
        "--decoder",
        type=Path,
        metavar="FILE",
        help="of the kind in the config: TAEHV, or Wan's VAE",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="default: that of the checkpoint")
    add("--layout", choices=("wan", "diffusers"), help="of the file written from a model folder")
    convert.set_defaults(run=_convert)
    prompt = commands.add_parser("prompt", help="store a prompt for a Wan model")
    prompt.add_argument("model", type=Path)
    prompt.add_argument("text")
    source = prompt.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--umt5", type=Path, metavar="DIR", help="with tokenizer/ and text_encoder/"
    )
    source.add_argument("--embeddings", type=Path, metavar="FILE", help="a .safetensors file")
    prompt.set_defaults(run=_prompt)
    info = commands.add_parser("info", help="what a checkpoint or a model folder is")
    info.add_argument("path", type=Path)
    info.set_defaults(run=_info)


def _convert(arguments: argparse.Namespace) -> None:
    import torch

    from worldmodel import config as strict
    from worldmodel import convert
    from worldmodel.models import WanModelConfig

    if (arguments.source / "model.yaml").is_file():
        config = convert.export(arguments.source, arguments.target, arguments.layout or "wan")
        print(f"{arguments.target}: {config.layers} layers, width {config.width}")
        return
    if arguments.layout is not None:
        raise ValueError("--layout is for writing a checkpoint from a model folder")
    model = strict.load(arguments.config, WanModelConfig, arguments.overrides)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    config = convert.convert(
        arguments.source, arguments.target, model, decoder=arguments.decoder, dtype=dtype
    )
    camera = "with" if config.camera else "without"
    print(f"{arguments.target}: {config.layers} layers, width {config.width}, {camera} cameras")
    print(f"licence of the weights: {model.playable.licence}")


def _prompt(arguments: argparse.Namespace) -> None:
    from worldmodel import models
    from worldmodel.embeddings import read_embeddings

    book = models.open_prompts(arguments.model)
    if arguments.umt5 is None:
        embeddings = read_embeddings(arguments.embeddings)
    else:
        from worldmodel import text_encoder

        embeddings = text_encoder.encode_prompt(arguments.umt5, arguments.text, book.tokens)
    print(f"{book.store(arguments.text, embeddings)}: {len(embeddings)} embeddings")


def _info(arguments: argparse.Namespace) -> None:
    from worldmodel import convert

    print(json.dumps(convert.describe(arguments.path), indent=1))


def _bench(arguments: argparse.Namespace) -> None:
    from worldmodel import bench

    if (arguments.config is not None) != arguments.random_weights:
        raise ValueError("--config and --random-weights belong together; or name a model folder")
    if arguments.config is not None:
        result = _bench_rollouts(arguments)
    else:
        result = bench.benchmark(
            arguments.model,
            device=arguments.device,
            steps=arguments.steps,
            frames=arguments.frames,
            runtime=arguments.runtime,
            compiled=arguments.compiled,
            fp8=arguments.fp8,
            packed=arguments.packed,
        )
    print(json.dumps(result, indent=1))
    if arguments.out is not None:
        bench.write(result, arguments.out)


def _bench_rollouts(arguments: argparse.Namespace) -> dict[str, Any]:
    from worldmodel import bench_rollout
    from worldmodel import config as strict
    from worldmodel.models import WanModelConfig
    from worldmodel.runtime import choose_device

    steps = [] if arguments.steps is None else [f"playable.rollout.steps={arguments.steps}"]
    model = strict.load(arguments.config, WanModelConfig, steps)
    return bench_rollout.benchmark(
        model,
        choose_device(arguments.device),
        arguments.latents,
        compiled=arguments.compiled,
        fp8=arguments.fp8,
        packed=arguments.packed,
    )


if __name__ == "__main__":
    raise SystemExit(main())
