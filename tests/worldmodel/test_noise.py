"""Noise that is drawn ahead is the noise that would have been drawn."""

from __future__ import annotations

import torch

from worldmodel.noise import Noise

SHAPE = (1, 2, 7, 3)  # no multiple of what a processor draws at once


def _noise(seed: int = 5) -> Noise:
    noise = Noise(SHAPE, torch.device("cpu"))
    noise.seed(seed)
    return noise


def _drawn(count: int, seed: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def test_prepared_or_not_it_is_what_the_seed_says() -> None:
    prompt, ahead = _noise(), _noise()
    for count, wanted in enumerate(_drawn(6)):
        ahead.prepare(count)
        assert torch.equal(prompt.take(), wanted)
        assert torch.equal(ahead.take(), wanted)


def test_the_state_does_not_know_what_was_prepared() -> None:
    prompt, ahead = _noise(), _noise()
    for _ in range(2):
        prompt.take()
        ahead.prepare(3)
        ahead.take()
        assert torch.equal(prompt.state(), ahead.state())
    third = _drawn(3)[2]
    other = _noise(seed=9)
    other.prepare(2)
    other.set_state(ahead.state())
    assert torch.equal(other.take(), third)
    assert torch.equal(ahead.take(), third)


def test_a_new_seed_forgets_what_was_prepared() -> None:
    noise = _noise()
    noise.prepare(2)
    noise.seed(8)
    assert torch.equal(noise.take(), _drawn(1, seed=8)[0])
