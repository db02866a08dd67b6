"""Frames drawn twice as large: what a new one draws, what the encoder sees, how a model carries it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.scene import Scene
from tests.worldmodel import tiny
from worldmodel.checkpoint import load_model, load_upscaler, save_model
from worldmodel.models import load_playable
from worldmodel.session import WorldSession, load_session
from worldmodel.types import Start
from worldmodel.upscaler import UpscaledAutoencoder, Upscaler, UpscalerConfig

CONFIG = UpscalerConfig(width=14, depth=1)


def _new() -> Upscaler:
    torch.manual_seed(5)
    return Upscaler(CONFIG).eval()


def _upscaler() -> Upscaler:
    return tiny.shaken(_new(), 0.05)


def _session(upscaler: Upscaler) -> WorldSession:
    decoder = UpscaledAutoencoder(tiny.autoencoder(), upscaler)
    return WorldSession(
        tiny.playable(), decoder, tiny.transformer(), torch.device("cpu"), torch.float32
    )


def _saved(folder: Path, upscaler: Upscaler | None) -> Path:
    parts = tiny.playable(), tiny.autoencoder(), tiny.transformer()
    save_model(folder, *parts, torch.float32, upscaler)
    return folder


@torch.no_grad()
def test_a_new_upscaler_repeats_every_pixel() -> None:
    frames = torch.rand(2, 3, 12, 20) * 2 - 1
    repeated = frames.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(_new()(frames), repeated)


@torch.no_grad()
def test_training_encodes_the_mean_of_every_two_by_two_pixels() -> None:
    network = UpscaledAutoencoder(tiny.autoencoder(), _upscaler())
    large = torch.rand(1, 3, 64, 128) * 2 - 1
    small = (large[..., ::2, :] + large[..., 1::2, :]) / 2
    small = (small[..., ::2] + small[..., 1::2]) / 2
    torch.testing.assert_close(network.encode(large), network.autoencoder.encode(small))


def test_a_world_walks_the_same_way_and_is_only_drawn_larger() -> None:
    small, large, cameras = tiny.session(), _session(_new()), tiny.walk(6)
    assert (large.spec.height_px, large.spec.width_px) == (64, 128)
    for session in (small, large):
        session.reset(Start(seed=1), cameras[0])
    for camera in cameras[1:]:
        frame = small.step([camera])[0].astype(int)
        drawn = large.step([camera])[0].astype(int)
        repeated = frame.repeat(2, 0).repeat(2, 1)
        assert np.abs(drawn - repeated).max() <= 1  # one rounding


def test_start_pictures_have_the_size_that_the_encoder_sees() -> None:
    session, camera = _session(_upscaler()), tiny.walk(1)[0]
    picture = np.full((32, 64, 3), 90, np.uint8)
    assert session.reset(Start(image=picture), camera).shape == (64, 128, 3)
    large = picture.repeat(2, 0).repeat(2, 1)
    with pytest.raises(ValueError, match=r"must be uint8 32x64x3, got uint8 64x128x3"):
        session.reset(Start(image=large), camera)
    assert session.spec.drawn_larger == 2
    assert np.array_equal(Scene("", 0, large).start(session.spec).image, picture)


def test_a_model_folder_says_whether_its_frames_are_drawn_larger(tmp_path: Path) -> None:
    plain, larger = _saved(tmp_path / "a", None), _saved(tmp_path / "b", _upscaler())
    assert load_upscaler(plain) is None
    assert load_session(plain, device="cpu").spec.height_px == 32
    session = load_session(larger, device="cpu")
    assert session.spec.height_px == 64
    assert session.spec.weights != load_session(plain, device="cpu").spec.weights
    model, cpu = load_playable(larger), torch.device("cpu")
    read = WorldSession(model.playable, model.decoder, model.transformer, cpu, torch.float32)
    start, camera = Start(seed=3), tiny.walk(1)[0]
    expected = _session(_upscaler()).reset(start, camera)
    assert np.array_equal(read.reset(start, camera), expected)


def test_what_is_measured_and_trained_of_a_model_is_its_autoencoder_alone(tmp_path: Path) -> None:
    _, autoencoder, _ = load_model(_saved(tmp_path / "b", _upscaler()))
    assert autoencoder.config.height_px == 32


def test_a_model_saved_again_without_an_upscaler_has_none(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "b", _upscaler())
    assert load_upscaler(_saved(folder, None)) is None
    assert load_session(folder, device="cpu").spec.height_px == 32


def test_a_damaged_upscaler_is_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "b", _upscaler())
    file = folder / "upscaler-1-of-1.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"upscaler-1-of-1\.safetensors: damaged or truncated"):
        load_session(folder, device="cpu")


def test_fewer_channels_than_the_pixels_of_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 12"):
        UpscalerConfig(width=8, depth=1)
