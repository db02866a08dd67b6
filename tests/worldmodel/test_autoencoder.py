"""Latents whose first channels are mean colours (`mean_colour_std`)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.worldmodel import tiny
from worldmodel.autoencoder import DOWNSCALE, Autoencoder, smooth

STD = 4.0


def _frames(count: int = 6) -> Tensor:
    coarse = torch.rand((count, 3, 4, 8), generator=torch.Generator().manual_seed(1))
    fine = torch.rand((count, 3, 32, 64), generator=torch.Generator().manual_seed(2))
    return functional.interpolate(coarse, (32, 64)) + 0.5 * fine - 0.75


def _calibrated(frames: Tensor) -> Autoencoder:
    network = tiny.autoencoder(STD)
    network.calibrate([frames[:2], frames[2:]])
    return network


def test_the_first_three_channels_are_mean_colours_and_as_large_as_was_asked() -> None:
    frames = _frames()
    latents = _calibrated(frames).encode(frames).detach()
    colours = functional.avg_pool2d(frames, DOWNSCALE).flatten(2).transpose(1, 2)
    for channel in range(3):
        both = torch.stack([latents[..., channel], colours[..., channel]])
        seen = torch.corrcoef(both.flatten(1))
        assert seen[0, 1] == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(latents.std((0, 1)), torch.tensor([STD, STD, STD, 1.0]))
    torch.testing.assert_close(latents.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-5)


def test_what_is_learned_says_nothing_of_a_colour_that_the_whole_frame_has() -> None:
    frames = _frames()
    network = _calibrated(frames)
    tinted = frames + torch.tensor([0.2, -0.1, 0.05]).view(3, 1, 1)
    change = network.encode(tinted) - network.encode(frames)
    torch.testing.assert_close(change[..., 3:], torch.zeros_like(change[..., 3:]), rtol=0, atol=1e-5)
    assert change[..., :3].abs().min() > 0


def test_a_decoder_that_says_nothing_draws_the_smooth_picture_of_the_mean_colours() -> None:
    frames = _frames()
    network = _calibrated(frames)
    with torch.no_grad():
        for weight in network.decoder.parameters():
            weight.zero_()
        drawn = network.decode(network.encode(frames))
    torch.testing.assert_close(drawn, smooth(functional.avg_pool2d(frames, DOWNSCALE)))


def test_training_draws_what_decoding_draws_once_its_batch_has_calibrated_it() -> None:
    frames = _frames()
    network = _calibrated(frames)
    with torch.no_grad():
        trained = network(frames, torch.zeros(1))
        torch.testing.assert_close(trained, network.decode(network.encode(frames)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_colour_std": 0.0}, "mean_colour_std must be positive, got 0.0"),
        ({"latent_channels": 3}, "mean_colour_std needs more than 3 latent_channels"),
    ],
)
def test_colours_without_a_size_or_a_channel_to_learn_are_refused(
    changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(tiny.autoencoder(STD).config, **changes)  # type: ignore[arg-type]
