"""Command line: `python -m worldmodel bench [MODEL]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="worldmodel", description="Measure world models.")
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="how fast a model plays on this machine")
    bench.add_argument("model", type=Path, nargs="?", default=Path("assets/pocket"))
    bench.add_argument("--device")
    bench.add_argument("--steps", type=int, help="denoising steps; default: the model's own")
    bench.add_argument("--runtime", choices=["auto", "torch", "openvino"], default="auto")
    bench.add_argument("--frames", type=int, default=60)
    bench.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        _bench(arguments)
    except (ValueError, FileNotFoundError) as error:
        print(f"worldmodel {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _bench(arguments: argparse.Namespace) -> None:
    from worldmodel import bench

    result = bench.benchmark(
        arguments.model,
        device=arguments.device,
        steps=arguments.steps,
        frames=arguments.frames,
        runtime=arguments.runtime,
    )
    print(json.dumps(result, indent=1))
    if arguments.out is not None:
        bench.write(result, arguments.out)


if __name__ == "__main__":
    raise SystemExit(main())
