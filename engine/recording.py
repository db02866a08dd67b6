"""A session on disk while it is played: what was done, exactly, and what was seen, as a video.

    events.jsonl             one line per event, in order; a crash loses at most the line being written
    video.mkv                the frames as shown, playable up to the moment of a crash
    start-N.png              the picture world number N began with
    latency.json             how long the ways from the hand to the screen were, at the end
    state-N.safetensors      the state it went on from, where it began from one

The first line is the header. Then a world begins (`begin`), makes frames for cameras (`step`), gets
other words (`prompt`), denoising steps (`steps`) or length of memory (`window`), or goes on from after
an earlier step (`branch`); or an earlier step is shown again while time runs backwards (`past`). Every
generated frame is there with a digest, for replays.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.controls import InputSample
from engine.events import (
    EVENTS,
    VIDEO,
    Json,
    digest,
    header,
    write_cameras,
    write_input,
)
from engine.saves import SavedGame, StateFormat
from engine.scene import Scene
from engine.video import encode_frame, open_stream
from worldmodel.types import Camera, GeneratorSpec

MOST_WAITING = 64  # events behind which the video leaves frames out to catch up; no event is lost
SYNC_PERIOD_S = 1.0
CLUSTER_MS = 250  # of video that lie in memory before they are written


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Work for the writing thread."""

    event: Json
    frames: NDArray[np.uint8] | None = None  # (n, H, W, 3), for the video
    digest: bool = True  # and for the event
    begin: Scene | SavedGame | None = None


class Recorder:
    """Takes events on the generation thread and writes them on its own.

    A failing disk ends the recording and nothing else: `error` says why.
    """

    def __init__(self, folder: Path, states: StateFormat, model: Path | None = None) -> None:
        """`folder` must be new or empty; `model` is the folder the model was opened from.

        Raises:
            OSError: if it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.began_s = time.monotonic()
        self.error = ""
        self._states = states
        self._model = model
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._opened = False
        self._first: int | None = None
        self._worlds = 0
        self._file = (folder / EVENTS).open("x", encoding="utf-8", buffering=1)
        self._synced_s = self.began_s
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._rate = Fraction(12)
        self._shown = 0
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def begin(
        self,
        number: int,
        begin: Scene | SavedGame,
        cameras: Sequence[Camera],
        frames: NDArray[np.uint8],
        spec: GeneratorSpec,
    ) -> None:
        """A world begins, anew or from a state."""
        if not self._opened:
            self._opened, self._first = True, number
            self._jobs.put(_Job(header(spec, self._model)))
        event = {"event": "begin", "number": number, **self._now(), **write_cameras(cameras)}
        self._jobs.put(_Job(event, frames, begin=begin))

    def step(
        self,
        number: int,
        sample: InputSample | None,
        cameras: Sequence[Camera],
        frames: NDArray[np.uint8],
    ) -> None:
        """Frames were made; `sample` is the input that moved the cameras, if a player did."""
        event = {"event": "step", "number": number, **self._now(), **write_cameras(cameras)}
        if sample is not None:
            event["input"] = write_input(sample)
        self._jobs.put(_Job(event, frames))

    def knows(self, number: int) -> bool:
        """Was that step made since the recording began?"""
        return self._first is not None and number >= self._first

    def branch(self, to: int) -> None:
        """The next step follows from after step `to`."""
        self._jobs.put(_Job({"event": "branch", "to": to, **self._now()}))

    def steps(self, steps: int) -> None:
        """The next frames are made in that many denoising steps."""
        self._jobs.put(_Job({"event": "steps", "steps": steps, **self._now()}))

    def window(self, frames: int) -> None:
        """From the next frame on, that many are remembered."""
        self._jobs.put(_Job({"event": "window", "frames": frames, **self._now()}))

    def prompt(self, prompt: str) -> None:
        """The next step is made with other words."""
        self._jobs.put(_Job({"event": "prompt", "prompt": prompt, **self._now()}))

    def past(self, number: int, frames: NDArray[np.uint8]) -> None:
        """The frames of step `number` were shown again."""
        event = {"event": "past", "shows": number, **self._now()}
        self._jobs.put(_Job(event, frames, digest=False))

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is waiting and finish the video."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _now(self) -> Json:
        return {"t_s": round(time.monotonic() - self.began_s, 4)}

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                self._write(job)
            self._write_line({"event": "end", **self._now()})
        except (OSError, av.FFmpegError) as error:
            self.error = f"{self.folder}: {error.strerror or error}"
        finally:
            self._finish()

    def _write(self, job: _Job) -> None:
        event = dict(job.event)
        if event["event"] == "recording":
            self._rate = Fraction(event["frames_per_second"]).limit_denominator(1000)
        if job.begin is not None:
            event |= self._write_begin(job.begin)
        if job.frames is not None and job.digest:
            event["frames"] = [digest(frame) for frame in job.frames]
        self._write_line(event)
        if job.frames is not None:
            self._write_video(job.frames)

    def _write_begin(self, begin: Scene | SavedGame) -> Json:
        scene = begin.scene if isinstance(begin, SavedGame) else begin
        start, state = None, None
        if scene.image is not None:
            start = f"start-{self._worlds}.png"
            Image.fromarray(scene.image).save(self.folder / start)
        if isinstance(begin, SavedGame):
            state = f"state-{self._worlds}.safetensors"
            content = {"frames": begin.frames, "world": begin.state}
            self._states.write(self.folder / state, content)
        self._worlds += 1
        described = {"name": scene.name, "seed": scene.seed, "prompt": scene.prompt, "image": start}
        return {"scene": described, "state": state}

    def _write_line(self, event: Json) -> None:
        self._file.write(json.dumps(event) + "\n")
        now_s = time.monotonic()
        if now_s - self._synced_s >= SYNC_PERIOD_S:  # the system may crash as well
            self._synced_s = now_s
            os.fsync(self._file.fileno())

    def _write_video(self, frames: NDArray[np.uint8]) -> None:
        if self._stream is None:
            self._container = av.open(
                self.folder / VIDEO,
                "w",
                format="matroska",
                options={"cluster_time_limit": str(CLUSTER_MS), "flush_packets": "1"},
            )
            self._stream = open_stream(
                self._container,
                self._rate,
                (frames.shape[2], frames.shape[1]),
                # the world is made on the same processor: a third of the time for a third more bytes
                {"crf": "18", "preset": "ultrafast", "tune": "zerolatency"},
            )
        assert self._container is not None
        if self._jobs.qsize() > MOST_WAITING:
            self._shown += len(frames)
            return
        for frame in frames:
            picture = encode_frame(frame, self._stream)
            picture.pts, picture.time_base = self._shown, 1 / self._rate
            self._shown += 1
            self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        """Each part by itself: what one could not write is no reason to leave the other open."""
        for finish in (self._finish_video, self._file.close):
            try:
                finish()
            except (OSError, av.FFmpegError) as error:
                self.error = self.error or f"{self.folder}: {error.strerror or error}"

    def _finish_video(self) -> None:
        if self._container is not None and self._stream is not None:
            with self._container:
                self._container.mux(self._stream.encode(None))
