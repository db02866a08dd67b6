"""`play.py` as a player meets it: an X server, real key presses and real mouse motion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.x11,
    pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb"),
]
ROOT = Path(__file__).parents[2]
PLAYER = """
import sys, numpy as np, play
from tests.engine.fakes import FakeWorld

class Told(FakeWorld):
    def step(self, cameras):
        pose = np.linalg.inv(cameras[-1].camera_from_world)
        yaw = np.arctan2(pose[0, 2], pose[2, 2])
        print(f"{pose[2, 3]:.4f} {yaw:.4f}", flush=True)
        return super().step(cameras)

size = ["window.width_px=640", "window.height_px=360"]
load = lambda folder, frames_per_second=None, **_: Told(frames_per_second=30.0)
sys.exit(play.main(["--model", sys.argv[1], "--fps", "30", *size], load))
"""


class Player:
    """A running game: what it prints per step is where the player stands and looks."""

    def __init__(self, display: str, folder: Path) -> None:
        from Xlib.display import Display

        environment = {**os.environ, "DISPLAY": display, "SDL_VIDEODRIVER": "x11"}
        self.log = folder / "steps.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PLAYER, str(folder)],
                cwd=ROOT,
                env={**environment, "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"},
                stdout=log,
            )
        self.display = Display(display)

    def key(self, name: str, pressed: bool) -> None:
        from Xlib import XK, X
        from Xlib.ext import xtest

        code = self.display.keysym_to_keycode(XK.string_to_keysym(name))
        xtest.fake_input(self.display, X.KeyPress if pressed else X.KeyRelease, code)
        self.display.sync()

    def tap(self, name: str) -> None:
        self.key(name, True)
        self.key(name, False)

    def move_mouse(self, dx: int, dy: int) -> None:
        from Xlib import X
        from Xlib.ext import xtest

        xtest.fake_input(self.display, X.MotionNotify, detail=True, x=dx, y=dy)
        self.display.sync()

    def steps(self) -> list[tuple[float, float]]:
        """Depth in metres and yaw in radians, of each complete line."""
        lines = self.log.read_text().split("\n")[:-1]
        values = [line.split() for line in lines]
        return [(float(line[0]), float(line[1])) for line in values if len(line) == 2]

    def until(self, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, "the game has ended"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.02)


@pytest.fixture
def display() -> Iterator[str]:
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[write_end],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end) as numbers:
        yield f":{numbers.readline().strip()}"
    server.terminate()
    server.wait()


@pytest.fixture
def player(display: str, tmp_path: Path) -> Iterator[Player]:
    player = Player(display, tmp_path)
    yield player
    player.display.close()
    player.process.kill()
    player.process.wait()


def test_real_keys_and_a_real_mouse_move_the_player(player: Player) -> None:
    player.until(lambda: len(player.steps()) > 40)  # the window is open and has the focus
    before = player.steps()[-1]
    player.key("w", True)
    player.until(lambda: player.steps()[-1][0] > before[0] + 0.5)
    player.key("w", False)
    for _ in range(40):
        player.move_mouse(5, 0)
    player.until(lambda: abs(player.steps()[-1][1] - 0.5) < 1e-3)  # 200 px, and not one lost
    stood = player.steps()[-1]
    player.tap("p")
    time.sleep(0.3)
    paused = len(player.steps())
    time.sleep(0.3)
    assert len(player.steps()) == paused
    player.tap("p")
    player.until(lambda: len(player.steps()) > paused + 5)
    assert player.steps()[-1][1] == stood[1]
    player.tap("Escape")
    time.sleep(0.3)
    player.tap("Escape")
    assert player.process.wait(timeout=10) == 0
