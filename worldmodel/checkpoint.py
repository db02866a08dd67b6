"""Model folders: `model.yaml` and safetensors weights that carry their own architecture.

    model.yaml                       how to play the model, and the SHA-256 of every weights file
    autoencoder-1-of-1.safetensors   metadata: config (JSON)
    transformer-1-of-2.safetensors   ...
    upscaler-1-of-1.safetensors      of models whose frames are drawn larger (worldmodel/upscaler.py)

Loading is strict: a missing, unexpected, mis-shaped or damaged tensor is an error that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel import config as strict
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.kv_cache import CacheConfig
from worldmodel.recall import RecallConfig
from worldmodel.sampler import Commit, Solver
from worldmodel.transformer import TransformerConfig, WorldTransformer
from worldmodel.types import Intrinsics, MotionLimits
from worldmodel.upscaler import Upscaler, UpscalerConfig

SHARD_BYTES = 15 * 2**20
C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How frames are sampled."""

    steps: int
    first_frame_steps: int  # for a world that starts without a picture
    shift: float
    solver: Solver = "euler"  # "consistency" for models distilled to jump to the end of the path
    commit: Commit = "clean"  # "own" for models trained to remember their last denoising step
    block_frames: int = 1  # latents that are made together and see each other
    drift_limit: float | None = (
        None  # Mahalanobis distance of a frame's moments; worldmodel/drift.py
    )
    recall: RecallConfig | None = None  # past frames that are brought back; worldmodel/recall.py

    def __post_init__(self) -> None:
        if self.drift_limit is not None and self.drift_limit <= 0.0:
            raise ValueError(f"drift_limit must be positive or null, got {self.drift_limit}")
        if self.recall is not None and self.block_frames > 1:
            raise ValueError(
                f"rollout.recall is for models that make one frame at a time, not blocks of"
                f" {self.block_frames}; set it to null"
            )
        if self.block_frames < 1:
            raise ValueError(f"block_frames must be at least 1, got {self.block_frames}")
        if self.steps < 1 or self.first_frame_steps < 1:
            raise ValueError(
                f"steps must be at least 1, got {self.steps}, {self.first_frame_steps}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayableConfig:
    """`model.yaml`: everything about a model that is not a weight or a layer width.

    `configs/export/*.yaml` are the same without the digests, which saving fills in.
    """

    name: str
    summary: str
    licence: str
    frames_per_second: float
    rollout: RolloutConfig
    cache: CacheConfig
    intrinsics: Intrinsics
    limits: MotionLimits
    static_world: bool = False  # nothing moves by itself: an unmoved camera sees the same frame
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of all weights files together; empty for a model that was never saved."""
        if not self.sha256:
            return ""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.sha256.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def save_model(
    folder: Path,
    playable: PlayableConfig,
    autoencoder: Autoencoder,
    transformer: WorldTransformer,
    dtype: torch.dtype = torch.bfloat16,
    upscaler: Upscaler | None = None,
) -> None:
    """Write a playable model folder, `model.yaml` last; replaces the weights that lie there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("autoencoder", "transformer", "upscaler"):
        for old in folder.glob(f"{name}-*"):
            old.unlink()
    files = save_module(folder, "autoencoder", autoencoder, autoencoder.config, dtype)
    files += save_module(folder, "transformer", transformer, transformer.config, dtype)
    if upscaler is not None:
        files += save_module(folder, "upscaler", upscaler, upscaler.config, dtype)
    write_playable(folder, playable, files)


def load_model(folder: Path) -> tuple[PlayableConfig, Autoencoder, WorldTransformer]:
    """Read a folder that `save_model` wrote; weights in float32 on the CPU.

    Raises:
        ValueError: naming the file and what is wrong with it.
        FileNotFoundError: if the folder holds no model.
    """
    playable = read_playable(folder)
    if stored_kind(folder, "transformer") is not None:
        raise ValueError(f"{folder}: a Wan model can be played and trained, but not evaluated")
    ae_config, ae_weights = load_tensors(folder, "autoencoder", AutoencoderConfig)
    config, weights = load_tensors(folder, "transformer", TransformerConfig)
    if config.grid != ae_config.grid or config.latent_channels != ae_config.latent_channels:
        raise ValueError(f"{folder}: the transformer was made for another autoencoder")
    autoencoder, transformer = Autoencoder.of(ae_config, ae_weights), WorldTransformer(config)
    assign(autoencoder, ae_weights, f"{folder}: autoencoder")
    assign(transformer, weights, f"{folder}: transformer")
    return playable, autoencoder.eval(), transformer.eval()


def load_upscaler(folder: Path) -> Upscaler | None:
    """That of a run or model folder, if it has one; float32 on the CPU.

    Raises:
        ValueError: naming the file that is damaged.
    """
    if not any(folder.glob("upscaler-1-of-*.safetensors")):
        return None
    config, weights = load_tensors(folder, "upscaler", UpscalerConfig)
    upscaler = Upscaler(config)
    assign(upscaler, weights, f"{folder}: upscaler")
    return upscaler.eval()


def read_playable(folder: Path) -> PlayableConfig:
    """`model.yaml`, after all weights files that it lists were checked.

    Raises:
        ValueError: naming the file that is missing or damaged.
        FileNotFoundError: if the folder holds no model.
    """
    if not (folder / "model.yaml").is_file():
        raise FileNotFoundError(f"{folder}: no model here (it has no model.yaml)")
    playable = strict.load(folder / "model.yaml", PlayableConfig)
    if not playable.sha256:
        raise ValueError(f"{folder / 'model.yaml'}: sha256: lists no weights files")
    for name, digest in playable.sha256.items():
        _check_digest(folder / name, digest)
    return playable


def write_playable(folder: Path, playable: PlayableConfig, files: Iterable[Path]) -> None:
    """Write `model.yaml` for the weights `files` in `folder`."""
    tree = strict.to_plain(playable) | {"sha256": {path.name: _digest(path) for path in files}}
    temporary = folder / "model.yaml.tmp"
    temporary.write_text(
        yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    temporary.replace(folder / "model.yaml")


def stored_kind(folder: Path, name: str) -> str | None:
    """The `kind` of network in the shards `name`-i-of-n; None if it has none, or is not there."""
    for path in sorted(folder.glob(f"{name}-1-of-*.safetensors")):
        metadata, _ = _read(path, with_tensors=False)
        kind = json.loads(metadata.get("config", "{}")).get("kind")
        return None if kind is None else str(kind)
    return None


def read_config(folder: Path, name: str, cls: type[C]) -> C:
    """The config that the shards `name`-i-of-n carry.

    Raises:
        ValueError: if there are none, or damaged ones.
    """
    for path in sorted(folder.glob(f"{name}-1-of-*.safetensors")):
        metadata, _ = _read(path, with_tensors=False)
        return strict.build(json.loads(metadata["config"]), cls, where=str(path))
    raise ValueError(f"{folder}: no {name} here")


def save_module(
    folder: Path, name: str, module: nn.Module, config: Any, dtype: torch.dtype
) -> list[Path]:
    """Write the weights of `module` in shards of at most SHARD_BYTES; normalisation stays float32."""
    return save_tensors(folder, name, module.state_dict(), config, dtype)


def save_tensors(
    folder: Path, name: str, weights: Mapping[str, Tensor], config: Any, dtype: torch.dtype
) -> list[Path]:
    """The same of weights by themselves."""
    tensors = {
        key: value.detach().cpu().to(torch.float32 if "latent_" in key else dtype).contiguous()
        for key, value in weights.items()
    }
    metadata = {"config": json.dumps(strict.to_plain(config))}
    shards = _shard(tensors)
    paths = []
    for index, shard in enumerate(shards, 1):
        path = folder / f"{name}-{index}-of-{len(shards)}.safetensors"
        save_file(shard, path.with_suffix(".tmp"), metadata)
        path.with_suffix(".tmp").replace(path)
        paths.append(path)
    return paths


def load_tensors(
    folder: Path, name: str, cls: type[C], *, keep_dtype: bool = False
) -> tuple[C, dict[str, Tensor]]:
    """The config and all tensors of the shards `name`-i-of-n in `folder`.

    Float32; or, with `keep_dtype`, as they are stored and only read from disk when they are used.

    Raises:
        ValueError: naming the file that is missing, truncated or damaged.
    """
    first = sorted(folder.glob(f"{name}-1-of-*.safetensors"))
    if len(first) != 1:
        raise ValueError(f"{folder}: expected one {name}-1-of-N.safetensors, found {len(first)}")
    count = int(first[0].stem.rsplit("-", 1)[1])
    tensors: dict[str, Tensor] = {}
    config = None
    for index in range(1, count + 1):
        path = folder / f"{name}-{index}-of-{count}.safetensors"
        metadata, part = _read(path)
        config = strict.build(json.loads(metadata["config"]), cls, where=str(path))
        tensors |= part if keep_dtype else {key: value.float() for key, value in part.items()}
    assert config is not None
    return config, tensors


def _read(path: Path, *, with_tensors: bool = True) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"{path}: missing weights file")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if with_tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated weights ({error})") from error


def assign(
    module: nn.Module, tensors: dict[str, Tensor], where: str, *, replace_parameters: bool = False
) -> None:
    """Load `tensors` into `module`, strictly; `replace_parameters` keeps their type and copies nothing.

    Raises:
        ValueError: starting with `where`, naming every key that is missing, unexpected or mis-shaped.
    """
    expected = module.state_dict()
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unexpected:
        raise ValueError(f"{where}: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            raise ValueError(
                f"{where}: {key} has shape {tuple(value.shape)}, expected"
                f" {tuple(expected[key].shape)}"
            )
    module.load_state_dict(tensors, assign=replace_parameters)


def _shard(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        if size + value.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    return shards


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: missing weights file")
    if _digest(path) != expected:
        raise ValueError(
            f"{path}: damaged or truncated weights (its SHA-256 is not the one in model.yaml);"
            " fetch the file again"
        )
