"""The numbers that are asked of a player come out of one command, also where no display is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pygame
import pytest

import play
from engine.scripted import Held, Leg, Measure, ScriptedPlayer, growth, possible_rate

from .fakes import FakeWorld

SIZE = ["window.width_px=320", "window.height_px=180"]


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """Plays 160 frames into a report; gives the exit code."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "offscreen")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    (tmp_path / "model").mkdir()
    argv = ["--model", str(tmp_path / "model"), "--scripted", "160", "--fps", "60", *SIZE]
    return lambda report: play.main([*argv, "--report", str(report)], lambda *_, **__: FakeWorld())


@pytest.mark.skipif(sys.platform != "linux", reason="needs SDL's offscreen driver")
def test_a_script_plays_and_reports_every_number(
    scripted: Callable[[Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert scripted(report) == 0
    facts = json.loads(report.read_text())
    assert [leg["recorded"] for leg in facts["legs"]] == [False, True] * 4
    assert all(leg["frames"] >= 20 and leg["drawn"] > 2 for leg in facts["legs"])
    assert 1.0 < facts["back_s"] <= 10.1  # as far as there was a past
    assert facts["restored_s"] > 0.0 and facts["held"] and facts["window_px"] == [320, 180]
    asked = [measure["what"] for measure in facts["measures"]]
    assert len(asked) >= 5 and len(set(asked)) == len(asked)
    assert {"look", "draw", "move", "step"} <= set(facts["stages"])
    assert facts["stages"]["look"]["count"] > 50  # the mouse has turned the head
    said = capsys.readouterr().out
    assert "pictures a second on the display" in said and "possible" in said


@pytest.mark.skipif(sys.platform != "linux", reason="needs SDL's offscreen driver")
def test_a_script_ends_when_the_window_is_closed_and_reports_nothing(
    scripted: Callable[[Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def closed(player: ScriptedPlayer, key: int, look_px: int) -> None:  # noqa: ARG001
        pygame.event.post(pygame.event.Event(pygame.QUIT))

    monkeypatch.setattr(ScriptedPlayer, "_press", closed)
    report = tmp_path / "report.json"
    assert scripted(report) == 2
    assert "closed before the walk was over" in capsys.readouterr().err
    assert not report.exists()


def test_what_is_asked_is_met_or_not() -> None:
    assert Measure("rate", 31.0, 30.0, at_least=True).met
    assert str(Measure("time", 0.3, 0.2)) == "time: 0.3, asked at most 0.2: NOT MET"
    assert str(Measure("time", 0.1, 0.2)) == "time: 0.1, asked at most 0.2"


def test_frames_a_second_count_work_and_not_the_rest_between_frames() -> None:
    legs = (Leg(12, 1.0, 30, 0.5, False), Leg(12, 1.0, 30, 0.75, True))
    assert possible_rate(legs, recorded=False) == 24.0
    assert possible_rate(legs, recorded=True) == 16.0


def test_growth_is_the_end_against_the_time_when_everything_was_open() -> None:
    steady = [Held(n, 99, 100.0 if n < 2 else 150.0, 5 + n % 2, 9) for n in range(8)]  # it records
    assert all(measure.value == 0.0 and measure.met for measure in growth(tuple(steady)))
    leaking = [Held(n, 99, 100.0 + 2 * n, 5 + n // 4, 9) for n in range(8)]
    memory, threads, files = growth(tuple(leaking))
    assert not memory.met and not threads.met and files.met
    assert growth(tuple(steady[:6])) == ()
    filling = tuple(replace(one, moments=10 * one.leg) for one in steady)
    assert growth(filling) == ()  # of course it grows


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--scripted", "80"], "needs --report"),
        (["--scripted", "8", "--report", "x.json"], "must lie between 80"),
        (["--scripted", "80", "--report", "x.json", "--headless"], "exclude each other"),
        (["--scripted", "80", "--report", "x.json", "--record", "r"], "exclude each other"),
    ],
)
def test_bad_input_gets_one_line(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play.main(argv, lambda *_, **__: FakeWorld()) == 2
    errors = capsys.readouterr().err
    assert complaint in errors and errors.count("\n") == 1
