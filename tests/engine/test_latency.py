from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import play
from engine.controls import ControlSettings, InputSample
from engine.latency import LatencyLog, write_report
from engine.loop import Generated, GenerationLoop
from engine.scene import Scene
from tests.worldmodel import tiny
from worldmodel.types import Camera, Start, StepTimes

from .fakes import FakeWorld

TIMES = StepTimes(denoise_s=0.050, decode_s=0.020, copy_s=0.001)


def test_the_parts_of_the_way_add_up() -> None:
    log = LatencyLog()
    log.add_step(TIMES, input_s=10.0, began_s=10.030, ready_s=10.105, shown_s=10.113)
    ms = {stage: values.p50_ms for stage, values in log.percentiles().items()}
    assert ms == pytest.approx(
        {"wait": 30, "denoise": 50, "decode": 20, "copy": 1, "step": 75, "show": 8, "move": 113}
    )
    assert ms["move"] == pytest.approx(ms["wait"] + ms["step"] + ms["show"])


def test_percentiles_are_those_of_all_measurements() -> None:
    log = LatencyLog()
    for ms in range(1, 101):
        log.add("look", ms / 1000)
    values = log.percentiles()["look"]
    assert values.count == 100
    assert values.p50_ms == pytest.approx(50.5)
    assert values.p95_ms == pytest.approx(95.05)
    assert values.p99_ms == pytest.approx(99.01)
    assert values.max_ms == 100.0


def test_a_frame_that_was_only_shown_again_measures_nothing() -> None:
    log = LatencyLog()
    log.add_step(None, input_s=1.0, began_s=1.1, ready_s=1.1, shown_s=1.2)
    assert log.percentiles() == {}


def test_memory_is_bounded_and_the_newest_measurements_count() -> None:
    log = LatencyLog()
    for _ in range(5000):
        log.add("look", 1.0)
    for _ in range(2048):
        log.add("look", 0.002)
    assert log.percentiles()["look"].max_ms == 2.0


def test_a_session_times_its_parts_and_says_when_it_made_nothing() -> None:
    session, cameras = tiny.session(static_world=True), tiny.walk(3)
    began = time.perf_counter()
    session.reset(Start(seed=1), cameras[0])
    session.step([cameras[1]])
    elapsed = time.perf_counter() - began
    times = session.times()
    assert times is not None
    parts = (times.denoise_s, times.decode_s, times.copy_s)
    assert min(parts) >= 0.0 and times.denoise_s > 0.0 and sum(parts) < elapsed
    session.step([cameras[1]])  # a resting camera
    assert session.times() is None


def test_an_input_is_stamped_when_it_arrived_and_counted_with_the_frame_that_shows_it() -> None:
    now = [100.0]
    may_step = threading.Semaphore(0)

    class Slow(FakeWorld):
        def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
            assert may_step.acquire(timeout=5)
            now[0] += 0.1
            return super().step(cameras)

    samples = iter([InputSample(), InputSample(oldest_s=99.95)])
    loop = GenerationLoop(
        lambda: Slow(frames_per_second=1000.0),
        Scene("a", 1),
        lambda: next(samples, InputSample()),
        ControlSettings(),
        clock=lambda: now[0],
    )
    loop.start()
    may_step.release()  # one step
    deadline = time.monotonic() + 5
    newest: Generated | None = None
    while newest is None or newest.number < 1:
        now[0] += 0.001  # the beat of the world goes by this clock
        assert time.monotonic() < deadline
        newest = loop.newest()
        time.sleep(0.001)
    assert newest.input_s == 99.95
    assert newest.ready_s - newest.began_s == pytest.approx(0.1, abs=0.05)
    assert newest.times == StepTimes(denoise_s=0.010, decode_s=0.004, copy_s=0.001)
    may_step.release(1000)
    loop.stop()


def test_a_report_names_every_stage_and_the_machine(tmp_path: Path) -> None:
    log = LatencyLog()
    log.add_step(TIMES, input_s=None, began_s=0.0, ready_s=0.08, shown_s=0.09)
    write_report(tmp_path / "new" / "report.json", log, model="fake", frames=1)
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["model"] == "fake" and report["machine"]["processors"] >= 1
    assert report["stages"]["denoise"]["p99_ms"] == 50.0
    assert "wait" not in report["stages"]  # no player, no input
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["report.json"]


def test_a_headless_run_writes_its_latencies(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    out, report = tmp_path / "walk", tmp_path / "latency.json"
    argv = ["--model", str(tmp_path / "model"), "--headless", "--frames", "5", "--out", str(out)]
    argv += ["--report", str(report)]
    assert play.main(argv, lambda *_, **__: FakeWorld()) == 0
    stages = json.loads(report.read_text())["stages"]
    assert stages["denoise"]["count"] >= 3 and stages["step"]["p50_ms"] > 0
    assert play.main([*argv, "--out", str(tmp_path / "other")], lambda *_, **__: FakeWorld()) == 2
