"""From the player's hand to the screen: how long each part of the way takes, always measured."""

from __future__ import annotations

import json
import os
import platform
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.types import StepTimes

STAGES = {
    "wait": "an input waits until the next step reads it",
    "denoise": "noise becomes a latent",
    "decode": "the latent becomes pixels",
    "copy": "the pixels come to where they can be uploaded",
    "step": "the whole step, from reading the input to the frame",
    "show": "the frame waits until it is on the screen",
    "draw": "a picture is drawn and handed to the display, of whatever frame",
    "move": "all of it: from an input to the generated frame that shows it",
    "look": "from an input that turns the view to the re-projected frame that shows it",
}
REMEMBERED = 2048  # newest measurements of a stage


@dataclass(frozen=True, slots=True)
class Percentiles:
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class LatencyLog:
    """The newest measurements of every stage. For one thread."""

    def __init__(self) -> None:
        self._seconds = {stage: deque[float](maxlen=REMEMBERED) for stage in STAGES}
        self._ratios = deque[float](maxlen=REMEMBERED)  # a frame's way to the screen, of its step

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage].append(seconds)

    def add_step(
        self,
        times: StepTimes | None,
        *,
        input_s: float | None,
        began_s: float,
        ready_s: float,
        shown_s: float,
    ) -> None:
        """One frame that was shown; nothing if it was not generated but only shown again."""
        if times is None:
            return
        self.add("denoise", times.denoise_s)
        self.add("decode", times.decode_s)
        self.add("copy", times.copy_s)
        self.add("step", ready_s - began_s)
        self.add("show", shown_s - ready_s)
        self._ratios.append((shown_s - began_s) / max(ready_s - began_s, 1e-6))
        if input_s is not None:
            self.add("wait", began_s - input_s)
            self.add("move", shown_s - input_s)

    def frame_ratio_p95(self) -> float:
        """From reading the input to the screen, as a multiple of making the frame; 0 without frames."""
        return float(np.percentile(self._ratios, 95)) if self._ratios else 0.0

    def percentiles(self) -> dict[str, Percentiles]:
        """Of every stage that was measured at all."""
        return {stage: _percentiles(values) for stage, values in self._seconds.items() if values}


def _percentiles(seconds: deque[float]) -> Percentiles:
    ms = 1000.0 * np.array(seconds)
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    rounded = (round(float(value), 3) for value in (p50, p95, p99, ms.max()))
    return Percentiles(len(ms), *rounded)


def write_report(path: Path, log: LatencyLog, **facts: Any) -> None:
    """Write what was measured, and on which machine, as JSON; complete or not at all."""
    report = {
        "schema": 1,
        **facts,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "stages": {
            stage: {"what": STAGES[stage], **asdict(values)}
            for stage, values in log.percentiles().items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
