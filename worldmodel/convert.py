"""Published Wan checkpoints to model folders that can be played, and back.

Tensors go one by one from a mapped file into shards, so memory holds one shard at a time. Nothing is
unpickled but tensors: a `.pt` file with anything else in it is refused by name.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldmodel import config as strict
from worldmodel import wan_keys
from worldmodel.checkpoint import PlayableConfig, read_playable, stored_kind, write_playable
from worldmodel.models import WanModelConfig, make_decoder
from worldmodel.tiny_decoder import TinyDecoderConfig
from worldmodel.transformer import TransformerConfig
from worldmodel.wan import KIND, WanConfig
from worldmodel.wan_keys import Layout
from worldmodel.wan_vae import WanVaeConfig

SHARD_BYTES = 2**30
TOP_KEYS = ("generator_ema", "generator", "model")  # of .pt files, best first


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors on disk, read when they are asked for."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    top_key: str | None = None
    config: Mapping[str, Any] | None = None  # as our own files carry it


def convert(
    source: Path,
    target: Path,
    model: WanModelConfig,
    *,
    decoder: Path | None = None,
    dtype: torch.dtype | None = None,
) -> WanConfig:
    """Make the model folder `target` of a published checkpoint; `dtype` None keeps its type.

    Raises:
        ValueError: naming the file and every tensor that is missing, unexpected or mis-shaped.
    """
    _refuse_existing(target)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with open_tensors(source) as stored:
            files, config = _write_transformer(stored, temporary, model.transformer, dtype)
        if decoder is not None:
            with open_tensors(decoder) as stored:
                files += _write_decoder(stored, temporary, model.decoder, dtype)
        write_playable(temporary, model.playable, files)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return config


def export(folder: Path, target: Path, layout: Layout) -> WanConfig:
    """Write the transformer of a model folder as one safetensors file in a published layout.

    Raises:
        ValueError: if the folder holds another kind of model, or the file exists.
    """
    _refuse_existing(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"output {target}: a checkpoint is written to a .safetensors file")
    read_playable(folder)
    temporary = target.with_suffix(".tmp")
    with open_tensors(folder) as stored:
        config = strict.build(stored.config, WanConfig, stored.where)
        entries = wan_keys.table(config, layout)
        _check(stored, wan_keys.table(config, "ours"))
        target.parent.mkdir(parents=True, exist_ok=True)
        tensors = {e.their_name: stored.read(e.name).view(e.their_shape) for e in entries}
        save_file(tensors, temporary, {"format": "pt"})
    temporary.replace(target)
    return config


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint or a model folder is, and which rollout it was made for.

    Raises:
        ValueError: if it is none, or damaged.
    """
    ours = path.is_dir() and any(path.glob("transformer-1-of-*.safetensors"))
    if ours and stored_kind(path, "transformer") != KIND:
        return _describe_world(path) | _played(path)
    with open_tensors(path) as stored:
        names = wan_keys.without_wrappers(stored.shapes)
        shapes = {name: stored.shapes[kept] for name, kept in names.items()}
        if "decoder.1.weight" in shapes:
            return {"file": str(path), "is": "a tiny decoder (TAEHV)", "tensors": len(shapes)}
        if "post_quant_conv.weight" in shapes:
            return {"file": str(path), "is": "Wan's autoencoder", "tensors": len(shapes)}
        layout = wan_keys.find_layout(shapes)
        blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
        branch = wan_keys.their_name("blocks.0.camera_o", layout).removeprefix("blocks.0.")
        some = next(iter(names.values()))
        found: dict[str, Any] = {
            "file": str(path),
            "is": "a Wan transformer",
            "layout": layout,
            "weights": stored.top_key,
            "tensors": len(shapes),
            "parameters": wan_keys.parameters(shapes),
            "layers": len(blocks),
            "width": shapes[wan_keys.their_name("noise_out.bias", layout)][0],
            "camera_branch": any(branch in name for name in shapes),
            "dtype": str(stored.read(some).dtype).removeprefix("torch."),
        }
    return found | _played(path)


def _describe_world(folder: Path) -> dict[str, Any]:
    with open_tensors(folder) as stored:
        config = strict.build(stored.config, TransformerConfig, stored.where)
        return {
            "file": str(folder),
            "is": "a world transformer",
            "tensors": len(stored.shapes),
            "parameters": wan_keys.parameters(stored.shapes),
            "layers": config.layers,
            "width": config.width,
            "latent": [*config.grid, config.latent_channels],
            "words": list(config.vocabulary),
            "upscaler": any(folder.glob("upscaler-1-of-*.safetensors")),
            "dtype": str(stored.read(next(iter(stored.shapes))).dtype).removeprefix("torch."),
        }


