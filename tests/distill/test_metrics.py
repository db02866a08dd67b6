"""Measures of images, held to cases whose answer is known without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from distill.features import Ruler, frechet_to_truth
from distill.metrics import (
    checkerboard,
    checkerboard_ratio,
    colour,
    frechet_distance,
    motion,
    ssim,
)
from distill.run import load_autoencoder
from tests.worldmodel import tiny
from worldmodel.autoencoder import frames_to_float

ROOT = Path(__file__).parents[2]


def _picture(seed: int = 0, size: int = 32) -> Tensor:
    """Smooth at large and rough at small scale, as pictures are: [1 3 H 2H] in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    layers = [
        functional.interpolate(
            torch.randn(1, 3, size // s, 2 * size // s, generator=random),
            size=(size, 2 * size),
            mode="bilinear",
        )
        for s in (8, 4, 1)
    ]
    return (layers[0] + layers[1] / 2 + layers[2] / 8).mul(0.4).clamp(-0.95, 0.95)


def test_ssim_of_an_image_with_itself_is_one() -> None:
    x = _picture()
    torch.testing.assert_close(ssim(x, x), torch.ones(1))


def test_ssim_of_two_flat_images_is_the_luminance_term_alone() -> None:
    a, b = 0.2, 0.7
    flat = [torch.full((1, 3, 16, 16), 2 * level - 1) for level in (a, b)]
    expected = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    assert float(ssim(*flat)) == pytest.approx(expected, abs=1e-4)


def test_ssim_is_negative_for_the_negative_of_a_texture() -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 32, 32, generator=random).mul(0.5).clamp(-1, 1)
    assert float(ssim(x, -x)) < -0.9


def test_ssim_of_one_window_is_the_formula_of_the_paper() -> None:
    x, y = (_picture(seed)[..., :11, :11] for seed in (1, 2))
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    expected = []
    for channel in range(3):
        a, b = ((image[0, channel].double().numpy() + 1) / 2 for image in (x, y))
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        variance_a = (weights * (a - mean_a) ** 2).sum()
        variance_b = (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        numerator = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
        denominator = (mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2)
        expected.append(numerator / denominator)
    assert float(ssim(x, y)) == pytest.approx(np.mean(expected), abs=1e-4)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="11 px"):
        ssim(torch.zeros(1, 3, 8, 32), torch.zeros(1, 3, 8, 32))


def test_colour_is_zero_for_black_and_one_for_white() -> None:
    half = torch.ones(1, 3, 4, 4)
    half[..., :2] = -1
    mean, variance = colour(half)
    torch.testing.assert_close(mean, torch.full((1, 3), 0.5))
    torch.testing.assert_close(variance, torch.full((1, 3), 0.25))


def _alternating(down: int, across: int, size: int = 32) -> Tensor:
    """Pixels of -1 and 1 that alternate from row to row, from column to column, or both."""
    at = torch.arange(size)
    sign = 1 - 2.0 * ((down * at[:, None] + across * at) % 2)
    return sign.expand(1, 3, -1, -1)


@pytest.mark.parametrize(("down", "across", "place"), [(1, 0, 0), (0, 1, 1), (1, 1, 2)])
def test_alternating_pixels_have_the_energy_of_their_amplitude(
    down: int, across: int, place: int
) -> None:
    pattern = _alternating(down, across)
    expected = functional.one_hot(torch.tensor([place]), 3).float()
    torch.testing.assert_close(checkerboard(pattern), expected)
    torch.testing.assert_close(checkerboard(0.1 * pattern + 0.3), 0.01 * expected)


def test_flat_pictures_and_smooth_ones_have_no_checkerboard() -> None:
    at = torch.linspace(-1, 1, 32)
    ramp = (0.5 * at + 0.3 * at[:, None]).expand(1, 3, -1, -1)
    curve = (at.square() - at[:, None].square()).expand(1, 3, -1, -1)
    for picture in (torch.full((1, 3, 32, 32), 0.7), ramp, curve):
        assert float(checkerboard(picture).max()) < 1e-8


def test_a_checkerboard_in_a_corner_counts_for_its_share_of_the_image() -> None:
    corner = torch.zeros(1, 3, 32, 32)
    corner[..., :8, :8] = 0.1 * _alternating(1, 1)[..., :8, :8]
    torch.testing.assert_close(checkerboard(corner)[0, 2], torch.tensor(0.01 / 16))


