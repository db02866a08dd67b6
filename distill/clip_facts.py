"""What a clip folder holds, and what is wrong with it: `python -m distill data info|check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill import motions
from distill.clips import ClipSet, Shard, open_shard, read_manifest

MOST_PROMPTS = 12
RIGID = 1e-4  # how far from a rotation a stored pose may be


def facts(clips: ClipSet) -> dict[str, Any]:
    """Numbers of a clip folder; motion is per frame, in metres and degrees."""
    cameras = np.concatenate([shard.array("cameras") for shard in clips.shards])
    lenses = np.concatenate([shard.array("intrinsics") for shard in clips.shards])
    steps, turns = motions.steps(cameras), np.degrees(motions.turns_rad(cameras))
    height = -motions.positions(cameras)[..., 1]
    across = np.degrees(2 * np.arctan(0.5 / lenses[..., 0]))
    prompts = Counter(prompt for shard in clips.shards for prompt in shard.prompts)
    first = clips.shards[0]
    manifest = clips.manifest
    return {
        "source": manifest["source"],
        "licence": manifest["licence"],
        "scale": manifest.get("scale"),
        "clips": len(clips),
        "frames_per_clip": clips.frames_per_clip,
        "bytes": sum(row["bytes"] for row in manifest["shards"]),
        "frame_px": list(first.array("frames").shape[2:4]) if "frames" in first else None,
        "latents": list(first.array("latents").shape[2:]) if "latents" in first else None,
        "frames_per_second": _range(_rates(clips)),
        "field_of_view_deg": _range(across),
        "step_m": {"typical": _round(motions.typical(steps)), **_tail(steps)},
        "turn_deg": {"typical": _round(motions.typical(turns)), **_tail(turns)},
        "height_m": _range(height),
        "resting_clips": int((steps.max(-1) < 1e-6).sum()) if clips.frames_per_clip > 1 else 0,
        "prompts": dict(prompts.most_common(MOST_PROMPTS)),
        "different_prompts": len(prompts),
    }


def describe(folder: Path) -> str:
    """`facts` as lines for people."""
    found = facts(ClipSet(folder))
    lines = [f"{name.replace('_', ' ')}: {_text(value)}" for name, value in found.items()]
    return "\n".join(line for line in lines if not line.endswith(": none"))


def problems(folder: Path) -> Iterator[str]:
    """One line for everything that is broken; nothing is loaded that a broken file could spoil.

    Raises:
        ValueError: if there is no manifest that can be read.
    """
    manifest = read_manifest(folder)
    lengths: Counter[int] = Counter()
    for row in manifest["shards"]:
        try:
            shard = open_shard(folder, row)
            prompts = len(shard.prompts)
        except (ValueError, KeyError) as error:
            yield f"{error}"
            continue
        lengths[shard.frames_per_clip] += 1
        if prompts != shard.clips:
            yield f"{shard.path}: {prompts} prompts for {shard.clips} clips"
        if "frames" not in shard and "latents" not in shard:
            yield f"{shard.path}: holds neither frames nor latents"
        yield from _broken_clips(shard)
    if not manifest["shards"]:
        yield f"{folder}: the manifest lists no shards"
    if len(lengths) > 1:
        yield f"{folder}: shards differ in frames per clip: {sorted(lengths)}"
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in {row["file"] for row in manifest["shards"]}:
            yield f"{path}: not in the manifest, so nothing reads it"


def _broken_clips(shard: Shard) -> Iterator[str]:
    cameras, lenses = shard.array("cameras"), shard.array("intrinsics")
    for clip in range(shard.clips):
        where = f"{shard.path}: clip {clip}"
        yield from (f"{where}: {problem}" for problem in _broken_cameras(cameras[clip]))
        fx, fy, cx, cy = lenses[clip].T
        plausible = np.isfinite(lenses[clip]).all() and (fx > 0).all() and (fy > 0).all()
        if not plausible or ((cx <= 0) | (cx >= 1) | (cy <= 0) | (cy >= 1)).any():
            yield f"{where}: intrinsics that no lens has (fractions of the image are wanted)"
        if "frames" in shard:
            flat = [k for k, frame in enumerate(shard.array("frames")[clip]) if _is_flat(frame)]
            if flat:
                yield f"{where}: {len(flat)} frames of one colour, the first is frame {flat[0]}"
        if "latents" in shard and not np.isfinite(shard.array("latents")[clip]).all():
            yield f"{where}: latents hold NaN or infinity"


def _broken_cameras(cameras: NDArray[np.float64]) -> Iterator[str]:
    """Of one clip [f 4 4]."""
    if not np.isfinite(cameras).all():
        yield "poses hold NaN or infinity"
        return
    rotation = cameras[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    off = np.maximum(off, np.abs(cameras[:, 3] - (0, 0, 0, 1)).max(-1))
    bad = (off > RIGID) | (np.linalg.det(rotation) < 0)
    if bad.any():
        yield f"poses that are not rigid, the first is frame {int(bad.argmax())}"
        return
    steps = motions.steps(cameras)
    jumps = steps > motions.JUMP * max(motions.typical(steps), 1e-6)
    if jumps.any():
        frame = int(jumps.argmax())
        yield f"the camera jumps {steps[frame]:.3g} m from frame {frame} to the next"


def _is_flat(frame: NDArray[np.uint8]) -> bool:
    sparse = frame[::4, ::4]
    return bool((sparse == sparse[0, 0]).all()) and bool((frame == frame[0, 0]).all())


def _rates(clips: ClipSet) -> list[float]:
    """Frames per second of every clip whose writer noted them."""
    noted = [shard.metadata.get("frames_per_second") for shard in clips.shards]
    return [rate for text in noted if text is not None for rate in json.loads(text)]


def _range(values: Any) -> list[float] | None:
    return [_round(float(np.min(values))), _round(float(np.max(values)))] if len(values) else None


def _tail(values: NDArray[np.float64]) -> dict[str, float]:
    if not values.size:
        return {}
    return {"p99": _round(float(np.percentile(values, 99))), "most": _round(float(values.max()))}


def _round(value: float) -> float:
    """Four digits that count."""
    return 0.0 if abs(value) < 1e-9 else float(f"{value:.4g}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{_round(value) + 0.0:g}"
    if value is None or value == {}:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key or '(no words)'} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):  # sizes are whole numbers, ranges are not
        between = " x " if all(isinstance(inner, int) for inner in value) else " to "
        return between.join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
