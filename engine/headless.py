"""A walk without a window: poses in, a video or a folder of frames out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from engine.latency import LatencyLog
from engine.paths import frame_count
from engine.recording import Recorder
from engine.scene import Scene
from engine.video import FrameSink
from worldmodel.types import Camera, Start, WorldGenerator


@dataclass(frozen=True, slots=True)
class Report:
    frames: int
    first_frame_s: float
    frames_per_second: float  # generated, the first frame left out; 0 if it is the only one
    latency: LatencyLog


def generate(
    world: WorldGenerator,
    start: Start,
    cameras: list[Camera],
    latency: LatencyLog,
    recorder: Recorder | None,
) -> Iterator[NDArray[np.uint8]]:
    """The start frame seen from the first camera, then the frames of the others.

    A frame counts as shown once the next one is asked for: then the caller has dealt with it.
    """
    spec = world.spec
    first = world.reset(start, cameras[0])
    if recorder is not None:
        scene = Scene("", start.seed, start.image, start.prompt)
        recorder.begin(0, scene, cameras[:1], first[np.newaxis], spec)
    yield first
    wanted = frame_count(len(cameras), spec) - 1
    made = 0
    for index in range(1, len(cameras), spec.cameras_per_step):
        chunk = cameras[index : index + spec.cameras_per_step]
        # The last step may be short of cameras: it stands still, and those frames are dropped.
        still = [chunk[-1]] * (spec.cameras_per_step - len(chunk))
        began_s = time.monotonic()
        frames = world.step([*chunk, *still])
        ready_s = time.monotonic()
        if recorder is not None:
            recorder.step(index, None, [*chunk, *still], frames)
        frames = frames[: wanted - made]
        made += len(frames)
        yield from frames
        latency.add_step(
            world.times(),
            input_s=None,
            began_s=began_s,
            ready_s=ready_s,
            shown_s=time.monotonic(),
        )


def run_headless(
    world: WorldGenerator,
    start: Start,
    cameras: list[Camera],
    sink: FrameSink,
    *,
    frames: int | None = None,
    recorder: Recorder | None = None,
) -> Report:
    """Write the path, or its first `frames` frames, to `sink`."""
    total = frame_count(len(cameras), world.spec)
    total = total if frames is None else min(frames, total)
    began_s = first_s = time.monotonic()
    written, latency = 0, LatencyLog()
    # tqdm draws nothing where standard error is no terminal.
    with sink, tqdm(total=total, unit="frame", disable=None) as progress:
        for frame in itertools.islice(generate(world, start, cameras, latency, recorder), total):
            sink.write(frame)
            progress.update()
            written += 1
            first_s = time.monotonic() if written == 1 else first_s
    elapsed_s = time.monotonic() - first_s
    rate = (written - 1) / elapsed_s if written > 1 else 0.0
    return Report(written, first_s - began_s, rate, latency)