def test_a_checkerboard_is_measured_in_each_image_whatever_its_size() -> None:
    both = torch.stack([torch.zeros(1, 3, 32, 32), _alternating(1, 1)])[..., :30, :19]
    found = checkerboard(both)
    assert found.shape == (2, 1, 3)
    torch.testing.assert_close(found[:, 0, 2], torch.tensor([0.0, 1.0]))


def test_a_faint_checkerboard_stands_out_of_a_picture_that_is_full_of_stripes() -> None:
    true = _picture(size=64)[..., :32, :32] * 0.5 + 0.2 * _alternating(0, 1)
    assert checkerboard_ratio(true, true) == 1.0
    assert checkerboard_ratio(true + 0.05 * _alternating(1, 1), true) > 2
    blurred = functional.avg_pool2d(true, 3, 1, 1, count_include_pad=False)
    assert checkerboard_ratio(blurred, true) < 0.5


def test_motion_is_the_share_of_the_range_a_pixel_changes_by() -> None:
    black, white = -torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert float(motion(black, white)) == 1.0
    assert float(motion(black, black)) == 0.0


def test_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=random)
    a = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    scale, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 3.0, 0.0])
    expected = float((scale - 1).square().sum() + shift.square().sum())
    assert frechet_distance(a, a * scale + shift) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def _ruler() -> Ruler:
    return Ruler("tiny", tiny.autoencoder().encoder)


def test_the_ruler_reads_every_resolution_of_the_encoder_but_the_frame_itself() -> None:
    sizes = [tuple(x.shape[-2:]) for x in _ruler().features(torch.zeros(1, 3, 32, 64))]
    assert sizes == [(16, 32), (8, 16), (4, 8), (2, 4)]


def test_the_perceptual_distance_grows_with_noise_and_blur_and_most_for_another_frame() -> None:
    x, other = _picture(1), _picture(2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

    def blurred(px: int) -> Tensor:
        return functional.avg_pool2d(x, px, 1, px // 2, count_include_pad=False)

    def distance(degraded: Tensor) -> float:
        return float(_ruler().distance(x, degraded))

    assert distance(x) == 0.0
    assert 0 < distance(x + 0.02 * noise) < distance(x + 0.1 * noise) < distance(other)
    assert 0 < distance(blurred(3)) < distance(blurred(7)) < distance(other)


def test_the_shipped_ruler_orders_known_degradations_of_shipped_pictures() -> None:
    autoencoder = load_autoencoder(ROOT / "assets" / "pocket")
    paths = sorted((ROOT / "assets" / "pocket" / "starts").glob("*.png"))[:4]
    pictures = np.stack([np.asarray(Image.open(path)) for path in paths])
    x = frames_to_float(torch.from_numpy(pictures))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    ruler = Ruler("pocket", autoencoder.encoder)

    def blurred(px: int) -> Tensor:
        return functional.avg_pool2d(x, px, 1, px // 2, count_include_pad=False)

    def distance(degraded: Tensor) -> float:
        return float(ruler.distance(x, degraded).mean())

    wrong = distance(x.roll(1, 0))
    assert 0 < distance(x + 0.03 * noise) < distance(x + 0.1 * noise) < distance(x + 0.3 * noise)
    assert 0 < distance(blurred(3)) < distance(blurred(5)) < distance(blurred(9)) < wrong
    assert 0 < distance(x.roll(1, -1)) < distance(x.roll(4, -1)) < wrong
    assert distance(x + 0.3 * noise) < wrong


def test_rulers_of_other_weights_have_other_digests() -> None:
    other = Ruler("tiny", tiny.shaken(tiny.autoencoder(), 0.1).encoder)
    assert _ruler().digest() == _ruler().digest() != other.digest()


def test_the_frechet_distance_tells_still_clips_from_moving_ones() -> None:
    random = torch.Generator().manual_seed(4)
    moving = torch.stack(
        [torch.cat([_picture(seed).roll(2 * f, -1) for f in range(4)]) for seed in range(12)]
    )
    noisy = moving + 0.02 * torch.randn(moving.shape, generator=random)
    still = moving[:, :1].expand_as(moving)
    true, near, far = (_ruler().clip_features(clips) for clips in (moving, noisy, still))
    assert frechet_to_truth(true, true) < frechet_to_truth(near, true)
    assert frechet_to_truth(near, true) < frechet_to_truth(far, true)
