"""An evaluation as one JSON object: the numbers first that people ask for, then all the others."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.ahead import Ahead, ahead
from distill.comparison import Row, compare_with_truth
from distill.evaluate import (
    RECONSTRUCTED,
    SEED,
    Extent,
    Model,
    Truth,
    steps_name,
)
from distill.features import Ruler
from distill.long_play import LongPlay, Played, first_clips, play
from distill.prompt_change import Asked, Asking, prompt_change
from distill.returning import returning

TO_TRUTH = ("psnr_db", "psnr_margin_db", "ssim", "perceptual")
FAR = ("32", "128")  # horizons of the statistics that need no true frame
DRIFTING = ("gradient_energy_ratio", "colour_drift", "colour_variance_drift")


@dataclass(frozen=True, slots=True)
class Evaluation:
    numbers: dict[str, Any]
    made: Tensor  # what the model generated after the true frames, uint8 [b f H W 3]
    played: Played
    ahead: Ahead
    asked: list[Asked]  # changes of the prompt; empty without a judge


def evaluate(
    model: Model,
    truth: Truth,
    extent: Extent,
    long_play: LongPlay,
    ruler: Ruler,
    asking: Asking | None = None,
) -> Evaluation:
    """All measurements of a model, and what was generated for them; of prompts only if one judges.

    Raises:
        ValueError: if nothing moves in the clips, or the judge has nothing to tell apart.
    """
    began = time.monotonic()
    change = None if asking is None else prompt_change(model, truth, extent.known, asking)
    told = time.monotonic()
    comparison = compare_with_truth(model, truth, extent, ruler)
    rows = comparison.rows
    compared = time.monotonic()
    played = play(model, truth, extent.known, long_play)
    few = first_clips(truth, long_play.walks)
    straight = ahead(model, few, extent.known, long_play.spans_ahead, ruler)
    returned = returning(model, few, ruler)
    seconds = {
        "changes of prompt": round(told - began, 1),
        "compared with truth": round(compared - told, 1),
        "long play": round(time.monotonic() - compared, 1),
    }
    cameras = {name: row.pop("camera") for name, row in rows.items()}
    name = steps_name(model.playable.rollout.steps)
    own = rows[name]
    result = {
        **circumstances(model),
        "context_frames": extent.known,
        "words": told_words(truth),
        "worlds": len(truth.frames),
        **headline(rows, own, played.numbers),
        "camera_rotation_error_deg": cameras[name]["rotation_error_deg"],
        "camera_direction_error_deg": cameras[name].get("heading_error_deg"),
        "camera": {"renderer's truth": comparison.camera_of_truth, **cameras},
        "frechet_distance": own.get("frechet"),
        "frechet": comparison.frechet,
        "prompt_change_visible": None if change is None else change.numbers["visible"],
        "prompt_change": None if change is None else change.numbers,
        "still": played.numbers["still"],
        "ahead": straight.numbers,
        "returning": returned,
        "long_play": {key: x for key, x in played.numbers.items() if key != "still"},
        "ruler": {
            "network": f"encoder of the autoencoder of {ruler.name}",
            "digest": ruler.digest(),
            "trained_on": "the procedural worlds of this repository, to reconstruct frames",
        },
        "rows": rows,
        "seconds": seconds,
    }
    asked = [] if change is None else change.asked
    return Evaluation(result, comparison.own, played, straight, asked)


def told_words(truth: Truth) -> str:
    """What the model was told of the worlds: the words it knows, of those that have any."""
    told = int(truth.views.words.flatten(1).any(1).sum())
    return f"of {told} of {len(truth.frames)} clips"


def setting(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Where something was measured, and with which code."""
    return {
        "commit": commit(),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def circumstances(model: Model) -> dict[str, Any]:
    """What was measured, where, and with which code."""
    return {
        "model": model.playable.name,
        **setting(model.device, model.dtype),
        "seed": SEED,
        "steps": model.playable.rollout.steps,
    }


def headline(rows: dict[str, Row], own: Row, played: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the model as it is played; `own` is its row."""
    drifting = {
        name: played[name] | {h: own[name][h] for h in FAR if h in own[name]} for name in DRIFTING
    }  # against the true frame where there is one
    reconstructed = rows[RECONSTRUCTED]
    baselines = {name: row for name, row in rows.items() if "step" not in name or "wrong" in name}
    return {
        **{name: own[name] for name in TO_TRUTH},
        **drifting,
        "motion_ratio": own.get("motion_ratio"),
        "autoencoder_psnr_db": _mean(reconstructed["psnr_db"]),
        "autoencoder_gradient_energy_ratio": _mean(reconstructed["gradient_energy_ratio"]),
        "autoencoder_checkerboard_ratio": _mean(reconstructed["checkerboard_ratio"]),
        "baselines": {name: {key: row[key] for key in TO_TRUTH} for name, row in baselines.items()},
    }


def _mean(values: dict[str, float]) -> float:
    return round(sum(values.values()) / len(values), 3)


def commit() -> str:
    """The commit of this code, with "-dirty" if files differ from it; "unknown" without git."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def write_atomically(text: str, path: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_result(result: dict[str, Any], path: Path) -> None:
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(re.sub(r"\[[^\[\]{}\"]*\]", _on_one_line, text) + "\n", path)


def _on_one_line(numbers: re.Match[str]) -> str:
    return " ".join(numbers.group().split())
