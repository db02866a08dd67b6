"""Training state as one safetensors file: nested dicts and lists of tensors and plain values.

No pickle: tensors go into the file under their path, everything else into its JSON metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distill.sharding import whole

_TENSOR = "__tensor__"


def save_state(path: Path, state: dict[str, Any], *, write: bool = True) -> None:
    """Write atomically: the old checkpoint stays whole until the new one is.

    Tensors that are spread over processes are gathered one by one. All processes must call this, and
    all but one without `write`.
    """
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors if write else None)
    if not write:
        return
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {"state": json.dumps(plain)})
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """The state that `save_state` wrote, on the CPU.

    Raises:
        ValueError: if the file is truncated or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _join(plain, file)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged or truncated checkpoint ({error})") from error
    return state


def _split(value: Any, path: str, tensors: dict[str, Tensor] | None) -> Any:
    if isinstance(value, Tensor):
        tensor = whole(value.detach())
        if tensors is not None:
            tensors[path] = tensor.to("cpu", copy=True).contiguous()
        return {_TENSOR: path}
    if isinstance(value, dict):
        # JSON turns integer keys into text; keep the type so that optimizers find their parameters
        return {_key(k): _split(v, f"{path}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(value: Any, file: Any) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return file.get_tensor(value[_TENSOR])
        return {_unkey(k): _join(v, file) for k, v in value.items()}
    if isinstance(value, list):
        return [_join(v, file) for v in value]
    return value


def _key(key: Any) -> str:
    return f"int:{key}" if isinstance(key, int) else str(key)


def _unkey(key: str) -> str | int:
    return int(key.removeprefix("int:")) if key.startswith("int:") else key
