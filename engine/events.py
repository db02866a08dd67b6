"""The lines of a recording: JSON there and back. What they mean is told in `engine/recording.py`."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.controls import InputSample
from worldmodel.types import Camera, GeneratorSpec, Intrinsics

SCHEMA = 1
EVENTS, VIDEO, LATENCY = "events.jsonl", "video.mkv", "latency.json"
KINDS = ("begin", "step", "prompt", "steps", "window", "branch", "past", "end")  # after the header

Json = dict[str, Any]


def header(spec: GeneratorSpec, model: Path | None) -> Json:
    """The first line: what a replay needs to know of the generator, and who made the recording."""
    return {
        "event": "recording",
        "schema": SCHEMA,
        "began": datetime.now().isoformat(timespec="milliseconds"),
        "model": spec.name,
        "folder": None if model is None else str(model),
        "weights": spec.weights,
        "steps": spec.steps,
        "window_frames": spec.window_frames,
        "runtime": spec.runtime,
        "frames_per_second": spec.frames_per_second,
        "frames_per_step": spec.frames_per_step,
        "cameras_per_step": spec.cameras_per_step,
        "size_px": [spec.width_px, spec.height_px],
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "system": f"{platform.system()} {platform.machine()}",
    }


def digest(frame: NDArray[np.uint8]) -> str:
    """Of the pixels of one frame."""
    return hashlib.blake2b(np.ascontiguousarray(frame).tobytes(), digest_size=12).hexdigest()


def write_cameras(cameras: Sequence[Camera]) -> Json:
    return {
        "cameras": [
            {
                "camera_from_world": camera.camera_from_world.tolist(),
                "intrinsics": asdict(camera.intrinsics),
            }
            for camera in cameras
        ]
    }


def write_input(sample: InputSample) -> Json:
    return {
        "held": sorted(sample.held),
        "look_rad": list(sample.look_rad),
        "move_stick": list(sample.move_stick),
        "lift": sample.lift,
    }


def read_cameras(event: Json) -> list[Camera]:
    """Raises:
    ValueError: if one is no rigid motion.
    """
    return [
        Camera(np.array(camera["camera_from_world"]), Intrinsics(**camera["intrinsics"]))
        for camera in event["cameras"]
    ]
