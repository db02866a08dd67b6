"""The benchmark of rollouts says what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel import tiny, tiny_wan
from worldmodel import bench_rollout
from worldmodel import config as strict
from worldmodel.__main__ import main
from worldmodel.bench_rollout import _relative_error, pass_tflop
from worldmodel.checkpoint import save_model
from worldmodel.models import WanModelConfig
from worldmodel.sampler import Commit, Sampler

NANO = ["bench", "--config", str(tiny_wan.NANO), "--device", "cpu"]


def test_rollouts_of_random_weights_are_measured_with_and_without_decoding(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    wanted = ["--random-weights", "--steps", "1", "--latents", "6", "--out", str(out)]
    assert main([*NANO, *wanted]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert (found["steps"], found["latents"]) == (1, 6)
    assert found["pass_ms_by_context"].keys() == {"2", "3", "6"}
    for way in ("decoded", "undecoded", "undecoded_without_graphs"):
        assert found[way]["frames_per_second"] > 0
        assert found[way]["first_frame_ms"] > 0
    assert found["matmul_tflops"] > 0 <= found["achieved_share"]
    assert found["faster_than_without_graphs"] > 0


def test_rollouts_with_packed_commits_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = 0
    function = Sampler.commit_and_denoise

    def counting(*inputs: Any) -> torch.Tensor:
        nonlocal packed
        packed += 1
        return function(*inputs)

    monkeypatch.setattr(Sampler, "commit_and_denoise", counting)
    blocks = "--random-weights", "--steps", "2", "--latents", "4", "--packed"
    assert main([*NANO, *blocks]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packed"] is True
    rollouts = 1 + bench_rollout.REPEATS
    assert packed == 2 * rollouts * 3  # with and without decoding; the plain way packs nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config and --random-weights belong together"),
        (["--random-weights", "--latents", "1"], "at least two whole blocks of 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NANO, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("commit", "runtime", "message"),
    [
        ("own", "torch", "rollout.commit own"),
        ("clean", "openvino", "need --runtime torch, not openvino"),
    ],
)
def test_where_nothing_can_be_packed_the_benchmark_says_so_in_one_line(
    tmp_path: Path,
    commit: Commit,
    runtime: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    playable = tiny.playable()
    playable = replace(playable, rollout=replace(playable.rollout, commit=commit))
    save_model(folder, playable, tiny.autoencoder(), tiny.transformer(), torch.float32)
    asked = ["bench", str(folder), "--device", "cpu", "--runtime", runtime, "--packed"]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_work_of_a_pass_is_that_of_wan() -> None:
    full = tiny_wan.NANO.with_name("wan2.1-1.3b.yaml")
    config = strict.load(full, WanModelConfig).transformer
    alone, longer = pass_tflop(config, 1, 1), pass_tflop(config, 1, 2)
    # counted elsewhere: 4.3 TFLOP a pass without self-attention (a prompt's keys and values, which are
    # kept here, included), and 0.45 for every latent attended to
    assert longer - alone == pytest.approx(0.45, abs=0.01)
    assert alone - (longer - alone) == pytest.approx(4.3, rel=0.07)


def test_a_converted_model_is_measured_as_it_is_played(tmp_path: Path) -> None:
    chunks = ("playable.rollout.block_frames=2",)
    folder, out = tiny_wan.model_folder(tmp_path, *chunks), tmp_path / "speed.json"
    command = ["bench", str(folder), "--device", "cpu", "--frames", "3", "--out", str(out)]
    for packed in ([], ["--packed"]):
        assert main([*command, *packed]) == 0
        found = json.loads(out.read_text("utf-8"))
        assert found["frames_per_second"] > 0 and found["packed"] is bool(packed)


def test_the_pass_that_is_compared_in_8_bits_leads_from_noise_to_an_end() -> None:
    session, other = tiny.session(), tiny.session()
    made, same = session.denoising(0)(), other.denoising(0)()
    assert made.isfinite().all() and float(made.std()) > 0.1
    assert torch.equal(made, same)
    assert _relative_error(1.01 * made, made) == pytest.approx(0.01, rel=1e-3)
