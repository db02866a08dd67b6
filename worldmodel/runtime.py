"""Where a network is computed, and with which software: torch itself, or OpenVINO if faster."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worldmodel.types import Runtime, RuntimeChoice

MOST_BLOB_FOLDERS = 4  # of about 100 MB each; the ones used longest ago go first


def choose_runtime(
    choice: RuntimeChoice,
    device: torch.device,
    computes: Sequence[Runtime] = ("torch", "openvino"),
) -> Runtime:
    """The named runtime; "auto": OpenVINO where it is installed and this CPU has wide vectors.

    `computes`: those that the model can run on.

    Raises:
        ValueError: if the named one is not installed, or does not compute on `device` or this model.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if choice == "openvino":
        if choice not in computes:
            raise ValueError(
                "runtime openvino does not compute this kind of model: --runtime torch"
            )
        if device.type != "cpu":
            raise ValueError(f"runtime openvino computes on the CPU, not on {device}: --device cpu")
        if not installed:
            raise ValueError("runtime openvino is not installed: pip install -e '.[openvino]'")
        return "openvino"
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    possible = installed and device.type == "cpu" and "openvino" in computes
    faster = choice == "auto" and possible and wide
    return "openvino" if faster else "torch"


def fastest_dtype(device: torch.device, runtime: Runtime = "torch") -> torch.dtype:
    """bfloat16 where the hardware multiplies it and `runtime` knows how, else float32."""
    if runtime == "openvino":
        from worldmodel.openvino_runner import computes_bfloat16  # an optional extra

        native = computes_bfloat16()
    elif device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def spare_threads(runtime: Runtime) -> None:
    """For the whole process: what is left for torch beside OpenVINO is small.

    Its threads wait for each other by spinning, and would take the processor from OpenVINO's: with other
    programs on two cores a frame took 14 % longer.
    """
    if runtime == "openvino":
        torch.set_num_threads(1)


def blob_folder(model: str, dtype: torch.dtype, slots: int = 0) -> Path | None:
    """Where what OpenVINO compiled is kept, named after all that decides it; made if need be.

    `model` is the digest of its weights, `slots` how many its memory has. None for a model without a
    digest: it was never saved.
    """
    if not model:
        return None
    from worldmodel.openvino_runner import version  # an optional extra

    digest = hashlib.sha256(f"{model} {dtype} {slots} {version()} {torch.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    folders = user_cache() / "worldmodel" / "openvino"
    folder = folders / digest.hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()  # used now
    by_age = sorted(folders.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[MOST_BLOB_FOLDERS:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def user_cache() -> Path:
    """The folder of this user for files that can be made again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def choose_device(name: str | None) -> torch.device:
    """The named device, or CUDA where there is one.

    Raises:
        ValueError: if the device does not exist here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not available here; try --device cpu") from error
    return device


def prepare(module: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Make a network ready for inference, in place: weights in `dtype`, buffers in float32."""
    keep = dict(module.named_buffers())
    prepared = module.eval().requires_grad_(False).to(device=device, dtype=dtype)
    for name, buffer in keep.items():
        owner, _, own_name = name.rpartition(".")
        setattr(prepared.get_submodule(owner), own_name, buffer.float().to(device))
    return prepared
