from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import play
from engine import cli
from engine.settings import PlayConfig
from worldmodel import config
from worldmodel.prompts import START_PROMPT

from .fakes import FakeWorld

ROOT = Path(play.__file__).parent


class Loader:
    """Stands where `load_session` stands, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.folder = Path()
        self.options: dict[str, Any] = {}
        self.world = FakeWorld()

    def __call__(self, folder: Path, **options: Any) -> FakeWorld:
        self.folder = folder
        self.options = options
        self.world = FakeWorld(frames_per_second=options["frames_per_second"])
        return self.world


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "starts").mkdir(parents=True)
    for name, value in [("beach", 40), ("alps", 80)]:
        Image.new("RGB", (56, 32), (value,) * 3).save(folder / "starts" / f"{name}.png")
    return folder


Run = Callable[..., tuple[int, Loader]]


@pytest.fixture
def run(model: Path) -> Run:
    def run(*argv: object) -> tuple[int, Loader]:
        loader = Loader()
        code = play.main(["--model", str(model), "--headless", *map(str, argv)], loader)
        return code, loader

    return run


def test_the_runtime_is_passed_on_and_named_with_the_result(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, loader = run("--frames", 2, "--out", tmp_path / "a.mp4")
    assert code == 0 and loader.options["runtime"] == "auto"
    assert "by fake arithmetic" in capsys.readouterr().out
    code, loader = run("--frames", 2, "--out", tmp_path / "b.mp4", "--runtime", "openvino")
    assert code == 0 and loader.options["runtime"] == "openvino"


def test_eight_bits_are_asked_for_and_a_replay_has_those_of_its_recording(
    run: Run, tmp_path: Path
) -> None:
    walk = tmp_path / "walk"
    _, loader = run("--frames", 3, "--out", tmp_path / "a.mp4", "--record", walk)
    assert loader.options["fp8"] is False
    _, loader = run("--frames", 3, "--out", tmp_path / "b.mp4", "--fp8")
    assert loader.options["fp8"] is True
    events = walk / "events.jsonl"
    text = events.read_text(encoding="utf-8")
    for name, expected in [("torch bfloat16 fp8", True), ("torch bfloat16", False)]:
        events.write_text(text.replace("fake arithmetic", name), encoding="utf-8")
        assert play.main(["--replay", str(walk)], loader) == 0
        assert loader.options["fp8"] is expected


def test_an_unknown_runtime_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run("--runtime", "abacus")
    assert code == 2 and "abacus" in capsys.readouterr().err


def test_a_replay_computes_with_the_runtime_of_the_recording(run: Run, tmp_path: Path) -> None:
    run("--frames", 3, "--out", tmp_path / "a.mp4", "--record", tmp_path / "walk")
    events = tmp_path / "walk" / "events.jsonl"
    text = events.read_text(encoding="utf-8")
    assert '"fake arithmetic"' in text
    loader = Loader()
    for name, expected in [("openvino bfloat16", "openvino"), ("torch float32", "torch")]:
        events.write_text(text.replace("fake arithmetic", name), encoding="utf-8")
        assert play.main(["--replay", str(tmp_path / "walk")], loader) == 0
        assert loader.options["runtime"] == expected


def test_a_headless_walk(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, poses = tmp_path / "walk.mp4", tmp_path / "poses.npy"
    code, loader = run(
        *("--trajectory", "w*4,l*2", "--seed", 7, "--out", out, "--save-poses", poses)
    )
    assert code == 0 and out.is_file()
    assert np.load(poses).shape == (7, 4, 4)
    assert loader.folder == model.resolve()
    assert loader.options["frames_per_second"] == 12.0
    (start,) = loader.world.starts
    assert start.seed == 7
    assert start.image is not None and start.image[0, 0, 0] == 80  # the first by name
    assert "7 frames" in capsys.readouterr().out


def test_saved_poses_walk_the_same_way_again(run: Run, tmp_path: Path) -> None:
    poses = tmp_path / "poses.npy"
    _, first = run("--trajectory", "wl*5", "--out", tmp_path / "a", "--save-poses", poses)
    code, second = run("--poses", poses, "--out", tmp_path / "b", "--fps", 20)
    assert code == 0 and second.options["frames_per_second"] == 20.0
    for one, other in zip(first.world.cameras, second.world.cameras, strict=True):
        assert np.array_equal(one.camera_from_world, other.camera_from_world)


@pytest.mark.parametrize("frames", [1, 3])
def test_frames_alone_walks_ahead(run: Run, tmp_path: Path, frames: int) -> None:
    code, _ = run("--frames", frames, "--out", tmp_path / "walk")
    assert code == 0
    assert len(list((tmp_path / "walk").iterdir())) == frames


def test_without_a_name_a_new_one_is_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--frames", 1)[0] == 0
    (video,) = (tmp_path / "recordings").iterdir()
    assert video.suffix == ".mp4"


def test_a_picture_of_any_size_is_cut_to_the_model(run: Run, tmp_path: Path) -> None:
    picture = np.zeros((300, 200, 3), np.uint8)
    picture[140:160] = 255
    Image.fromarray(picture).save(tmp_path / "mine.jpg")
    code, loader = run("--image", tmp_path / "mine.jpg", "--frames", 1, "--out", tmp_path / "walk")
    assert code == 0
    image = loader.world.starts[0].image
    assert image is not None and image.shape == (32, 56, 3)
    assert image[16].min() > 200 and image[0].max() < 20  # the middle is kept


def test_a_start_is_chosen_by_name(run: Run, tmp_path: Path) -> None:
    _, loader = run("--start", "beach", "--frames", 1, "--out", tmp_path / "walk")
    image = loader.world.starts[0].image
    assert image is not None and image[0, 0, 0] == 40


def test_a_start_begins_with_the_words_it_carries_unless_others_are_given(
    run: Run, model: Path, tmp_path: Path
) -> None:
    texts = PngInfo()
    texts.add_text(START_PROMPT, "old town, night")
    Image.new("RGB", (56, 32)).save(model / "starts" / "town.png", pnginfo=texts)
    prompts = []
    for number, given in enumerate([(), ("--prompt", "snowfield"), ("--prompt", "")]):
        _, loader = run(
            "--start", "town", "--frames", 1, "--out", tmp_path / f"walk-{number}", *given
        )
        prompts.append(loader.world.starts[0].prompt)
    assert prompts == ["old town, night", "snowfield", ""]


def test_the_shipped_config_states_the_defaults() -> None:
    assert config.load(play.CONFIG, PlayConfig) == PlayConfig()


def test_the_choice_of_worlds_opens_unless_the_command_line_has_chosen(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "offscreen")  # counts as a display

    def title(*argv: str) -> bool:
        options = cli.parse(["--model", str(model), *argv], play.CONFIG)
        return cli.check(options, play.ASSETS).title

    assert title() and title("--seed", "3")
    assert not title("--start", "beach")
    assert not title("--prompt", "snowfield")
    assert not title("window.title=false")


def bad_poses(folder: Path) -> Path:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[2, 1, 1] = np.nan
    np.save(folder / "bad.npy", poses)
    return folder / "bad.npy"


def broken_picture(folder: Path) -> Path:
    file = folder / "broken.png"
    Image.new("RGB", (64, 64), (9, 9, 9)).save(file)
    file.write_bytes(file.read_bytes()[:60])
    return file


BAD_INPUT: list[tuple[str, Callable[[Path], list[object]]]] = [
    ("unknown model 'nosuch'", lambda _: ["--model", "nosuch"]),
    ("column 6", lambda _: ["--trajectory", "w*20,x*3"]),
    ("index 2: a pose holds NaN", lambda folder: ["--poses", bad_poses(folder)]),
    ("does not exist", lambda folder: ["--poses", folder / "none.npy"]),
    ("does not exist", lambda folder: ["--image", folder / "none.png"]),
    ("cannot be read", lambda folder: ["--image", broken_picture(folder)]),
    ("unknown start 'moon'; starts of model: alps, beach", lambda _: ["--start", "moon"]),
    ("unknown key", lambda _: ["window.widht_px=3"]),
    ("does both", lambda _: ["keys.forward=[s]"]),
    ("no such config file", lambda folder: ["--config", folder / "none.yaml"]),
    ("--frames must lie", lambda _: ["--frames", 0]),
    ("the path has only 3 frames", lambda _: ["--trajectory", "w*2", "--frames", 9]),
    ("--fps must lie", lambda _: ["--fps", "nan"]),
    ("--scale must lie", lambda _: ["--scale", -1]),
    ("exclude each other", lambda folder: ["--trajectory", "w", "--poses", bad_poses(folder)]),
    ("give a video", lambda folder: ["--out", folder / "walk.txt"]),
    ("invalid int value", lambda _: ["--seed", "seven"]),
    ("unknown save", lambda folder: ["--load", folder / "nosuch"]),
    ("unrecognized arguments", lambda _: ["--sede", "7"]),
]


@pytest.mark.parametrize(("complaint", "argv"), BAD_INPUT, ids=[case[0] for case in BAD_INPUT])
def test_bad_input_gets_one_line_and_exit_code_2(
    complaint: str,
    argv: Callable[[Path], list[object]],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = run(*argv(tmp_path))
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.count("\n") == 1 and errors.endswith("\n")
    assert complaint in errors
    assert not (tmp_path / "recordings").exists()


@pytest.mark.parametrize("name", ["walk.mp4", "walk", "poses.npy"])
def test_existing_output_is_kept_and_overwrite_offered(
    name: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    existing = tmp_path / name
    flag = "--save-poses" if name == "poses.npy" else "--out"
    if existing.suffix:
        existing.write_bytes(b"precious")
    else:
        existing.mkdir()
    code, _ = run("--frames", 2, flag, existing)
    assert code == 2 and "--overwrite" in capsys.readouterr().err
    assert not existing.suffix or existing.read_bytes() == b"precious"
    others = [] if flag == "--out" else ["--out", tmp_path / "other.mp4"]
    assert run("--frames", 2, flag, existing, "--overwrite", *others)[0] == 0
    assert not existing.suffix or existing.read_bytes() != b"precious"


def test_a_model_that_does_not_open_is_bad_input(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_world(folder: Path, **_: Any) -> FakeWorld:
        raise ValueError(f"{folder}: weights are truncated")

    argv = ["--model", str(model), "--headless", "--frames", "1", "--out", str(tmp_path / "o")]
    assert play.main(argv, load_world) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_options_of_headless_runs_need_headless(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play.main(["--model", str(model), "--out", "walk.mp4"], Loader()) == 2
    assert "--out needs --headless" in capsys.readouterr().err


def start_play(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "play.py"), *argv]
    clean = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_without_a_display_it_says_how_to_run_headless(model: Path) -> None:
    result = start_play("--model", str(model))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no display" in result.stderr and "--headless" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system with DISPLAY")
def test_a_display_that_does_not_answer_is_no_display(model: Path, tmp_path: Path) -> None:
    # Without its folder the Wayland library writes a line of its own.
    result = start_play("--model", str(model), DISPLAY=":987", XDG_RUNTIME_DIR=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no display answers" in result.stderr and "--headless" in result.stderr
    assert not result.stdout


def test_bad_input_is_refused_before_anything_slow_is_imported(model: Path) -> None:
    code = (
        "import sys, play\n"
        f"code = play.main(['--model', {str(model)!r}, '--headless', '--trajectory', 'q'])\n"
        "slow = {'torch', 'pygame', 'moderngl', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1


def test_headless_never_imports_pygame_or_a_display(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, play\n"
        "from tests.engine.test_play import Loader\n"
        f"argv = ['--model', {str(model)!r}, '--headless', '--frames', '2',"
        f" '--out', {str(tmp_path / 'walk.mp4')!r}]\n"
        "assert play.main(argv, Loader()) == 0\n"
        "sys.exit(1 if {'pygame', 'moderngl'} & set(sys.modules) else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert result.returncode == 0
