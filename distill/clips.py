"""The clip format: a folder of safetensors shards and a manifest.

    manifest.json          format, source, licence, and one row per shard: file, clips, bytes
    00000.safetensors      frames      uint8   [n, f, H, W, 3]   or latents float16 [n, f, p, c]
                           cameras     float64 [n, f, 4, 4]      camera_from_world, OpenCV, metres
                           intrinsics  float32 [n, f, 4]         fx fy cx cy, fractions of the image
                           paths       float16 [n, f, k, p, c]   a teacher's, of trajectories only
                           metadata: prompts (JSON list of n strings) and whatever the writer adds

Shards are read through memory maps: opening a data set of any size costs nothing, and reading
touches only the frames asked for. Nothing here is compressed: training reads faster than codecs
decode.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

FORMAT = "worldmodel-clips-1"
_DTYPES = {"U8": np.uint8, "F64": np.float64, "F32": np.float32, "F16": np.float16}


def write_shard(
    path: Path,
    *,
    cameras: NDArray[np.float64],
    intrinsics: NDArray[np.float32],
    prompts: Sequence[str],
    metadata: Mapping[str, str],
    frames: NDArray[np.uint8] | None = None,
    latents: NDArray[np.float16] | None = None,
    paths: NDArray[np.float16] | None = None,
) -> None:
    """Write one shard atomically: it exists whole or not at all. It holds frames, latents or both.

    Raises:
        ValueError: if the arrays disagree about clips or frames.
    """
    arrays: dict[str, NDArray[Any]] = {
        "cameras": cameras.astype(np.float64),
        "intrinsics": intrinsics.astype(np.float32),
    }
    if frames is not None:
        arrays["frames"] = frames
    if latents is not None:
        arrays["latents"] = latents
    if paths is not None:
        arrays["paths"] = paths
    shapes = {name: array.shape[:2] for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or len(prompts) != len(cameras):
        raise ValueError(f"{path}: {len(prompts)} prompts and {shapes} are not of the same clips")
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, temporary, {**metadata, "prompts": json.dumps(list(prompts))})
    temporary.replace(path)


def write_manifest(folder: Path, *, source: str, licence: str, **facts: Any) -> None:
    """List the shards that lie in `folder`; written last, so one with a manifest is complete."""
    rows = []
    for path in sorted(folder.glob("*.safetensors")):
        clips = _header(path)["cameras"]["shape"][0]
        rows.append({"file": path.name, "clips": clips, "bytes": path.stat().st_size})
    manifest = {"format": FORMAT, "source": source, "licence": licence, **facts, "shards": rows}
    temporary = folder / "manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "manifest.json")


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, with `data_start` added.

    Raises:
        ValueError: if the file is truncated or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise ValueError(f"{path}: no safetensors file, or a truncated one")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: its header is damaged") from error
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    if size < 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0):
        raise ValueError(f"{path}: truncated; delete it and render or copy it again")
    header["data_start"] = 8 + length
    return header


@dataclass(frozen=True)
class Shard:
    """One memory-mapped shard."""

    path: Path

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        header = _header(self.path)
        missing = {"cameras", "intrinsics"} - header.keys()
        if missing:
            raise ValueError(f"{self.path}: lacks {', '.join(sorted(missing))}")
        return header

    @property
    def metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = self._parsed["__metadata__"]
        return metadata

    @cached_property
    def prompts(self) -> list[str]:
        prompts: list[str] = json.loads(self.metadata["prompts"])
        return prompts

    def __contains__(self, name: str) -> bool:
        return name in self._parsed

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        return {}

    def array(self, name: str) -> NDArray[Any]:
        """A read-only memory map, opened once."""
        if name not in self._parsed:
            raise ValueError(f"{self.path}: holds no {name}")
        if name not in self._maps:
            entry = self._parsed[name]
            start = self._parsed["data_start"] + entry["data_offsets"][0]
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            self._maps[name] = np.asarray(np.memmap(self.path, dtype, "r", start, shape))
        return self._maps[name]

    @property
    def clips(self) -> int:
        return int(self._parsed["cameras"]["shape"][0])

    @property
    def frames_per_clip(self) -> int:
        return int(self._parsed["cameras"]["shape"][1])


class ClipSet:
    """All clips of a folder, in the order of the manifest."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError naming the file if the manifest or a shard is missing or damaged."""
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.shards = [open_shard(folder, row) for row in self.manifest["shards"]]
        if not self.shards:
            raise ValueError(f"{folder}: the manifest lists no shards")
        lengths = {shard.frames_per_clip for shard in self.shards}
        if len(lengths) > 1:
            raise ValueError(f"{folder}: shards differ in frames per clip: {sorted(lengths)}")
        self.frames_per_clip = lengths.pop()
        self._first = np.cumsum([0] + [shard.clips for shard in self.shards])

    def __len__(self) -> int:
        return int(self._first[-1])

    def locate(self, clip: int) -> tuple[Shard, int]:
        """The shard that holds `clip`, and its place there."""
        shard = int(np.searchsorted(self._first, clip, side="right")) - 1
        return self.shards[shard], clip - int(self._first[shard])

    def array(self, name: str, clip: int, start: int = 0, count: int | None = None) -> NDArray[Any]:
        shard, row = self.locate(clip)
        stop = None if count is None else start + count
        return shard.array(name)[row, start:stop]

    def prompt(self, clip: int) -> str:
        shard, row = self.locate(clip)
        return shard.prompts[row]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError if there is none, or one of another format."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no manifest.json; not a clip folder, or one not finished")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise ValueError(f"{path}: format {found!r}, this version reads {FORMAT!r}")
    return manifest


def open_shard(folder: Path, row: Mapping[str, Any]) -> Shard:
    """The shard of one row of a manifest.

    Raises:
        ValueError: naming the file if it is missing, damaged or not what the row says.
    """
    path = folder / row["file"]
    if not path.is_file():
        raise ValueError(f"{path}: listed in the manifest but not there")
    shard = Shard(path)
    if shard.clips != row["clips"]:
        raise ValueError(f"{path}: holds {shard.clips} clips, the manifest says {row['clips']}")
    return shard


__all__ = [
    "FORMAT",
    "ClipSet",
    "Shard",
    "open_shard",
    "read_manifest",
    "write_manifest",
    "write_shard",
]
