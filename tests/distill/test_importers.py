"""`python -m distill import`: every format gives the frames and cameras that its sample was made of."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import play
from distill.__main__ import main
from distill.clip_facts import problems
from distill.clips import ClipSet
from distill.importers.games import View
from distill.importers.pictures import video_reader, video_times
from distill.importers.tracks import Axes
from tests.distill import source_maker as maker
from tests.engine.fakes import FakeWorld
from worldmodel.motion import WALK_M_PER_S, Command, Viewpoint, advance
from worldmodel.types import Intrinsics, MotionLimits

SMALL = ["--height-px", "32", "--width-px", "48", "--frames-per-clip", "8", "--scale", "keep"]


def bring(format_: str, src: Path | str, out: Path, *more: str) -> ClipSet:
    assert main(["import", format_, str(src), "--out", str(out), *SMALL, *more]) == 0
    assert not list(problems(out))
    return ClipSet(out)


def assert_is_the_curve(clips: ClipSet, *, every: int = 1) -> None:
    """Each frame shows the picture that belongs to its pose, and poses are those of `curve`."""
    views = [np.asarray(view.camera_from_world()) for view in maker.curve(64)]
    for clip in range(len(clips)):
        frames, cameras = clips.array("frames", clip), clips.array("cameras", clip)
        numbers = [maker.number_of(frame) for frame in frames]
        assert np.diff(numbers).tolist() == [every] * (len(numbers) - 1)
        for k in (1, 7):
            relative = cameras[k] @ np.linalg.inv(cameras[0])
            wanted = views[numbers[k]] @ np.linalg.inv(views[numbers[0]])
            assert np.allclose(relative, wanted, atol=1e-5)
    first = clips.array("cameras", 0)[0]
    assert np.allclose(first, Viewpoint(pitch_rad=0.05).camera_from_world(), atol=1e-5)
    assert np.allclose(clips.array("intrinsics", 0)[0], [60 / 96, 60 / 64, 0.5, 0.5], atol=1e-6)


SAMPLES: dict[str, tuple[str, Callable[[Path], Path], list[str]]] = {
    "a video with poses.npy": ("poses", maker.write_poses, []),
    "nerfstudio": ("nerfstudio", maker.write_nerfstudio, ["--source-fps", "12"]),
    "RealEstate10K with images": ("realestate10k", maker.write_realestate, []),
    "RealEstate10K with a video": (
        "realestate10k", lambda folder: maker.write_realestate(folder, video=True), []
    ),
    "TUM": ("tum", maker.write_tum, ["--intrinsics", "60,60,48,32"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_frames_and_poses_of_a_format_arrive_together(name: str, tmp_path: Path) -> None:
    format_, make, more = SAMPLES[name]
    clips = bring(format_, make(tmp_path / "source"), tmp_path / "clips", *more)
    assert_is_the_curve(clips)
    held_out = ClipSet(tmp_path / "clips" / "held-out")
    numbers = [
        {
            maker.number_of(frame)
            for clip in range(len(part))
            for frame in part.array("frames", clip)
        }
        for part in (clips, held_out)
    ]
    assert not numbers[0] & numbers[1], "held-out frames are in no training clip"


def test_axes_of_a_game_engine_come_out_as_ours(tmp_path: Path) -> None:
    folder = maker.write_poses(tmp_path / "source")
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    np.save(folder / "poses.npy", flip @ maker.world_from_camera(40) @ flip)
    assert_is_the_curve(bring("poses", folder, tmp_path / "clips", "--axes", "unity"))


def test_poses_may_be_the_inverse_if_that_is_said(tmp_path: Path) -> None:
    folder = maker.write_poses(tmp_path / "source")
    np.save(folder / "poses.npy", np.linalg.inv(maker.world_from_camera(40)))
    said = ("--poses-are", "camera-from-world")
    assert_is_the_curve(bring("poses", folder, tmp_path / "clips", *said))


def test_clips_are_played_backwards_only_if_the_world_is_said_to_be_static(tmp_path: Path) -> None:
    folder = maker.write_poses(tmp_path / "source")
    assert bring("poses", folder, tmp_path / "moving").one_way(0)
    assert not bring("poses", folder, tmp_path / "still", "--static").one_way(0)


def test_a_faster_source_is_thinned_and_every_frame_keeps_its_pose(tmp_path: Path) -> None:
    folder = maker.write_poses(tmp_path / "source", frames=60, fps=24.0)
    assert_is_the_curve(bring("poses", folder, tmp_path / "clips"), every=2)


def test_minwm_videos_get_the_cameras_of_their_keys(tmp_path: Path) -> None:
    src = maker.write_minwm(tmp_path / "source")
    clips = bring("minwm", src, tmp_path / "clips", "--fps", "16", "--held-out", "0")
    assert [clips.prompt(clip) for clip in range(len(clips))] == ["place 0"] * 5 + ["place 1"] * 5
    first = np.linalg.inv(clips.array("cameras", 0))
    assert np.allclose(first[:, :3, 3], np.outer(np.arange(8), [0, 0, 0.02]))
    last = np.linalg.inv(clips.array("cameras", len(clips) - 1))
    assert np.allclose(np.diff(last[:, :3, 3], axis=0), [0.02, 0, 0])


def test_worldplay_latents_stand_for_every_fourth_frame(tmp_path: Path) -> None:
    src = maker.write_worldplay(tmp_path / "source")
    clips = bring("worldplay", src, tmp_path / "clips", "--fps", "4", "--held-out", "0")
    assert [maker.number_of(frame) for frame in clips.array("frames", 0)] == list(range(0, 32, 4))
    wanted = maker.world_from_camera(8)
    found = np.linalg.inv(clips.array("cameras", 0))
    assert np.allclose(found[:, :3, 3] - found[0, :3, 3], wanted[:, :3, 3] - wanted[0, :3, 3])
    fx = 969.697 / 1920
    assert np.allclose(clips.array("intrinsics", 0)[0], [fx, fx * 16 / 9, 0.5, 0.5], atol=1e-5)


def test_a_recording_becomes_clips_with_the_cameras_that_were_played(tmp_path: Path) -> None:
    recording, film = tmp_path / "rec", tmp_path / "walk.mp4"
    model = tmp_path / "model"
    model.mkdir()
    command = ["--headless", "--model", str(model), "--trajectory", "w*20,wl*20", "--fps", "12"]
    paths = [
        "--record",
        str(recording),
        "--out",
        str(film),
        "--save-poses",
        str(tmp_path / "p.npy"),
    ]
    assert play.main([*command, *paths], lambda *_args, **_more: FakeWorld()) == 0
    clips = bring("recording", recording, tmp_path / "clips")
    poses = np.load(tmp_path / "p.npy")
    assert np.allclose(clips.array("cameras", 1), poses[8:16])
    assert clips.manifest["scale"]["metres_per_unit"] == 1.0
    fake = FakeWorld().spec.intrinsics
    assert clips.array("intrinsics", 0)[0, 0] == pytest.approx(fake.fx * 56 / 48, abs=1e-3)


class Corridor:
    """A game in Unreal's axes, 100 units to the metre, whose frames tell the step."""

    axes: Axes = "unreal"
    frames_per_second = 12.0

    def __init__(self) -> None:
        self.limits = MotionLimits(1.0, 1.0, (0.0, 5.0))

    def reset(self, seed: int) -> View:
        self.view, self.steps, self.length = Viewpoint(), 0, 16 + seed
        return self.seen()

    def step(self, command: Command) -> View | None:
        self.view = advance(self.view, command, self.frames_per_second, self.limits)
        self.steps += 1
        return self.seen() if self.steps < self.length else None

    def seen(self) -> View:
        ours_from_unreal = np.zeros((4, 4))
        ours_from_unreal[[0, 1, 2, 3], [1, 2, 0, 3]] = 1, -1, 1, 1
        there = ours_from_unreal.T @ np.linalg.inv(self.view.camera_from_world()) @ ours_from_unreal
        there[:3, 3] *= 100
        return View(maker.picture(self.steps), there, Intrinsics(0.625, 0.9375), "corridor")


