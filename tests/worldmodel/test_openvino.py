"""What OpenVINO computes is what torch computes; skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.worldmodel import tiny
from worldmodel import runtime
from worldmodel.checkpoint import PlayableConfig
from worldmodel.recall import RecallConfig
from worldmodel.session import WorldSession
from worldmodel.types import Start

# Importing it here, as `importorskip` does, would send statistics: the runner prevents that first.
if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

from worldmodel.openvino_runner import OpenVino, computes_bfloat16

ROOT = Path(__file__).parents[2]
LEAST_DB = 40.0  # of a frame in bfloat16 against float32


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """No test writes into the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


def _playable(commit: str = "clean", recall: RecallConfig | None = None) -> PlayableConfig:
    config = tiny.playable()
    rollout = replace(config.rollout, solver="consistency", commit=commit, recall=recall)
    return replace(config, rollout=rollout, sha256={"weights": "tiny"})


def _session(
    name: runtime.Runtime,
    dtype: torch.dtype = torch.float32,
    commit: str = "clean",
    recall: RecallConfig | None = None,
) -> WorldSession:
    return WorldSession(
        _playable(commit, recall),
        tiny.autoencoder(),
        tiny.transformer(),
        torch.device("cpu"),
        dtype,
        runtime=name,
    )


def _play(session: WorldSession, frames: int) -> NDArray[np.uint8]:
    cameras = tiny.walk(frames + 1)
    shown = [session.reset(Start(seed=7), cameras[0])]
    return np.stack(shown + [session.step([camera])[0] for camera in cameras[1:]])


def _psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(np.square(a.astype(float) - b.astype(float)).mean())
    return 10.0 * np.log10(255.0**2 / max(error, 1e-9))


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_frames_in_float32_are_those_of_torch_to_one_level(commit: str) -> None:
    """Longer than the window, so slots are overwritten and hidden while they are."""
    ours, torchs = (_play(_session(name, commit=commit), 9) for name in ("openvino", "torch"))
    assert np.abs(ours.astype(int) - torchs.astype(int)).max() <= 1
    assert np.ptp(torchs.astype(int)) > 50  # there is something to see


def test_past_frames_come_back_as_they_do_with_torch() -> None:
    cameras, recall = tiny.there_and_back(), RecallConfig(frames=2, least_overlap=0.3)
    found = []
    for name in ("openvino", "torch"):
        session = _session(name, recall=recall)
        shown = [session.reset(Start(seed=7), cameras[0])]
        found.append(np.stack(shown + [session.step([camera])[0] for camera in cameras[1:]]))
        assert session.snapshot()["recall"]["beside"]
    ours, torchs = found
    assert np.abs(ours.astype(int) - torchs.astype(int)).max() <= 1


def test_frames_in_bfloat16_stay_within_the_stated_distance_of_float32() -> None:
    if not computes_bfloat16():
        pytest.skip("this CPU does not compute in bfloat16")
    ours = _play(_session("openvino", torch.bfloat16), 9)
    exact = _play(_session("torch"), 9)
    assert min(_psnr_db(a, b) for a, b in zip(ours, exact, strict=True)) >= LEAST_DB


def test_the_same_seed_gives_the_same_frames_also_from_the_compiled_files() -> None:
    first, second = _session("openvino"), _session("openvino")
    frames = _play(first, 6)
    assert np.array_equal(frames, _play(first, 6))
    assert np.array_equal(frames, _play(second, 6))


def test_restore_then_the_same_cameras_give_bit_identical_frames() -> None:
    session, other, cameras = _session("openvino"), _session("openvino"), tiny.walk(10)
    session.reset(Start(seed=1), cameras[0])
    for camera in cameras[1:6]:
        session.step([camera])
    state = session.snapshot()
    first = [session.step([camera]) for camera in cameras[6:]]
    for restored in (session, other):
        restored.restore(state)
        assert np.array_equal(first, [restored.step([camera]) for camera in cameras[6:]])


