"""A Wan model is played as any other: the same session, saves and command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import play
from tests.worldmodel import tiny, tiny_wan
from worldmodel import flow
from worldmodel.models import load_playable, prompt_folder
from worldmodel.sampler import Sampler
from worldmodel.saves import read_state, write_state
from worldmodel.session import WorldSession, load_session
from worldmodel.types import Camera, Start


def _session(folder: Path, *overrides: str) -> WorldSession:
    """In float32: a moved anchor must not be hidden by rounding."""
    folder.mkdir(exist_ok=True)
    model = load_playable(tiny_wan.model_folder(folder, *overrides))
    return WorldSession(
        model.playable,
        model.decoder,
        model.transformer,
        torch.device("cpu"),
        torch.float32,
        read_prompt=model.read_prompt,
    )


def _walk(session: WorldSession, steps: int) -> list[list[Camera]]:
    count = session.spec.cameras_per_step
    cameras = tiny.walk(1 + steps * count)
    return [cameras[:1], *(cameras[1 + i * count :][:count] for i in range(steps))]


def _play(session: WorldSession, steps: int, start: Start | None = None) -> np.ndarray:
    (first,), *chunks = _walk(session, steps)
    frames = [session.reset(start or Start(seed=7), first)[None]]
    return np.concatenate([*frames, *(session.step(chunk) for chunk in chunks)])


CHUNKS = ("playable.rollout.block_frames=3", "playable.cache.window_frames=6")
BLOCKS = [(), CHUNKS, ("playable.rollout.block_frames=4", "playable.cache.window_frames=8")]


@pytest.mark.parametrize("overrides", BLOCKS)
def test_latents_are_made_one_by_one_or_in_blocks(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    session = _session(tmp_path, *overrides)
    spec = session.spec
    assert spec.frames_per_step == 4 * spec.cameras_per_step
    frames = _play(session, 4)
    assert frames.shape == (1 + 4 * spec.frames_per_step, 32, 48, 3)
    assert np.array_equal(frames, _play(session, 4))
    assert not np.array_equal(frames, _play(session, 4, Start(seed=8)))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_noise_levels_are_those_of_causal_forcing(steps: int) -> None:
    published = {1: [1000.0], 2: [1000.0, 833.3], 4: [1000.0, 937.5, 833.3, 625.0]}
    levels = 1000 * flow.schedule(steps, tiny_wan.model_config().playable.rollout.shift)
    assert levels[:-1].tolist() == pytest.approx(published[steps], abs=0.05)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_first_block_has_four_steps_and_the_others_their_own(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(tmp_path, f"playable.rollout.steps={steps}")
    counted: list[float] = []
    plain = Sampler.denoise

    def counting(
        sampler: Sampler, latent: torch.Tensor, sigma: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        counted.append(float(sigma[0, 0]))
        return plain(sampler, latent, sigma, *rest)

    monkeypatch.setattr(Sampler, "denoise", counting)
    _play(session, 1)
    assert len(counted) == 4 + steps


@pytest.mark.parametrize("overrides", BLOCKS[:2])
def test_restore_then_the_same_cameras_gives_bit_identical_frames(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    session = _session(tmp_path / "a", *overrides)
    _play(session, 3)
    state = session.snapshot()
    write_state(tmp_path / "state", state)
    chunks = _walk(session, 4)[1:]
    first = [session.step(chunk) for chunk in chunks]
    other = _session(tmp_path / "b", *overrides)
    other.restore(read_state(tmp_path / "state"))
    assert np.array_equal(first, [other.step(chunk) for chunk in chunks])


@pytest.mark.parametrize("overrides", BLOCKS[:2])
def test_moving_the_anchor_and_time_leaves_the_next_frames_unchanged(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    plain = _session(tmp_path / "a", *overrides)
    moved = _session(tmp_path / "b", *overrides)
    chunks = _walk(plain, 7)
    for session in (plain, moved):
        session.reset(Start(seed=2), chunks[0][0])
        for chunk in chunks[1:4]:
            session.step(chunk)
    moved.move_anchor(chunks[4][0].camera_from_world)
    for chunk in chunks[4:]:
        a, b = plain.step(chunk).astype(int), moved.step(chunk).astype(int)
        assert np.abs(a - b).max() <= 1  # a rounding of the last bit


def test_play_goes_on_past_the_window_and_the_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.session.ANCHOR_FRAMES", 3)
    session = _session(tmp_path)
    moves = []
    plain = session.move_anchor
    monkeypatch.setattr(session, "move_anchor", lambda pose: (moves.append(1), plain(pose)))
    frames = _play(session, 12)
    assert len(moves) == 4
    # no latent repeats another: the worlds of this model move by themselves
    assert len({frame.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize("overrides", BLOCKS[:2])
def test_a_start_picture_is_the_first_latent(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    session = _session(tmp_path, *overrides)
    pictures = [np.full((32, 48, 3), value, np.uint8) for value in (40, 200)]
    walks = [_play(session, 2, Start(seed=7, image=picture)) for picture in pictures]
    assert not np.array_equal(walks[0][1:], walks[1][1:])
    assert session._frame == 1 + 2 * session.spec.cameras_per_step
    with pytest.raises(ValueError, match="32x48"):
        session.reset(Start(image=np.zeros((8, 8, 3), np.uint8)), tiny.walk(1)[0])


def test_the_number_of_cameras_is_that_of_a_block(tmp_path: Path) -> None:
    session = _session(tmp_path, *CHUNKS)
    session.reset(Start(), tiny.walk(1)[0])
    with pytest.raises(ValueError, match="3 cameras per step, got 1"):
        session.step(tiny.walk(1))


def test_a_window_must_hold_a_block(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold a block of 6 frames"):
        _session(tmp_path, "playable.rollout.block_frames=6")


def test_a_prompt_is_read_from_embeddings(tmp_path: Path) -> None:
    session = _session(tmp_path)
    config = tiny_wan.model_config().transformer
    book = prompt_folder(tmp_path / "model", config)
    book.store("a quiet forest", tiny_wan.prompt(config)[0, :5])
    save_file({"embeddings": tiny_wan.prompt(config, 9)}, tmp_path / "mine.safetensors")
    mine = str(tmp_path / "mine.safetensors")
    prompts = ("", "a quiet forest", mine)
    walks = [_play(session, 2, Start(seed=7, prompt=prompt)) for prompt in prompts]
    assert all(not np.array_equal(walks[i], walks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.count_nonzero(book("a quiet forest")[0, 5:]) == 0  # padded with zeros
    camera = tiny.walk(1)[0]
    with pytest.raises(ValueError, match="no embeddings of it in"):
        session.reset(Start(prompt="lava"), camera)
    save_file({"embeddings": torch.zeros(9, 20)}, tmp_path / "long.safetensors")
    with pytest.raises(ValueError, match="9 embeddings of width 20; this model reads at most 7"):
        session.reset(Start(prompt=str(tmp_path / "long.safetensors")), camera)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged, or no safetensors"):
        session.reset(Start(prompt=str(tmp_path / "bad.safetensors")), camera)


def test_a_snapshot_keeps_the_prompt_not_what_was_computed_from_it(tmp_path: Path) -> None:
    session = _session(tmp_path)
    _play(session, 1)
    assert session.snapshot()["words"].shape == (1, 7, 20)


def test_weights_keep_the_type_they_are_stored_in(tmp_path: Path) -> None:
    model = load_playable(tiny_wan.model_folder(tmp_path))
    assert isinstance(model.transformer, torch.nn.Module)
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    assert {str(b.device) for b in model.transformer.buffers()} == {"cpu"}


def test_play_py_plays_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    out = tmp_path / "walk"
    options = ["--model", str(folder), "--headless", "--trajectory", "w*3,l*2", "--device", "cpu"]
    assert play.main([*options, "--out", str(out)]) == 0, capsys.readouterr().err
    assert len(list(out.glob("*.png"))) == 1 + 5 * 4
    assert play.main([*options, "--out", str(tmp_path / "b"), "--prompt", "lava"]) == 2
    error = capsys.readouterr().err
    assert "no embeddings of it" in error and error.count("\n") == 1


@pytest.mark.gpu
def test_graphed_equals_eager_also_in_blocks(tmp_path: Path) -> None:
    frames = []
    for capture in (True, False):
        folder = tmp_path / str(capture)
        folder.mkdir()
        model = load_playable(tiny_wan.model_folder(folder, *CHUNKS))
        session = WorldSession(
            model.playable,
            model.decoder,
            model.transformer,
            torch.device("cuda"),
            torch.float32,
            capture,
            read_prompt=model.read_prompt,
            compiled=False,
        )
        frames.append(_play(session, 16))
    assert np.array_equal(*frames)


def test_the_prompt_changes_during_play_and_survives_a_save(tmp_path: Path) -> None:
    session, other = _session(tmp_path / "a"), _session(tmp_path / "b")
    config = tiny_wan.model_config().transformer
    prompt_folder(tmp_path / "a" / "model", config).store("dusk", tiny_wan.prompt(config)[0])
    chunks = _walk(session, 3)
    for world in (session, other):
        world.reset(Start(seed=1), chunks[0][0])
        world.step(chunks[1])
    session.set_prompt("dusk")
    changed = session.snapshot()
    frames = session.step(chunks[2])
    assert not np.array_equal(frames, other.step(chunks[2]))
    other.restore(changed)
    assert np.array_equal(frames, other.step(chunks[2]))
    with pytest.raises(ValueError, match="no embeddings"):
        session.set_prompt("lava")


def test_a_runtime_that_cannot_compute_it_is_refused(tmp_path: Path) -> None:
    folder = tiny_wan.model_folder(tmp_path)
    with pytest.raises(ValueError, match="does not compute this kind of model"):
        load_session(folder, device="cpu", runtime="openvino")
    assert load_session(folder, device="cpu", runtime="auto").runtime == "torch"


def test_load_session_takes_the_steps_of_the_command_line(tmp_path: Path) -> None:
    session = load_session(tiny_wan.model_folder(tmp_path), device="cpu", steps=1)
    assert session.spec.steps == 1
    assert _play(session, 1).shape == (5, 32, 48, 3)
