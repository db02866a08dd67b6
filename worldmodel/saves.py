"""States of a world on disk: one safetensors file, which nothing unpickles.

Tensors keep their type. Numbers, strings and nesting are JSON in the file's metadata; Python writes
floats so that reading gives back the same bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

ARRAY, TENSOR = "array", "tensor"  # which of the two a stored tensor was


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts of tensors, arrays, numbers, strings, tuples and None."""
    tensors: dict[str, Tensor] = {}
    plain = _take_apart(state, "", tensors)
    save_file(tensors, path, {"state": json.dumps(plain)})


def read_state(path: Path) -> dict[str, Any]:
    """The inverse of `write_state`; tuples come back as lists.

    Raises:
        ValueError: naming the file, if it is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads((file.metadata() or {})["state"])
            # Copies: the file may be removed or damaged while play goes on from it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        state = _put_together(plain, tensors)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged, or not a saved state ({error})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a saved state")
    return state


def _take_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _take_apart(part, f"{name}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_take_apart(part, f"{name}/{at}", tensors) for at, part in enumerate(value)]
    if isinstance(value, Tensor):
        tensors[name] = value.cpu().contiguous()
        return {TENSOR: name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(value.copy())
        return {ARRAY: name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold {type(value).__name__} ({name})")


def _put_together(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_put_together(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {TENSOR}:
        return tensors[plain[TENSOR]]
    if plain.keys() == {ARRAY}:
        return tensors[plain[ARRAY]].numpy()
    return {key: _put_together(part, tensors) for key, part in plain.items()}