def test_it_remembers_all_frames_and_goes_on_from_a_state_with_fewer() -> None:
    ours, torchs, cameras = _session("openvino"), _session("torch"), tiny.walk(9)
    assert ours.spec.windows == (3,) and torchs.spec.windows == (3, 2)
    with pytest.raises(ValueError, match="openvino float32 remembers 3 frames, not 2"):
        ours.set_window(2)
    torchs.reset(Start(seed=1), cameras[0])
    torchs.set_window(2)
    for camera in cameras[1:7]:
        torchs.step([camera])
    ours.restore(torchs.snapshot())
    assert ours.spec.window_frames == 3
    a, b = (session.step([cameras[7]]).astype(int) for session in (ours, torchs))
    assert np.abs(a - b).max() <= 1  # both know the same frames


def test_a_moved_anchor_leaves_the_next_frames_unchanged() -> None:
    plain, moved, cameras = _session("openvino"), _session("openvino"), tiny.walk(7)
    for session in (plain, moved):
        session.reset(Start(seed=2), cameras[0])
        for camera in cameras[1:5]:
            session.step([camera])
    moved.move_anchor(cameras[5].camera_from_world)
    a, b = (session.step([cameras[5]]).astype(int) for session in (plain, moved))
    assert np.abs(a - b).max() <= 1


def test_a_frame_that_was_given_out_is_not_overwritten() -> None:
    session, cameras = _session("openvino"), tiny.walk(3)
    session.reset(Start(seed=1), cameras[0])
    first = session.step([cameras[1]])
    kept = first.copy()
    session.step([cameras[2]])
    assert np.array_equal(first, kept)


def _scaled(x: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
    return 2.0 * x + memory.float().sum(), (x * 3.0).to(torch.uint8)


def test_the_runner_gives_all_results_and_refuses_what_it_was_not_compiled_for() -> None:
    x, memory = torch.rand(2, 3), torch.rand(4).bfloat16()
    run = OpenVino(_scaled, (x, memory), torch.float32)
    for ours, exact in zip(run(x, memory), _scaled(x, memory), strict=True):
        assert torch.allclose(ours.float(), exact.float(), atol=1e-5)
    turned = torch.rand(3, 2).T  # not contiguous
    assert torch.allclose(run(turned, memory)[0], _scaled(turned, memory)[0], atol=1e-5)
    with pytest.raises(ValueError, match="input 0 was compiled as"):
        run(x[:1], memory)
    with pytest.raises(ValueError, match="2 inputs, got 1"):
        run(x)


def test_inputs_are_read_where_they_lie() -> None:
    """So the ring is never copied: what changes in it is seen by the next call."""
    x, memory = torch.zeros(1), torch.zeros(4, dtype=torch.bfloat16)
    run = OpenVino(_scaled, (x, memory), torch.float32)
    assert run(x, memory)[0].item() == 0.0
    memory[2] = 5.0
    assert run(x, memory)[0].item() == 5.0


@pytest.mark.parametrize("damage", [b"", b"no model", None])
def test_a_damaged_file_is_compiled_anew(tmp_path: Path, damage: bytes | None) -> None:
    x, memory, file = torch.rand(3), torch.rand(4).bfloat16(), tmp_path / "scaled.blob"
    OpenVino(_scaled, (x, memory), torch.float32, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    run = OpenVino(_scaled, (x, memory), torch.float32, file)
    assert torch.allclose(run(x, memory)[0], _scaled(x, memory)[0], atol=1e-5)
    assert len(file.read_bytes()) >= len(whole) // 2


def test_compiled_files_are_found_again_and_the_oldest_folders_go() -> None:
    first = runtime.blob_folder("model 0", torch.float32)
    assert first == runtime.blob_folder("model 0", torch.float32)
    assert first != runtime.blob_folder("model 0", torch.bfloat16)
    assert first != runtime.blob_folder("model 0", torch.float32, 12)
    assert runtime.blob_folder("", torch.float32) is None
    assert first is not None
    os.utime(first, (0, 0))
    for number in range(runtime.MOST_BLOB_FOLDERS):
        newest = runtime.blob_folder(f"another {number}", torch.float32)
    assert newest is not None and newest.is_dir() and not first.exists()
    assert len(list(first.parent.iterdir())) == runtime.MOST_BLOB_FOLDERS


def test_using_openvino_reports_nothing_to_anyone(tmp_path: Path) -> None:
    """Its telemetry would begin by writing an identifier into the home folder."""
    code = "import worldmodel.openvino_runner as r, sys; sys.exit(not r.version())"
    environment = os.environ | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    assert not list(tmp_path.iterdir())
