from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.headless import run_headless
from engine.output import check_output
from engine.paths import cameras, walk_trajectory
from engine.video import open_sink
from worldmodel.types import Start

from .fakes import FakeWorld


def walk_to(path: Path, world: FakeWorld, text: str = "w*5,l*4", scale: float = 1.0) -> None:
    poses = walk_trajectory(text, world.spec)
    sink = open_sink(path, world.spec.frames_per_second, scale)
    run_headless(world, Start(seed=7), cameras(poses, world.spec), sink)


def read_video(path: Path) -> tuple[float, list[NDArray[np.uint8]]]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        frames = [
            frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)
        ]
        return float(stream.average_rate), frames


def test_a_walk_becomes_a_readable_video(tmp_path: Path) -> None:
    world = FakeWorld()
    walk_to(tmp_path / "new" / "walk.mp4", world, scale=4.0)
    rate, frames = read_video(tmp_path / "new" / "walk.mp4")
    assert rate == 12.0
    assert len(frames) == 10
    assert frames[0].shape == (128, 224, 3)
    assert len(world.cameras) == 10
    red, green = frames[4][30, 50], frames[4][30, 170]
    assert np.allclose(red, (220, 0, 0), atol=12) and np.allclose(green, (0, 220, 0), atol=12)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["walk.mp4"]


def test_a_walk_becomes_a_folder_of_exact_frames(tmp_path: Path) -> None:
    world = FakeWorld()
    walk_to(tmp_path / "walk", world)
    files = sorted((tmp_path / "walk").iterdir())
    assert [file.name for file in files[:2]] == ["frame_000000.png", "frame_000001.png"]
    assert len(files) == 10
    first = np.asarray(Image.open(files[0]))
    assert np.array_equal(first, FakeWorld().reset(Start(), world.cameras[0]))


@pytest.mark.parametrize(("cameras_per_step", "frames_per_step"), [(1, 4), (3, 3), (3, 12)])
def test_a_generator_of_several_frames_gets_every_camera_once(
    tmp_path: Path, cameras_per_step: int, frames_per_step: int
) -> None:
    world = FakeWorld(cameras_per_step=cameras_per_step, frames_per_step=frames_per_step)
    walk_to(tmp_path / "walk", world, "w*7")
    written = len(list((tmp_path / "walk").iterdir()))
    assert written == 1 + 7 * frames_per_step // cameras_per_step
    assert 8 <= len(world.cameras) <= 8 + cameras_per_step - 1


@pytest.mark.parametrize("name", ["walk.mp4", "walk"])
def test_an_error_leaves_nothing_behind_and_the_old_output_alone(tmp_path: Path, name: str) -> None:
    walk_to(tmp_path / name, FakeWorld())
    before = sorted(tmp_path.rglob("*"))

    class Broken(FakeWorld):
        def step(self, cameras: object) -> NDArray[np.uint8]:
            raise RuntimeError(f"broken at {cameras}")

    with pytest.raises(RuntimeError, match="broken"):
        walk_to(tmp_path / name, Broken())
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_of_frames_is_replaced_as_a_whole(tmp_path: Path) -> None:
    walk_to(tmp_path / "walk", FakeWorld(), "w*9")
    check_output(tmp_path / "walk", overwrite=True)
    walk_to(tmp_path / "walk", FakeWorld(), "w*2")
    assert len(list((tmp_path / "walk").iterdir())) == 3


def test_a_folder_with_other_files_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="other files"):
        check_output(tmp_path, overwrite=True)
