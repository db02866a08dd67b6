"""Command line: `python -m distill pipeline|import|data|render|train|export|evaluate|...`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from distill.commands import bringing, making, measuring


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

    for part in (making, bringing, measuring):
        part.add(command)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
