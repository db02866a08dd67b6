"""Wan's own autoencoder, decoding one latent at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from tests.worldmodel import tiny, tiny_wan
from worldmodel.convert import convert, describe
from worldmodel.saves import read_state, write_state
from worldmodel.session import WorldSession, load_session
from worldmodel.types import Start
from worldmodel.wan_vae import WanVae, WanVaeConfig

CONFIG = WanVaeConfig(height_px=32, width_px=48, vae_channels=16, base_width=4)
KIND = "{kind: wan_vae, height_px: 32, width_px: 48, vae_channels: 16, base_width: 4}"
LATENTS = 4


def _vae() -> WanVae:
    pytest.importorskip("diffusers")
    torch.manual_seed(4)
    return WanVae(CONFIG).eval()


def _latents() -> Tensor:
    return torch.randn(1, LATENTS, 6, 64, generator=torch.Generator().manual_seed(3))


def _whole_clip(vae: WanVae, latents: Tensor) -> Tensor:
    """By diffusers' own decode of the whole clip."""
    z = rearrange(latents, "b f (h w) (c y x) -> b c f (h y) (w x)", h=2, y=2, x=2)
    frames: Any = vae.vae.decode(z * vae.latent_std + vae.latent_mean).sample
    return rearrange(frames, "1 c t h w -> t c h w")


@torch.inference_mode()
def test_streamed_is_the_whole_clip_of_diffusers_and_the_first_latent_is_one_frame() -> None:
    vae, latents = _vae(), _latents()
    parts = [vae.decode(latent[:, None]) for latent in latents.unbind(1)]
    assert [len(part) for part in parts] == [1, 4, 4, 4]
    whole = _whole_clip(vae, latents)
    torch.testing.assert_close(torch.cat(parts).clamp(-1, 1), whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_restored_memory_goes_on_bit_for_bit(tmp_path: Path) -> None:
    vae, latents = _vae(), _latents()
    for known in range(LATENTS):
        vae.reset()
        for latent in latents[:, :known].unbind(1):
            vae.decode(latent[:, None])
        write_state(tmp_path / "state", vae.state())
        first = vae.decode(latents[:, known : known + 1])
        vae.load_state(read_state(tmp_path / "state"))
        assert torch.equal(vae.decode(latents[:, known : known + 1]), first)
    with pytest.raises(ValueError, match="another decoder"):
        vae.load_state({})


@torch.inference_mode()
def test_a_picture_is_encoded_as_diffusers_does() -> None:
    vae = _vae()
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = vae.encode_start(picture)
    z = rearrange(latent, "b f (h w) (c y x) -> b c f (h y) (w x)", h=2, y=2, x=2)
    theirs = vae.vae.encode(picture[:, :, None]).latent_dist.mode()
    torch.testing.assert_close(z * vae.latent_std + vae.latent_mean, theirs)


def _session(folder: Path) -> WorldSession:
    wanted = tiny_wan.model_config(f"decoder={KIND}")
    source, small = folder / "source.safetensors", folder / "vae.safetensors"
    save_file(tiny_wan.published(tiny_wan.transformer(wanted.transformer), "wan"), source)
    save_file(_vae().vae.state_dict(), small)
    assert "autoencoder" in describe(small)["is"]
    convert(source, folder / "model", wanted, decoder=small)
    return load_session(folder / "model", device="cpu")


def test_a_model_with_it_is_played_and_restored(tmp_path: Path) -> None:
    session, cameras = _session(tmp_path), tiny.walk(5)
    picture = np.full((32, 48, 3), 90, np.uint8)
    for image in (None, picture):
        session.reset(Start(seed=1, image=image), cameras[0])
        session.step([cameras[1]])
        state = session.snapshot()
        first = session.step([cameras[2]])
        assert first.shape == (4, 32, 48, 3)
        session.restore(state)
        assert np.array_equal(session.step([cameras[2]]), first)


def test_without_diffusers_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "diffusers.models.autoencoders.autoencoder_kl_wan"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[wan\]'"):
        WanVae(CONFIG)