def test_a_game_is_played_through_the_hook(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    game = "tests.distill.test_importers:Corridor"
    clips = bring("game", game, out, "--episodes", "6", "--episode-frames", "24", "--scale", "0.01")
    assert clips.prompt(0) == "corridor"
    assert clips.manifest["scale"]["metres_per_unit"] == 0.01
    cameras = clips.array("cameras", 0)
    ours = Corridor()
    view = ours.reset(0)
    assert np.allclose(view.world_from_camera[:3, :3] @ [1, 0, 0], [1, 0, 0]), "it looks along x"
    assert np.allclose(cameras[0], Viewpoint().camera_from_world(), atol=1e-9)
    heights = np.linalg.inv(np.concatenate([clips.array("cameras", c) for c in range(len(clips))]))
    assert heights[:, 1, 3].max() == pytest.approx(0.0, abs=1e-9), "nobody is below the ground"


def test_the_walk_of_the_source_becomes_the_walk_of_the_player(tmp_path: Path) -> None:
    """The same world in other units: the cameras are the same."""
    first, second = maker.write_poses(tmp_path / "a"), maker.write_poses(tmp_path / "b")
    poses = np.load(second / "poses.npy")
    poses[:, :3, 3] *= 37.0
    np.save(second / "poses.npy", poses)
    found = [
        bring("poses", src, tmp_path / f"clips-{src.name}", "--scale", "walk")
        for src in (first, second)
    ]
    assert np.allclose(found[0].array("cameras", 0), found[1].array("cameras", 0))
    there = np.linalg.inv(found[0].array("cameras", 0))[:, :3, 3]
    speed = float(np.linalg.norm(np.diff(there, axis=0), axis=1).mean() * 12)
    assert speed == pytest.approx(WALK_M_PER_S, rel=1e-3)
    scales = [clips.manifest["scale"] for clips in found]
    assert scales[0]["metres_per_unit"] == pytest.approx(37 * scales[1]["metres_per_unit"])
    assert scales[0]["units_per_second"] == pytest.approx(12 * 0.2 * math.sqrt(1.09))


def _damage_poses(folder: Path, change: Callable[[NDArray[np.float64]], object]) -> None:
    poses = np.load(folder / "poses.npy")
    change(poses)
    np.save(folder / "poses.npy", poses)


def _drop_last(folder: Path, count: int) -> None:
    np.save(folder / "poses.npy", np.load(folder / "poses.npy")[:-count])


def _swap_stamps(folder: Path) -> None:
    lines = (folder / "abc.txt").read_text().splitlines()
    lines[5], lines[6] = lines[6], lines[5]
    (folder / "abc.txt").write_text("\n".join(lines))


def _distort(folder: Path) -> None:
    path = folder / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"k1": -0.2}))


