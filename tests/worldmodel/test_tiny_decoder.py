"""The streaming decoder of Wan's latents."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel import tiny_wan
from worldmodel.tiny_decoder import TinyDecoder, TinyDecoderConfig

LATENTS = 5


def _latents() -> torch.Tensor:
    config = tiny_wan.model_config().decoder
    shape = (1, LATENTS, config.grid[0] * config.grid[1], config.latent_channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("lengths", [[1, 1, 1, 1, 1], [3, 2], [1, 4]])
@torch.inference_mode()
def test_streamed_is_the_whole_clip(lengths: list[int]) -> None:
    decoder, latents = tiny_wan.decoder(), _latents()
    decoder.reset()
    whole = decoder.decode(decoder._places(latents))
    decoder.reset()
    parts = [decoder.decode(decoder._places(part)) for part in latents.split(lengths, dim=1)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    assert len(whole) == 4 * LATENTS


@torch.inference_mode()
def test_a_latent_depends_on_those_before_and_on_none_after() -> None:
    decoder, latents = tiny_wan.decoder(), _latents()
    changed = latents.clone()
    changed[:, 2] += 1
    made = []
    for clip in (latents, changed):
        decoder.reset()
        made.append(decoder.decode(decoder._places(clip)))
    differ = (made[0] - made[1]).abs().amax((1, 2, 3))
    assert not differ[:8].any()
    assert differ[8:16].min() > 0


@torch.inference_mode()
def test_a_restored_memory_goes_on_bit_for_bit_at_the_same_addresses() -> None:
    decoder, latents = tiny_wan.decoder(), _latents()
    decoder.reset()
    addresses = [tensor.data_ptr() for tensor in decoder._memory]
    decoder.render(latents[:, :2])
    state = decoder.state()
    first = decoder.render(latents[:, 2:3])
    decoder.load_state(state)
    assert torch.equal(decoder.render(latents[:, 2:3]), first)
    decoder.reset()
    assert [tensor.data_ptr() for tensor in decoder._memory] == addresses
    with pytest.raises(ValueError, match="another decoder"):
        decoder.load_state({})


@torch.inference_mode()
def test_frames_have_the_size_of_the_config_and_a_picture_becomes_one_latent() -> None:
    decoder = tiny_wan.decoder()
    decoder.reset()
    frames = decoder.render(_latents()[:, :1])
    assert frames.shape == (4, 32, 48, 3) and frames.dtype == torch.uint8
    assert decoder.encode_start(torch.zeros(1, 3, 32, 48)).shape == (1, 1, 6, 64)


def test_the_layers_have_the_names_and_shapes_of_taew2_1() -> None:
    config = TinyDecoderConfig(height_px=480, width_px=832, vae_channels=16, widths=(256, 128, 64))
    with torch.device("meta"):
        tensors = {k: tuple(v.shape) for k, v in TinyDecoder(config).state_dict().items()}
    assert tensors["decoder.1.weight"] == (256, 16, 3, 3)
    assert tensors["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert tensors["decoder.7.conv.weight"] == (256, 256, 1, 1)
    assert tensors["decoder.8.weight"] == (128, 256, 3, 3) and "decoder.8.bias" not in tensors
    assert tensors["decoder.13.conv.weight"] == (256, 128, 1, 1)
    assert tensors["decoder.19.conv.weight"] == (128, 64, 1, 1)
    assert tensors["decoder.20.weight"] == (64, 64, 3, 3)
    assert tensors["decoder.22.weight"] == (3, 64, 3, 3)
    assert tensors["encoder.0.weight"] == (64, 3, 3, 3)
    assert tensors["encoder.2.conv.weight"] == (64, 128, 1, 1)
    assert tensors["encoder.12.conv.weight"] == (64, 64, 1, 1)
    assert tensors["encoder.17.weight"] == (16, 64, 3, 3)
