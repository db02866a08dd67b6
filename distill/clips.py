"""The clip format: a folder of safetensors shards and a manifest.

    manifest.json          format, source, licence, and one row per shard: file, clips, bytes
    00000.safetensors      frames      uint8   [n, f, H, W, 3]   or latents float16 [n, f, p, c]
                           cameras     float64 [n, f, 4, 4]      camera_from_world, OpenCV, metres
                           intrinsics  float32 [n, f, 4]         fx fy cx cy, fractions of the image
                           paths       float16 [n, f, k, p, c]   a teacher's, of trajectories only
                           metadata: prompts (JSON list of n strings), and where it is so: one_way
                           (JSON list of n truth values: clips that must not be played backwards,
                           because things move in them by themselves); prompt_runs (JSON list of
                           n lists of [first frame, prompt]) where prompts change within clips;
                           whatever the writer adds

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
Prompts = str | Sequence[str]  # of a clip: for all its frames, or for each
_DTYPES = {"U8": np.uint8, "F64": np.float64, "F32": np.float32, "F16": np.float16}


def write_shard(
    path: Path,
    *,
    cameras: NDArray[np.float64],
    intrinsics: NDArray[np.float32],
    prompts: Sequence[Prompts],
    metadata: Mapping[str, str],
    frames: NDArray[np.uint8] | None = None,
    latents: NDArray[np.float16] | None = None,
    paths: NDArray[np.float16] | None = None,
) -> None:
    """Write one shard atomically: it exists whole or not at all. It holds frames, latents or both.

    A clip has one prompt, or a list with one for each of its frames.

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
    runs = [_runs(path, prompt, cameras.shape[1]) for prompt in prompts]
    texts = {"prompts": json.dumps([first for (_, first), *_ in runs])}
    if any(len(run) > 1 for run in runs):
        texts["prompt_runs"] = json.dumps(runs)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, temporary, {**metadata, **texts})
    temporary.replace(path)


def _runs(path: Path, prompts: Prompts, frames: int) -> list[tuple[int, str]]:
    """(first frame, prompt) wherever the prompt changes."""
    if isinstance(prompts, str):
        return [(0, prompts)]
    if len(prompts) != frames:
        raise ValueError(f"{path}: {len(prompts)} prompts for the {frames} frames of a clip")
    changes = [i for i in range(frames) if i == 0 or prompts[i] != prompts[i - 1]]
    return [(first, prompts[first]) for first in changes]


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

    @cached_property
    def prompt_runs(self) -> list[list[tuple[int, str]]]:
        """Per clip: (first frame, prompt) wherever the prompt changes; clips begin with frame 0."""
        found = self.metadata.get("prompt_runs")
        runs = json.loads(found) if found else [[(0, prompt)] for prompt in self.prompts]
        return [[(int(first), str(prompt)) for first, prompt in run] for run in runs]

    @cached_property
    def one_way(self) -> list[bool]:
        """Per clip: whether backwards it would show what cannot be."""
        found = self.metadata.get("one_way")
        one_way: list[bool] = json.loads(found) if found else [False] * self.clips
        return one_way

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

    @property
    def prompts_change(self) -> bool:
        """Whether the prompt changes within any of the clips."""
        return any("prompt_runs" in shard.metadata for shard in self.shards)

    def frame_prompts(self, clip: int) -> list[str]:
        """The prompt of every frame of a clip."""
        shard, row = self.locate(clip)
        prompts = [""] * self.frames_per_clip
        for first, prompt in shard.prompt_runs[row]:
            prompts[first:] = [prompt] * (len(prompts) - first)
        return prompts

    def one_way(self, clip: int) -> bool:
        """Whether the clip must not be played backwards."""
        shard, row = self.locate(clip)
        return shard.one_way[row]


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
