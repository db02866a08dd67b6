"""What the commands of `python -m distill` are made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

Command = Callable[[str, Any, str], argparse.ArgumentParser]  # of name, function and help
E = TypeVar("E", bound=Any)


def refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    """Raises FileExistsError: what was measured or exported before is not lost by a typing error."""
    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(
            f"{arguments.out}: already there; choose another --out or --overwrite"
        )


def filled(extent: E, given: dict[str, Any]) -> E:
    """`extent` with the values of those flags that were given."""
    return replace(extent, **{f.name: given[f.name] for f in fields(extent) if f.name in given})


def numbers(text: str, flag: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{flag} {text!r}: expected numbers separated by commas") from error


def decimals(text: str, flag: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"{flag} {text!r}: expected {count} numbers separated by commas")
    return numbers