@pytest.mark.parametrize(
    ("name", "spoil", "more", "message"),
    [
        ("a video with poses.npy", lambda f: _damage_poses(f, lambda p: p[3, :3, :3].__imul__(2)),
         [], "pose 3 cannot be rigid"),
        ("a video with poses.npy", lambda f: _damage_poses(f, lambda p: p[3, :, 0].__imul__(-1)),
         [], "pose 3 mirrors"),
        ("a video with poses.npy", lambda f: maker.write_video(f / "video.mp4", 30),
         [], "shorter than its poses: 30 frames, 40 poses"),
        ("a video with poses.npy", lambda f: _drop_last(f, 3), [], "longer than its poses"),
        ("a video with poses.npy", lambda f: (f / "intrinsics.npy").unlink(), [], "--intrinsics"),
        ("a video with poses.npy", lambda f: (f / "video.mp4").write_bytes(b"no"), [], "no video"),
        ("a video with poses.npy", lambda _: None, ["--fps", "30"], "12 frames a second, 30 are"),
        ("a video with poses.npy", lambda _: None, ["--frames-per-clip", "50"], "too short: at most 40"),
        ("nerfstudio", lambda _: None, [], "--source-fps"),
        ("nerfstudio", _distort, ["--source-fps", "12"], "distorted (k1): undistort"),
        ("nerfstudio", lambda f: (f / "images/frame_00007.png").unlink(), ["--source-fps", "12"],
         "listed in transforms.json but not there"),
        ("RealEstate10K with images", _swap_stamps, [], "timestamps out of order"),
        ("RealEstate10K with a video", lambda f: maker.write_video(f / "abc.mp4", 25), [],
         "shorter than its poses"),
        ("TUM", lambda f: (f / "groundtruth.txt").unlink(), SAMPLES["TUM"][2], "no groundtruth.txt"),
        ("TUM", lambda _: None, [], "no intrinsics; give --intrinsics"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_in_one_line_and_leaves_nothing(
    name: str,
    spoil: Callable[[Path], object],
    more: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    format_, make, _ = SAMPLES[name]
    src, out = make(tmp_path / "source"), tmp_path / "clips"
    spoil(src)
    capsys.readouterr()
    assert main(["import", format_, str(src), "--out", str(out), *SMALL, *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("distill import: ") and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_bad_items_are_skipped_with_a_count_if_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        maker.write_poses(tmp_path / "source" / name)
    _damage_poses(tmp_path / "source" / "b", lambda poses: poses[3].fill(np.nan))
    clips = bring("poses", tmp_path / "source", tmp_path / "clips", "--skip-bad")
    captured = capsys.readouterr()
    assert "skipped b: pose 3 holds NaN" in captured.err
    assert "5 clips, 5 held out, 1 skipped" in captured.out
    assert {json.loads(shard.metadata["tracks"])[0] for shard in clips.shards} == {"a"}
    shutil.rmtree(tmp_path / "source" / "a")
    shutil.rmtree(tmp_path / "source" / "c")
    command = ["import", "poses", str(tmp_path / "source"), "--out", str(tmp_path / "none")]
    assert main([*command, "--skip-bad"]) == 2
    assert "nothing to import: 1 of 1 skipped" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_walk_shorter_than_a_clip_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker.write_poses(tmp_path / "source" / "a", frames=20)
    maker.write_poses(tmp_path / "source" / "b", frames=5)
    bring("poses", tmp_path / "source", tmp_path / "clips", "--held-out", "0")
    assert "3 clips, 0 held out, 1 shorter than a clip left out" in capsys.readouterr().out


def test_a_frame_that_cannot_be_decoded_is_named_and_shifts_no_other(tmp_path: Path) -> None:
    path = maker.write_video(tmp_path / "a.mp4", 30)
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    assert len(video_times(path)) == 30
    kept: list[int] = []
    with pytest.raises(ValueError, match=r"a\.mp4: (frame \d+ cannot be decoded|broken off)"):
        kept.extend(map(maker.number_of, video_reader(path)(range(30))))
    assert kept == list(range(len(kept))) and len(kept) >= 15


def test_pictures_of_two_sizes_in_one_walk_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = maker.write_nerfstudio(tmp_path / "source")
    Image.new("RGB", (48, 32)).save(src / "images" / "frame_00005.png")
    out = ["--out", str(tmp_path / "clips"), "--source-fps", "12"]
    assert main(["import", "nerfstudio", str(src), *out, *SMALL]) == 2
    assert "frames of 96x64 and of 48x32 px in one walk" in capsys.readouterr().err


def test_an_export_of_the_player_is_not_read_the_wrong_way_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = maker.write_poses(tmp_path / "source")
    (folder / "transforms.json").write_text("{}")
    assert main(["import", "poses", str(folder), "--out", str(tmp_path / "c"), *SMALL]) == 2
    assert "--poses-are camera-from-world" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vhs", "x"], "format 'vhs': known are recording, poses"),
        (["poses", "nowhere"], "nowhere: there is nothing"),
        (["poses", "docs", "--scale", "big"], "--scale 'big': expected 1 numbers"),
        (["poses", "docs", "--axes", "maya"], "known are opencv, opengl, unity, unreal"),
        (["game", "no.such:thing"], "cannot be imported"),
        (["poses", "docs", "--fps", "0"], "--fps must lie between"),
        (["recording", "docs"], "neither it nor a folder in it holds events.jsonl"),
    ],
)
def test_a_command_that_cannot_be_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_clips_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    src, out = maker.write_poses(tmp_path / "source"), tmp_path / "clips"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert main(["import", "poses", str(src), "--out", str(out), *SMALL]) == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_view_of_imported_clips_can_be_drawn(tmp_path: Path) -> None:
    bring("poses", maker.write_poses(tmp_path / "source"), tmp_path / "clips")
    out = tmp_path / "view.png"
    assert main(["data", "view", str(tmp_path / "clips"), "--out", str(out)]) == 0
    assert Image.open(out).width == 6 * 48
