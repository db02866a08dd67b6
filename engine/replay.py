"""A recording made again, frame for frame: is it the same, bit for bit?"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import EVENTS, KINDS, SCHEMA, Json, digest, read_cameras
from engine.history import State
from engine.saves import StateFormat
from engine.scene import Scene, read_image
from worldmodel.types import Camera, GeneratorSpec, RuntimeChoice, WorldGenerator


@dataclass(frozen=True, slots=True)
class Recording:
    folder: Path
    header: Json
    events: tuple[Json, ...]
    complete: bool  # it was closed; otherwise the program or the system ended before

    @property
    def runtime(self) -> RuntimeChoice:
        """What computed it; recordings that do not say are of torch."""
        name = str(self.header.get("runtime") or "torch").split()[0]
        return "openvino" if name == "openvino" else "torch"

    @property
    def fp8(self) -> bool:
        """Whether it was computed in 8 bits."""
        return "fp8" in str(self.header.get("runtime")).split()

    @property
    def steps(self) -> int:
        return sum(event["event"] in ("begin", "step") for event in self.events)


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What one event of the recording showed."""

    frames: NDArray[np.uint8]
    differs: int | None = None  # the first of these frames that is not the recorded one
    different: int = 0  # how many are not
    again: bool = False  # shown again while time ran backwards, not made


@dataclass(frozen=True, slots=True)
class Comparison:
    frames: int  # generated ones, in all
    different: int
    first: tuple[int, int] | None  # step and frame, both as counted in `frames`, that differs first

    def describe(self, *, other: bool) -> str:
        """`other`: it was another model, so nothing was to be the same."""
        if other:
            return f"{self.frames} frames along the same path with another model"
        if self.first is None:
            return f"{self.frames} frames made again, bit-exact"
        step, frame = self.first
        return (
            f"frame {frame} (step {step}) is the first that differs; {self.different} of"
            f" {self.frames} frames do. Exact replays need the same device and software"
        )


def compare(shown: Iterable[Replayed]) -> Comparison:
    """Count what differs, and where it begins; frames and steps are counted from 0."""
    frames = different = steps = 0
    first = None
    for event in shown:
        if event.again:
            continue
        if event.differs is not None:
            different += event.different
            first = first or (steps, frames + event.differs)
        frames += len(event.frames)
        steps += 1
    return Comparison(frames, different, first)


def read_recording(folder: Path) -> Recording:
    """Read all events; a last line that a crash cut short is left out.

    Raises:
        ValueError: naming the recording and the line that is wrong.
    """
    try:
        text = (folder / EVENTS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"recording {folder}: {EVENTS} cannot be read ({error})") from None
    lines = text.split("\n")[:-1]  # what follows the last line end was never finished
    events = [
        _parse(line, f"recording {folder}: {EVENTS} line {n}") for n, line in enumerate(lines, 1)
    ]
    if not events or events[0]["event"] != "recording":
        raise ValueError(f"recording {folder}: it has no beginning")
    if events[0].get("schema") != SCHEMA:
        raise ValueError(f"recording {folder}: it is from another version of this program")
    complete = events[-1]["event"] == "end"
    for number, event in enumerate(events[1:], 2):
        if event["event"] not in KINDS:
            raise ValueError(
                f"recording {folder}: {EVENTS} line {number}: {event['event']!r} is of another"
                " version of this program"
            )
    played = tuple(event for event in events[1:] if event["event"] != "end")
    if not played:
        raise ValueError(f"recording {folder}: nothing was played")
    return Recording(folder, events[0], played, complete)


def check_plays(recording: Recording, spec: GeneratorSpec) -> None:
    """Raises:
    ValueError: if a generator takes another number of cameras than the recorded one.
    """
    wanted = recording.header["cameras_per_step"], recording.header["frames_per_step"]
    if wanted != (spec.cameras_per_step, spec.frames_per_step):
        raise ValueError(
            f"recording {recording.folder}: made with {wanted[0]} cameras and {wanted[1]} frames a"
            f" step; {spec.name!r} has {spec.cameras_per_step} and {spec.frames_per_step}"
        )