def _played(path: Path) -> dict[str, Any]:
    """Which rollout it was made for, if that is known."""
    if not (path / "model.yaml").is_file():
        return {"rollout": "not recorded in the file: say it when you convert"}
    playable = strict.load(path / "model.yaml", PlayableConfig)
    about = {"name": playable.name, "licence": playable.licence}
    return about | {key: strict.to_plain(getattr(playable, key)) for key in ("rollout", "cache")}


@contextmanager
def open_tensors(path: Path) -> Iterator[Stored]:
    """The tensors of a .safetensors or .pt file, of a folder of shards, or of one of our folders.

    Raises:
        ValueError: naming the file that is missing, truncated, damaged or unsafe.
    """
    if path.is_dir():
        files = _shards(path)
    elif path.is_file():
        files = [path]
    else:
        raise ValueError(f"{path} does not exist")
    if files[0].suffix in (".pt", ".pth"):
        yield _open_pt(files[0])
        return
    with ExitStack() as stack:
        yield _open_safetensors(path, files, stack)


def _shards(folder: Path) -> list[Path]:
    for pattern in ("transformer-*-of-*.safetensors", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        for path in found:
            count = path.stem.rpartition("-of-")[2]
            if count.isdigit() and int(count) != len(found):
                raise ValueError(f"{folder}: {len(found)} of {int(count)} parts are here")
        if found:
            return found
    raise ValueError(f"{folder}: no .safetensors files here")


def _open_safetensors(path: Path, files: list[Path], stack: ExitStack) -> Stored:
    owner: dict[str, Any] = {}
    metadata: Mapping[str, str] = {}
    for name in files:
        try:
            file = stack.enter_context(safe_open(name, "pt"))
        except SafetensorError as error:
            raise ValueError(f"{name}: damaged or truncated weights ({error})") from error
        metadata = file.metadata() or {}
        for key in file.keys():  # noqa: SIM118
            if key in owner:
                raise ValueError(f"{name}: {key} is in another part as well")
            owner[key] = file
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key, file in owner.items()}
    config = json.loads(metadata["config"]) if "config" in metadata else None
    return Stored(str(path), shapes, lambda key: owner[key].get_tensor(key), config=config)


def _open_pt(path: Path) -> Stored:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a PyTorch checkpoint, or a download that is not complete")
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ValueError(f"{path}: holds code, not only tensors ({', '.join(unsafe)}); not opened")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: damaged or truncated weights ({error})") from error
    top_key = next((key for key in TOP_KEYS if isinstance(content.get(key), dict)), None)
    tensors = content if top_key is None else content[top_key]
    shapes = {
        key: tuple(value.shape) for key, value in tensors.items() if isinstance(value, Tensor)
    }
    return Stored(str(path), shapes, tensors.__getitem__, top_key)


def _write_transformer(
    stored: Stored, folder: Path, config: WanConfig, dtype: torch.dtype | None
) -> tuple[list[Path], WanConfig]:
    try:
        names = wan_keys.without_wrappers(stored.shapes)
        shapes = {name: stored.shapes[kept] for name, kept in names.items()}
        layout = wan_keys.find_layout(shapes)
        config = wan_keys.fit_config(config, shapes, layout)
    except ValueError as error:
        raise ValueError(f"{stored.where}: {error}") from error
    entries = wan_keys.table(config, layout)
    _check(replace(stored, shapes=shapes), entries)
    tensors = (
        (e.name, _cast(stored.read(names[e.their_name]), dtype).reshape(e.shape)) for e in entries
    )
    return write_shards(folder, "transformer", tensors, config), config


def _write_decoder(
    stored: Stored,
    folder: Path,
    config: TinyDecoderConfig | WanVaeConfig,
    dtype: torch.dtype | None,
) -> list[Path]:
    with torch.device("meta"):
        expected = make_decoder(config).state_dict()
    entries = [
        wan_keys.Entry(name, tuple(value.shape), name.removeprefix("vae."), tuple(value.shape))
        for name, value in expected.items()
    ]
    _check(stored, entries)
    tensors = ((e.name, _cast(stored.read(e.their_name), dtype)) for e in entries)
    return write_shards(folder, "decoder", tensors, config)


def write_shards(
    folder: Path, name: str, tensors: Iterable[tuple[str, Tensor]], config: Any
) -> list[Path]:
    """Write `name`-i-of-n.safetensors, one shard in memory at a time."""
    metadata = {"config": json.dumps(strict.to_plain(config))}
    parts: list[Path] = []
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        parts.append(folder / f"{name}-{len(parts) + 1}.part")
        save_file(shard, parts[-1], metadata)
        shard.clear()

    for key, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[key] = tensor.contiguous()
    flush()
    count = len(parts)
    return [
        part.rename(folder / f"{name}-{index}-of-{count}.safetensors")
        for index, part in enumerate(parts, 1)
    ]


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _check(stored: Stored, entries: list[wan_keys.Entry]) -> None:
    try:
        wan_keys.check(entries, stored.shapes)
    except ValueError as error:
        raise ValueError(f"{stored.where}: {error}") from error


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ValueError(f"output {target} exists; name a new one")
