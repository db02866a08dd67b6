"""Frames are kept to what true frames look like, and those that are like them are not touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worldmodel import tiny
from worldmodel.drift import Moments, holder, moments_of
from worldmodel.session import WorldSession
from worldmodel.types import Start

C = 4


def _true(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    light = 0.2 * torch.randn(count, 1, C, generator=random)
    return light + torch.randn(count, 32, C, generator=random)


def _measured() -> Moments:
    moments = Moments(C)
    moments.measure(_true(400))
    return moments


def test_true_frames_lie_about_as_far_out_as_there_are_moments() -> None:
    distance = _measured().distance(_true(200, seed=1))
    assert distance.square().mean().item() == pytest.approx(2 * C, rel=0.25)


def test_a_frame_within_the_limit_stays_what_it_is() -> None:
    frames = _true(3, seed=1)[:, None]
    torch.testing.assert_close(_measured().hold(frames, 50.0), frames)


def test_a_frame_beyond_the_limit_comes_back_to_it_and_keeps_its_forms() -> None:
    moments, frames = _measured(), _true(3, seed=1)
    drifted = 2.0 * frames - 3.0
    held = moments.hold(drifted, 5.0)
    torch.testing.assert_close(moments.distance(held), torch.full((3,), 5.0), rtol=1e-3, atol=0.0)

    def forms(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-2, keepdim=True)) / x.std(-2, keepdim=True)

    torch.testing.assert_close(forms(held), forms(drifted), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moments_of(held).shape, moments_of(frames).shape)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="15 frames are too few to know 8 moments"):
        Moments(C).measure(_true(15))


def test_a_limit_without_moments_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="python -m distill moments MODEL"):
        holder(tiny.autoencoder(), 15.0)


def test_a_session_holds_what_it_generates() -> None:
    autoencoder = tiny.measured(tiny.autoencoder())
    limits = []
    for limit in (None, 1e-3):
        plain = tiny.playable()
        playable = replace(plain, rollout=replace(plain.rollout, drift_limit=limit))
        session = WorldSession(
            playable, autoencoder, tiny.transformer(), torch.device("cpu"), torch.float32
        )
        walk = tiny.walk(3)
        session.reset(Start(seed=0), walk[0])
        frames = [session.step([camera]) for camera in walk[1:]]
        limits.append(np.stack(frames))
    assert not np.array_equal(*limits)