def replay(recording: Recording, world: WorldGenerator, states: StateFormat) -> Iterator[Replayed]:
    """Make everything again that was shown, in order.

    Raises:
        ValueError: if a file of the recording is missing or damaged, or the model is another one and
            a world went on from a state, which is of no use to it.
    """
    check_plays(recording, world.spec)
    branches = Counter(event["to"] for event in recording.events if event["event"] == "branch")
    shown_again = Counter(event["shows"] for event in recording.events if event["event"] == "past")
    same_model = world.spec.weights == recording.header["weights"]
    _set_window(world, recording.header.get("window_frames", 0), same_model)
    known_states: dict[int, State] = {}
    known_frames: dict[int, NDArray[np.uint8]] = {}
    for event in recording.events:
        kind = event["event"]
        if kind == "branch":
            world.restore(_take(known_states, branches, event["to"], recording))
            continue
        if kind == "steps":
            world.set_steps(event["steps"])
            continue
        if kind == "window":
            _set_window(world, event["frames"], same_model)
            continue
        if kind == "prompt":
            world.set_prompt(event["prompt"])
            continue
        if kind == "past":
            yield Replayed(_take(known_frames, shown_again, event["shows"], recording), again=True)
            continue
        frames = _make(event, recording, world, states)
        if branches[event["number"]]:
            known_states[event["number"]] = world.snapshot()
        if shown_again[event["number"]]:
            known_frames[event["number"]] = frames
        differing = _differences(frames, event["frames"])
        yield Replayed(frames, min(differing, default=None), len(differing))
        if not world.spec.packs:
            world.settle()


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One frame of the way that was kept."""

    video_frame: int  # where in the recorded video it was first shown
    camera: Camera


def trajectory(recording: Recording) -> list[Seen]:
    """The way from the last beginning on; what a branch left behind is not in it."""
    return trajectories(recording)[-1]


def trajectories(recording: Recording) -> list[list[Seen]]:
    """All ways: a new one with every beginning, and where a branch goes back to before the last one.

    What a branch left behind is in none.
    """
    ways: list[list[tuple[int, Seen]]] = []
    counts: dict[int, int] = {}
    shown = 0
    for event in recording.events:
        if event["event"] == "past":
            shown += counts[event["shows"]]
        elif event["event"] in ("prompt", "steps", "window"):
            continue
        elif event["event"] == "branch":
            kept = [(number, seen) for number, seen in ways[-1] if number <= event["to"]]
            ways = [*ways[:-1], kept] if kept else [*ways, []]
        else:
            count = counts[event["number"]] = len(event["frames"])
            if event["event"] == "begin":
                ways.append([])
            cameras = read_cameras(event)
            for index in range(count):
                camera = cameras[index * len(cameras) // count]
                ways[-1].append((event["number"], Seen(shown + index, camera)))
            shown += count
    return [[seen for _, seen in way] for way in ways]


def _set_window(world: WorldGenerator, frames: int, same_model: bool) -> None:
    """Another model keeps a memory of its own length; 0: the recording does not say."""
    if same_model and frames and frames != world.spec.window_frames:
        world.set_window(frames)


def _make(
    event: Json, recording: Recording, world: WorldGenerator, states: StateFormat
) -> NDArray[np.uint8]:
    cameras = read_cameras(event)
    if event["event"] == "step":
        return world.step(cameras)
    if event["state"] is not None:
        stored = states.read(recording.folder / event["state"])
        if world.spec.weights != recording.header["weights"]:
            raise ValueError(
                f"recording {recording.folder}: it goes on from a state of"
                f" {recording.header['model']!r}, which another model cannot"
            )
        world.restore(stored["world"])
        return np.asarray(stored["frames"])
    described = event["scene"]
    image = None
    if described["image"] is not None:
        image = read_image(recording.folder / described["image"])
    scene = Scene(described["name"], described["seed"], image, described["prompt"])
    return world.reset(scene.start(world.spec), cameras[0])[np.newaxis]


def _take(known: dict[int, Any], wanted: Counter[int], number: int, recording: Recording) -> Any:
    """What was kept of a step; forgotten once nobody asks for it again."""
    if number not in known:
        raise ValueError(f"recording {recording.folder}: it goes back to step {number}, not in it")
    wanted[number] -= 1
    return known[number] if wanted[number] else known.pop(number)


def _differences(frames: NDArray[np.uint8], recorded: list[str]) -> list[int]:
    """Which frames are not the recorded ones; a frame too many or too few is one as well."""
    made = [digest(frame) for frame in frames]
    pairs = itertools.zip_longest(made, recorded)
    return [index for index, (one, other) in enumerate(pairs) if one != other]


def _parse(line: str, where: str) -> Json:
    try:
        event = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: damaged ({error})") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError(f"{where}: no event")
    return event
