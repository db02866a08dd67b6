"""What was played is on disk, survives a crash, and is made again bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import play
from engine.controls import ControlSettings, InputSample
from engine.effort import EffortSettings
from engine.events import EVENTS, VIDEO
from engine.export import export, quaternion, tum_lines
from engine.loop import GenerationLoop
from engine.paths import read_poses
from engine.recording import Recorder
from engine.replay import (
    Recording,
    compare,
    read_recording,
    replay,
    trajectories,
    trajectory,
)
from engine.saves import SavedGame, StateFormat
from engine.scene import Scene
from engine.video import read_video
from tests.worldmodel import tiny
from worldmodel import saves
from worldmodel.motion import Viewpoint
from worldmodel.types import Camera

from .fakes import FakeWorld

ROOT = Path(play.__file__).parent
STATES = StateFormat(saves.write_state, saves.read_state)


class Restless:
    """A player who never does the same twice."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)

    def take(self) -> InputSample:
        held = {"forward"} if self.random.random() < 0.7 else {"right", "run"}
        look = self.random.normal(0, 0.05, 2)
        return InputSample(frozenset(held), (float(look[0]), float(look[1])), oldest_s=1.0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def steps_of(loop: GenerationLoop) -> int:
    newest = loop.newest()
    return -1 if newest is None else newest.number


def play_for(loop: GenerationLoop, steps: int) -> None:
    wanted = steps_of(loop) + steps
    until(lambda: steps_of(loop) >= wanted)


def recorded_session(folder: Path, *, from_the_start: bool = True) -> Recording:
    """Walk, rewind, branch, reset, save, walk, go back to the save: all of it recorded."""
    world = tiny.session(static_world=True)
    world.set_rate(200.0)
    picture = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    loop = GenerationLoop(
        lambda: world,
        Scene("a", 3, picture),
        Restless().take,
        ControlSettings(),
        effort=EffortSettings(auto=False),
    )
    recorder = Recorder(folder, STATES)
    if from_the_start:
        loop.record(recorder)
    loop.start()
    play_for(loop, 5)
    loop.choose_effort()
    play_for(loop, 3)
    loop.record(recorder)
    play_for(loop, 4)
    loop.choose_effort()
    play_for(loop, 4)
    loop.set_rewinding(True)
    play_for(loop, 4)
    loop.set_rewinding(False)
    play_for(loop, 5)
    loop.reset(Scene("b", 4))
    play_for(loop, 5)
    loop.save()
    saved: list[SavedGame] = []
    until(lambda: (game := loop.take_saved()) is not None and not saved.append(game))  # type: ignore[func-returns-value]
    play_for(loop, 5)
    loop.reset(saved[0])
    play_for(loop, 5)
    loop.set_rewinding(True)  # far back: beyond the save, and beyond where recording began
    until(lambda: loop.timeline().at == 0)
    loop.set_rewinding(False)
    play_for(loop, 6)
    loop.stop()
    recorder.close()
    assert not recorder.error
    return read_recording(folder)


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_session_with_branches_resets_and_saves_is_made_again_bit_for_bit(
    tmp_path: Path, from_the_start: bool
) -> None:
    recording = recorded_session(tmp_path / "rec", from_the_start=from_the_start)
    kinds = {event["event"] for event in recording.events}
    assert kinds == {"begin", "step", "steps", "window", "branch", "past"} and recording.complete
    result = compare(replay(recording, tiny.session(static_world=True), STATES))
    assert result.first is None and result.different == 0
    assert result.frames == recording.steps > 30
    assert result.describe(other=False) == f"{result.frames} frames made again, bit-exact"
    shown = sum(event["event"] in ("begin", "step", "past") for event in recording.events)
    video = list(read_video(tmp_path / "rec" / VIDEO))
    assert [number for number, _ in video] == list(range(shown))


def test_a_replay_settles_as_play_does(tmp_path: Path) -> None:
    made = FakeWorld(frames_per_second=200.0)
    loop = GenerationLoop(lambda: made, Scene("a", 3), Restless().take, ControlSettings())
    recorder = Recorder(tmp_path / "rec", STATES)
    loop.record(recorder)
    loop.start()
    play_for(loop, 3)
    loop.stop()
    recorder.close()
    recording = read_recording(tmp_path / "rec")
    for packs in (False, True):
        again = FakeWorld(frames_per_second=200.0, packs=packs)
        assert compare(replay(recording, again, STATES)).different == 0
        assert again.settled == (0 if packs else recording.steps)


def test_the_first_frame_that_differs_is_named(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec")
    steps = [index for index, event in enumerate(recording.events) if event["event"] == "step"]
    changed = [dict(event) for event in recording.events]
    camera = Camera(Viewpoint(yaw_rad=0.5).camera_from_world(), tiny.LENS)
    changed[steps[4]]["cameras"] = [
        {
            "camera_from_world": camera.camera_from_world.tolist(),
            "intrinsics": {"fx": tiny.LENS.fx, "fy": tiny.LENS.fy},
        }
    ]
    other = replace(recording, events=tuple(changed))
    result = compare(replay(other, tiny.session(static_world=True), STATES))
    assert result.first == (5, 5) and result.different > 1  # the beginning is step 0
    assert "frame 5 (step 5) is the first that differs" in result.describe(other=False)


def test_the_inputs_are_there_with_the_cameras_they_gave(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec")
    steps = [event for event in recording.events if event["event"] == "step"]
    assert all(set(step["input"]) == {"held", "look_rad", "move_stick", "lift"} for step in steps)
    assert {tuple(step["input"]["held"]) for step in steps} == {("forward",), ("right", "run")}
    assert recording.header["steps"] == 2 and recording.header["model"] == "tiny"


def test_the_way_leaves_out_what_a_branch_left_behind(tmp_path: Path) -> None:
    world = FakeWorld()
    recorder = Recorder(tmp_path / "rec", STATES)
    cameras = [Camera(Viewpoint(z_m=float(at)).camera_from_world(), tiny.LENS) for at in range(6)]
    frame = world.reset(Scene("a", 0).start(world.spec), cameras[0])[None]
    recorder.begin(0, Scene("a", 0), cameras[:1], frame, world.spec)
    for number in (1, 2, 3):
        recorder.step(number, None, [cameras[number]], frame)
    recorder.past(2, frame)
    recorder.past(1, frame)
    recorder.branch(1)
    recorder.step(6, None, [cameras[4]], frame)
    recorder.close()
    way = trajectory(read_recording(tmp_path / "rec"))
    depths = [float(-seen.camera.camera_from_world[2, 3]) for seen in way]
    assert depths == [0.0, 1.0, 4.0]
    assert [seen.video_frame for seen in way] == [0, 1, 6]


CRASHING = """
import sys, time
from pathlib import Path
import numpy as np
from engine.recording import Recorder
from engine.saves import StateFormat
from engine.scene import Scene
from tests.engine.fakes import FakeWorld
from worldmodel.motion import Viewpoint
from worldmodel.types import Camera

world = FakeWorld(frames_per_second=30.0)
recorder = Recorder(Path(sys.argv[1]), StateFormat(None, None))
camera = Camera(Viewpoint().camera_from_world(), world.spec.intrinsics)
noise = np.random.default_rng(0)
frame = lambda: noise.integers(0, 255, (1, 128, 224, 3), dtype=np.uint8)
recorder.begin(0, Scene("a", 0), [camera], frame(), world.spec)
number, began = 0, time.monotonic()
while True:
    number += 1
    while time.monotonic() < began + number / 30:
        time.sleep(0.001)
    recorder.step(number, None, [camera], frame())
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("after_s", [0.7, 1.3, 2.0])
def test_a_killed_session_loses_at_most_a_second(tmp_path: Path, after_s: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path / "rec")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        os.kill(process.pid, signal.SIGKILL)
        last = [line for line in process.stdout.read().split("\n") if line][-1]
    steps = int(last)
    recording = read_recording(tmp_path / "rec")
    assert not recording.complete
    assert recording.steps >= steps - 30
    assert len(list(read_video(tmp_path / "rec" / VIDEO))) >= steps - 30
    assert steps > 5


@pytest.mark.skipif(sys.platform == "win32", reason="copies files that are open")
def test_what_lies_on_disk_at_any_of_twenty_moments_opens_and_lacks_at_most_a_second(
    tmp_path: Path,
) -> None:
    """What the system holds of open files is what a killed process leaves behind."""
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path / "rec")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        moments = []
        for line in itertools.islice(process.stdout, 30, 90):
            if int(line) % 3 == 0:
                moments.append((int(line), tmp_path / f"at-{int(line)}"))
                shutil.copytree(tmp_path / "rec", moments[-1][1])
        process.kill()
    assert len(moments) == 20
    for steps, folder in moments:
        assert read_recording(folder).steps >= steps - 30
        with av.open(folder / VIDEO) as container:
            shown = sum(packet.size > 0 for packet in container.demux(video=0))
        assert shown >= steps - 30


def test_a_line_that_a_crash_cut_short_is_left_out_and_another_is_an_error(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec")
    file = tmp_path / "rec" / EVENTS
    lines = file.read_text().split("\n")
    file.write_text("\n".join(lines[:6]) + '\n{"event": "st')
    assert read_recording(tmp_path / "rec").events == recording.events[:5]
    file.write_text("\n".join([*lines[:6], '{"event": "st', *lines[6:]]))
    with pytest.raises(ValueError, match="line 7: damaged"):
        read_recording(tmp_path / "rec")
    file.write_text("\n".join([lines[0].replace('"schema": 1', '"schema": 9'), *lines[1:]]))
    with pytest.raises(ValueError, match="another version"):
        read_recording(tmp_path / "rec")
    with pytest.raises(ValueError, match="cannot be read"):
        read_recording(tmp_path / "nothing")


def test_a_full_disk_ends_the_recording_and_not_the_walk(tmp_path: Path) -> None:
    def full(path: Path, state: dict[str, Any]) -> None:
        raise OSError(28, f"No space left on device for {len(state)} states at {path.name}")

    world = FakeWorld(frames_per_second=200.0)
    loop = GenerationLoop(lambda: world, Scene("a", 1), Restless().take, ControlSettings())
    loop.start()
    play_for(loop, 3)
    recorder = Recorder(tmp_path / "rec", replace(STATES, write=full))
    loop.record(recorder)  # begins from a state, which cannot be written
    until(lambda: recorder.error != "")
    assert "No space left" in recorder.error
    play_for(loop, 10)
    loop.record(None)
    recorder.close()
    loop.stop()


def test_export_speaks_the_conventions_of_others(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec")
    frames = export(recording, tmp_path / "out")
    poses = read_poses(tmp_path / "out" / "poses.npy")
    way = trajectory(recording)
    assert len(poses) == len(way) == frames
    assert np.array_equal(poses[-1], way[-1].camera.camera_from_world)
    intrinsics = np.load(tmp_path / "out" / "intrinsics.npy")
    assert np.array_equal(intrinsics[0], [tiny.LENS.fx, tiny.LENS.fy, 0.5, 0.5])
    transforms = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert len(transforms["frames"]) == frames
    last = transforms["frames"][-1]
    assert last["fl_x"] == pytest.approx(tiny.LENS.fx * 64)
    to_world = np.array(last["transform_matrix"])
    world_from_camera = np.linalg.inv(poses[-1])
    assert to_world[:3, 3] == pytest.approx(world_from_camera[:3, 3])
    ahead = world_from_camera[:3, :3] @ (0, 0, 1)
    assert to_world[:3, :3] @ (0, 0, -1) == pytest.approx(ahead)  # OpenGL looks along -z
    assert to_world[:3, :3] @ (0, 1, 0) == pytest.approx(world_from_camera[:3, :3] @ (0, -1, 0))
    assert Image.open(tmp_path / "out" / last["file_path"]).size == (64, 32)
    with pytest.raises(ValueError, match="exists"):
        export(recording, tmp_path / "out")


def test_tum_quaternions_turn_as_the_poses_do() -> None:
    random = np.random.default_rng(2)
    for _ in range(200):
        yaw, pitch = random.uniform(-np.pi, np.pi), random.uniform(-1, 1)
        pose = Viewpoint(1.0, 2.0, 3.0, float(yaw), float(pitch)).camera_from_world()
        rotation = np.linalg.inv(pose)[:3, :3]
        x, y, z, w = quaternion(rotation)
        axis, vector = np.array([x, y, z]), random.normal(size=3)
        turned = vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)
        assert turned == pytest.approx(rotation @ vector)
    (comment, line, end) = tum_lines(pose[None], 10.0).split("\n")
    assert comment.startswith("#") and not end
    assert [float(word) for word in line.split()[:4]] == pytest.approx([0.0, 1.0, 2.0, 3.0])


def model_folder(folder: Path) -> Path:
    (folder / "starts").mkdir(parents=True)
    Image.new("RGB", (56, 32), (70, 80, 90)).save(folder / "starts" / "a.png")
    return folder


def load_fake(folder: Path, **_: Any) -> FakeWorld:
    weights = folder.name  # two folders, two models
    return FakeWorld(weights=weights, name=weights)


def test_a_headless_walk_is_recorded_and_replayed_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    rec = tmp_path / "rec"
    argv = ["--model", str(model), "--headless", "--trajectory", "w*5,l*3"]
    argv += ["--out", str(tmp_path / "walk"), "--record", str(rec)]
    assert play.main(argv, load_fake) == 0
    capsys.readouterr()
    assert play.main(["--replay", str(rec), "--out", str(tmp_path / "again")], load_fake) == 0
    assert "9 frames made again, bit-exact" in capsys.readouterr().out
    for file in sorted((tmp_path / "walk").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()

    class Painted(FakeWorld):
        def _paint(self, camera: Camera) -> NDArray[np.uint8]:
            frame = super()._paint(camera)
            frame[0, 0] += np.uint8(len(self.cameras) > 4)
            return frame

    argv = ["--replay", str(rec)]
    assert play.main(argv, lambda *_, **__: Painted(weights="one")) == 1
    assert "frame 4 (step 4) is the first that differs" in capsys.readouterr().out

    both = tmp_path / "both.mp4"
    argv = ["--replay", str(rec), "--model", str(other), "--out", str(both)]
    assert play.main(argv, load_fake) == 0
    assert "with another model" in capsys.readouterr().out
    with av.open(both) as container:
        assert container.streams.video[0].width == 2 * 56 + 4
    assert play.main(["--replay", str(rec), "--export", str(tmp_path / "export")], load_fake) == 0
    assert len(read_poses(tmp_path / "export" / "poses.npy")) == 9


def test_bad_input_about_recordings_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(model_folder(tmp_path / "one"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    headless = ["--model", model, "--headless", "--frames", "2", "--out", str(tmp_path / "o")]
    cases = [
        ([*headless, "--record", str(tmp_path / "full")], "record into a new folder"),
        (["--replay", str(tmp_path / "none")], "cannot be read"),
        (["--replay", str(tmp_path / "none"), "--seed", "3"], "exclude each other"),
        (["--model", model, "--export", str(tmp_path / "x")], "--export needs --replay"),
    ]
    for argv, complaint in cases:
        assert play.main(argv, load_fake) == 2
        errors = capsys.readouterr().err
        assert complaint in errors and errors.count("\n") == 1
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def test_a_recording_of_an_older_version_of_its_model_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_folder(tmp_path / "one")
    argv = ["--model", str(model), "--headless", "--frames", "3", "--out", str(tmp_path / "o")]
    assert play.main([*argv, "--record", str(tmp_path / "rec")], load_fake) == 0
    capsys.readouterr()

    def newer(folder: Path, **_: Any) -> FakeWorld:
        return FakeWorld(weights="trained on", name=folder.name)

    assert play.main(["--replay", str(tmp_path / "rec")], newer) == 0
    told = capsys.readouterr()
    assert "one is another version of the model than the recorded one" in told.err
    assert "3 frames along the same path with another model" in told.out


def test_a_recording_whose_model_is_gone_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_folder(tmp_path / "one")
    argv = ["--model", str(model), "--headless", "--frames", "2", "--out", str(tmp_path / "o")]
    assert play.main([*argv, "--record", str(tmp_path / "rec")], load_fake) == 0
    capsys.readouterr()
    model.rename(tmp_path / "moved")
    assert play.main(["--replay", str(tmp_path / "rec")], load_fake) == 2
    assert "its model 'one' is not here; name --model" in capsys.readouterr().err


def test_every_beginning_and_every_return_before_it_is_a_way_of_its_own() -> None:
    def event(kind: str, number: int) -> dict[str, Any]:
        pose = Viewpoint(x_m=number).camera_from_world().tolist()
        camera = {"camera_from_world": pose, "intrinsics": {"fx": 0.5, "fy": 0.8}}
        return {"event": kind, "number": number, "frames": ["digest"], "cameras": [camera]}

    events = [event("begin", 0), event("step", 1), event("step", 2)]
    events += [{"event": "past", "shows": 1}, {"event": "branch", "to": 1}, event("step", 3)]
    events += [event("begin", 4), event("step", 5), {"event": "branch", "to": 3}, event("step", 6)]
    recording = Recording(Path("rec"), {}, tuple(events), complete=True)
    ways = [
        [(seen.video_frame, -seen.camera.camera_from_world[0, 3]) for seen in way]
        for way in trajectories(recording)
    ]
    assert ways == [[(0, 0), (1, 1), (4, 3)], [(5, 4), (6, 5)], [(7, 6)]]
    assert len(trajectory(recording)) == 1


FULL_DISK = """
import resource, sys, time
from pathlib import Path
import numpy as np
from engine.recording import Recorder
from engine.saves import StateFormat
from engine.scene import Scene
from tests.engine.fakes import FakeWorld
from worldmodel.motion import Viewpoint
from worldmodel.types import Camera

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
world = FakeWorld()
recorder = Recorder(Path(sys.argv[1]), StateFormat(None, None))
camera = Camera(Viewpoint().camera_from_world(), world.spec.intrinsics)
noise = np.random.default_rng(0)
frame = lambda: noise.integers(0, 255, (1, 128, 224, 3), dtype=np.uint8)
recorder.begin(0, Scene("a", 0), [camera], frame(), world.spec)
for number in range(1, 100_000):
    if recorder.error:
        break
    recorder.step(number, None, [camera], frame())
    time.sleep(0.002)
recorder.close()
print(recorder.error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
@pytest.mark.parametrize("limit", [2_500, 400_000])  # lines end first, or the video does
def test_a_disk_that_is_really_full_ends_the_recording_with_a_reason(
    tmp_path: Path, limit: int
) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "rec"), str(limit)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path / "rec") in ran.stdout and "File too large" in ran.stdout
    recording = read_recording(tmp_path / "rec")
    assert not recording.complete and recording.steps > 2
    if limit > 100_000:
        assert len(list(read_video(tmp_path / "rec" / VIDEO))) > 2


def test_a_recording_of_another_model_is_told_apart(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec", from_the_start=False)
    header = recording.header
    other = replace(recording, header=header | {"weights": "of another version"})
    with pytest.raises(ValueError, match="goes on from a state of 'tiny', which another model"):
        compare(replay(other, tiny.session(static_world=True), STATES))
    other = replace(recording, header=header | {"cameras_per_step": 4})
    with pytest.raises(ValueError, match="made with 4 cameras and 1 frames a step; 'tiny' has 1"):
        compare(replay(other, tiny.session(static_world=True), STATES))


def test_an_event_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    recorded_session(tmp_path / "rec")
    file = tmp_path / "rec" / EVENTS
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:3], '{"event": "teleport"}', *lines[3:]]))
    with pytest.raises(ValueError, match="line 4: 'teleport' is of another version"):
        read_recording(tmp_path / "rec")


def test_a_recording_whose_files_are_damaged_says_which(tmp_path: Path) -> None:
    recording = recorded_session(tmp_path / "rec", from_the_start=False)
    (state, *_) = (tmp_path / "rec").glob("state-*.safetensors")
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(ValueError, match=state.name):
        compare(replay(recording, tiny.session(static_world=True), STATES))
    (tmp_path / "rec" / VIDEO).write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"video .*video.mkv cannot be read"):
        export(recording, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
