"""The running world: deterministic, endless, restorable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel import tiny
from worldmodel.checkpoint import load_model, save_model
from worldmodel.sampler import Sampler
from worldmodel.session import WorldSession, load_session, windows_of
from worldmodel.types import Start


def _play(session: object, frames: int, seed: int = 7) -> np.ndarray:
    cameras = tiny.walk(frames + 1)
    session.reset(Start(seed=seed), cameras[0])  # type: ignore[attr-defined]
    return np.concatenate([session.step([camera]) for camera in cameras[1:]])  # type: ignore[attr-defined]


def test_the_same_seed_and_cameras_give_the_same_frames() -> None:
    session = tiny.session()
    first, second = _play(session, 8), _play(session, 8)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, _play(session, 8, seed=8))


def test_restore_then_the_same_inputs_gives_bit_identical_frames() -> None:
    session, cameras = tiny.session(), tiny.walk(14)
    session.reset(Start(seed=1), cameras[0])
    for camera in cameras[1:6]:
        session.step([camera])
    state = session.snapshot()
    first = [session.step([camera]) for camera in cameras[6:]]
    session.restore(state)
    assert np.array_equal(first, [session.step([camera]) for camera in cameras[6:]])
    other = tiny.session()
    other.restore(state)
    assert np.array_equal(first, [other.step([camera]) for camera in cameras[6:]])


def test_a_memory_of_own_steps_survives_a_restore_and_a_moved_anchor() -> None:
    config = tiny.playable()
    config = replace(config, rollout=replace(config.rollout, solver="consistency", commit="own"))
    cpu, cameras = torch.device("cpu"), tiny.walk(10)

    def new() -> WorldSession:
        return WorldSession(config, tiny.autoencoder(), tiny.transformer(), cpu, torch.float32)

    plain, other, moved = new(), new(), new()
    for session in (plain, moved):
        session.reset(Start(seed=2), cameras[0])
        for camera in cameras[1:5]:
            session.step([camera])
    other.restore(plain.snapshot())
    moved.move_anchor(cameras[5].camera_from_world)
    for camera in cameras[5:]:
        frame = plain.step([camera])
        assert np.array_equal(frame, other.step([camera]))
        assert np.abs(frame.astype(int) - moved.step([camera]).astype(int)).max() <= 1


def test_moving_the_anchor_leaves_the_next_frames_unchanged() -> None:
    cameras = tiny.walk(9)
    plain, moved = tiny.session(), tiny.session()
    for session in (plain, moved):
        session.reset(Start(seed=2), cameras[0])
        for camera in cameras[1:5]:
            session.step([camera])
    moved.move_anchor(cameras[5].camera_from_world)
    for camera in cameras[5:]:
        a, b = plain.step([camera]).astype(int), moved.step([camera]).astype(int)
        assert np.abs(a - b).max() <= 1  # a rounding of the last bit


def test_play_is_endless_because_nothing_grows() -> None:
    session = tiny.session()
    far = np.eye(4)
    far[2, 3] = -1.0e6  # a thousand kilometres from where the world's coordinates begin
    lens = tiny.LENS
    near_frames = _play(session, 6)
    cameras = tiny.walk(7)
    shifted = [type(c)(c.camera_from_world @ far, lens) for c in cameras]
    session.reset(Start(seed=7), shifted[0])
    far_frames = np.concatenate([session.step([camera]) for camera in shifted[1:]])
    assert np.abs(near_frames.astype(int) - far_frames.astype(int)).max() <= 1


def test_a_shorter_memory_attends_to_the_newest_frames_only() -> None:
    plain, short, cameras = tiny.session(), tiny.session(), tiny.walk(9)
    for session in (plain, short):
        session.reset(Start(seed=1), cameras[0])
        for camera in cameras[1:7]:
            session.step([camera])
    assert short.spec.windows == (3, 2) and short.spec.window_frames == 3
    short.set_window(2)
    plain.settle()
    plain._at = lambda _: replace(plain._sampler, held=None)  # reads all, less what the bias hides
    oldest = torch.tensor([plain._ring.slot(4)])  # of the frames 0 (a sink), 4, 5 and 6
    plain._cache.bias.copy_(plain._cache.bias_without(oldest))
    assert short._ring.filled(short._frame) == 3  # slots to read, instead of 4
    a, b = (session.step([cameras[7]]).astype(int) for session in (plain, short))
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_a_change_of_memory_is_restored_bit_for_bit_also_where_lengths_differ(commit: str) -> None:
    session, cameras = tiny.session(), tiny.walk(20)
    rollout = replace(session.playable.rollout, commit=commit, solver="consistency")  # type: ignore[arg-type]
    session.playable = replace(session.playable, rollout=rollout)
    session.reset(Start(seed=1), cameras[0])
    states, frames = [], []
    for index, camera in enumerate(cameras[1:]):
        if index % 4 == 3:
            session.set_window(5 - session.spec.window_frames)
        states.append(session.snapshot())
        frames.append(session.step([camera]))
    for begin in (12, 3, 6, 4, 0):
        session.restore(states[begin])
        for index in range(begin, len(frames)):
            if index % 4 == 3 and index > begin:
                session.set_window(5 - session.spec.window_frames)
            assert np.array_equal(session.step([cameras[index + 1]]), frames[index])


def test_a_runtime_of_one_length_says_so_and_goes_on_from_states_of_another() -> None:
    short, fixed, cameras = tiny.session(), tiny.session(), tiny.walk(9)
    fixed._windows = (3,)
    short.reset(Start(seed=1), cameras[0])
    short.set_window(2)
    for camera in cameras[1:7]:
        short.step([camera])
    with pytest.raises(ValueError, match="torch float32 remembers 3 frames, not 2"):
        fixed.set_window(2)
    fixed.restore(short.snapshot())
    assert fixed.spec.window_frames == 3
    a, b = (session.step([cameras[7]]).astype(int) for session in (short, fixed))
    assert np.abs(a - b).max() <= 1  # both know the same frames


@pytest.mark.parametrize(
    ("frames", "block", "windows"),
    [(12, 1, (12, 8, 6)), (3, 1, (3, 2)), (1, 1, (1,)), (21, 3, (21, 14, 10)), (6, 4, (6, 4))],
)
def test_shorter_memories_are_two_thirds_and_half_and_hold_a_block(
    frames: int, block: int, windows: tuple[int, ...]
) -> None:
    assert windows_of(frames, block) == windows


def test_a_start_picture_must_have_the_size_of_the_model() -> None:
    session, camera = tiny.session(), tiny.walk(1)[0]
    with pytest.raises(ValueError, match="32x64"):
        session.reset(Start(image=np.zeros((8, 8, 3), np.uint8)), camera)
    frame = session.reset(Start(image=np.zeros((32, 64, 3), np.uint8)), camera)
    assert frame.shape == (32, 64, 3)


def test_settling_early_or_late_makes_no_difference() -> None:
    cameras = tiny.walk(5)
    lazy, eager = tiny.session(), tiny.session()
    frames = []
    for session in (lazy, eager):
        session.reset(Start(seed=3), cameras[0])
        made = []
        for camera in cameras[1:]:
            made.append(session.step([camera]))
            if session is eager:
                session.settle()
        frames.append(made)
    assert np.array_equal(frames[0], frames[1])


def test_the_rate_changes_without_reloading() -> None:
    session = tiny.session()
    session.set_rate(7.5)
    assert session.spec.frames_per_second == 7.5
    with pytest.raises(ValueError, match="positive"):
        session.set_rate(0.0)


def test_a_full_gpu_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB ...")

    session, camera = tiny.session(), tiny.walk(1)[0]
    monkeypatch.setattr(Sampler, "decode", full)
    with pytest.raises(ValueError, match="GPU memory for a frame: try --device cpu"):
        session.reset(Start(), camera)
    monkeypatch.setattr("worldmodel.session.KVCache", full)
    with pytest.raises(ValueError, match="GPU memory for this model"):
        tiny.session()


def test_standing_still_in_a_static_world_shows_the_same_frame_and_changes_nothing() -> None:
    cameras = tiny.walk(7)
    waiting, walking = tiny.session(static_world=True), tiny.session(static_world=True)
    for session in (waiting, walking):
        session.reset(Start(seed=4), cameras[0])
        for camera in cameras[1:4]:
            session.step([camera])
    before = waiting.step([cameras[4]])
    walking.step([cameras[4]])
    state = waiting.snapshot()
    for _ in range(20):
        assert np.array_equal(waiting.step([cameras[4]]), before)
    other = tiny.session(static_world=True)
    other.restore(state)
    assert np.array_equal(other.step([cameras[4]]), before)
    for camera in cameras[5:]:
        assert np.array_equal(waiting.step([camera]), walking.step([camera]))


def test_a_world_with_a_life_of_its_own_goes_on_while_the_camera_rests() -> None:
    session, camera = tiny.session(), tiny.walk(1)[0]
    session.reset(Start(seed=4), camera)
    assert not np.array_equal(session.step([camera]), session.step([camera]))


def test_an_unknown_word_in_a_prompt_is_named() -> None:
    session, camera = tiny.session(), tiny.walk(1)[0]
    with pytest.raises(ValueError, match="'lava'"):
        session.reset(Start(prompt="lava"), camera)


def _saved(folder: Path) -> Path:
    save_model(folder, tiny.playable(), tiny.autoencoder(), tiny.transformer(), torch.float32)
    return folder


def test_a_saved_model_plays_the_same_frames(tmp_path: Path) -> None:
    session = load_session(_saved(tmp_path / "m"), device="cpu")
    assert session.spec.height_px == 32
    _, _, loaded = load_model(tmp_path / "m")
    for name, weight in tiny.transformer().state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "m")
    weights = next(folder.glob("transformer-*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"transformer-1-of-1\.safetensors: damaged"):
        load_model(folder)
    weights.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(ValueError, match="damaged or truncated"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="missing weights"):
        load_model(folder)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model here"):
        load_model(tmp_path)


@pytest.mark.gpu
def test_graphed_equals_eager() -> None:
    graphed, eager = tiny.session("cuda", capture=True), tiny.session("cuda", capture=False)
    assert np.array_equal(_play(graphed, 50), _play(eager, 50))
