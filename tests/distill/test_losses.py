"""Losses and metrics measure what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill import losses
from distill.batches import LatentBatch
from distill.metrics import gradient_energy, psnr_db
from distill.objectives import FlowMatching, FlowMatchingConfig, Moment
from distill.optimizers import Muon, OptimizerConfig, orthogonalise
from tests.worldmodel import tiny
from worldmodel import flow
from worldmodel.attention import attend_all


def test_flow_matching_is_zero_for_the_true_velocity() -> None:
    x0, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert losses.flow_matching(flow.velocity(x0, noise), x0, noise) == 0


def test_a_constant_error_of_brightness_costs_no_edge() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert losses.gradient_l1(image + 0.3, image) < 1e-6
    assert losses.gradient_l1(image.flip(-1), image) > 0.1


def test_interpolation_and_velocity_give_the_clean_latent_back() -> None:
    x0, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    sigma = torch.rand(2, 3)
    noisy = flow.interpolate(x0, noise, sigma)
    back = flow.x0_from_velocity(noisy, flow.velocity(x0, noise), sigma)
    torch.testing.assert_close(back, x0, rtol=1e-4, atol=1e-5)


def test_one_euler_step_with_the_true_velocity_lands_on_the_data() -> None:
    x0, noise = torch.randn(1, 1, 4, 5), torch.randn(1, 1, 4, 5)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    landed = flow.euler_step(noise, flow.velocity(x0, noise), one, zero)
    torch.testing.assert_close(landed, x0)


def test_a_schedule_falls_from_one_to_zero_and_stays_near_noise() -> None:
    levels = flow.schedule(4, 5.0)
    assert flow.levels(4, 5.0) == tuple(levels.tolist())
    assert levels.dtype == torch.float32
    expected = [1.0, 0.9375, 5 / 6, 0.625, 0.0]  # t = 1000, 937.5, 833.3, 625 at shift 5
    torch.testing.assert_close(levels, torch.tensor(expected))
    with pytest.raises(ValueError, match="at least 1 step"):
        flow.schedule(0, 5.0)


def test_psnr_of_a_known_error() -> None:
    image = torch.zeros(2, 3, 8, 8)
    assert psnr_db(image + 0.2, image).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_blur_lowers_gradient_energy() -> None:
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert gradient_energy(blurred) < 0.5 * gradient_energy(image)


def test_texture_moved_a_little_costs_nothing_and_texture_lost_does() -> None:
    grass = torch.rand(1, 3, 32, 64).round()
    moved = grass.roll(8, -1)
    lawn = torch.full_like(grass, 0.5)
    assert losses.texture_l1(grass, grass) == 0
    assert losses.texture_l1(moved, grass) < 0.1 * losses.texture_l1(lawn, grass)
    assert torch.nn.functional.l1_loss(moved, grass) > 0.3


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40)
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    config = OptimizerConfig(
        learning_rate=1.0,
        muon_learning_rate=None,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        max_gradient_norm=1.0,
        warmup_steps=10,
        decay_from=0.5,
        final_factor=0.1,
    )
    assert config.factor(0, 0.0) == pytest.approx(0.1)
    assert config.factor(50, 0.4) == 1.0
    assert config.factor(99, 0.75) == pytest.approx(0.5)
    assert config.factor(99, 1.0) == pytest.approx(0.1)


def test_what_is_not_finite_is_seen() -> None:
    assert losses.is_finite(torch.ones(3), torch.zeros(1))
    assert not losses.is_finite(torch.ones(3), torch.tensor(float("nan")))


def test_muon_takes_a_convolution_kernel_as_one_matrix() -> None:
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 2, 3, 3).to(memory_format=torch.channels_last))
    before = kernel.detach().clone()
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=0.1, weight_decay=0.0).step()
    moved = (before - kernel.detach()).flatten(1) / (0.1 * 0.2 * 18**0.5)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.6 and values.max() < 1.3


def test_frames_that_do_not_count_are_not_learned() -> None:
    torch.manual_seed(0)
    predicted, x0, noise = (torch.randn(2, 3, 4, 5) for _ in range(3))
    counts = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    found = losses.flow_matching(predicted, x0, noise, counts)
    those = [torch.cat([x[0, 1:], x[1]]) for x in (predicted, x0, noise)]
    torch.testing.assert_close(found, losses.flow_matching(*(x[None] for x in those)))
    alike = losses.flow_matching(predicted, x0, noise, torch.ones(2, 3))
    torch.testing.assert_close(alike, losses.flow_matching(predicted, x0, noise))


def test_given_frames_have_little_noise_and_the_others_are_learned() -> None:
    """Those are the first, at most a quarter; the noise of the others is one level a clip."""
    config = FlowMatchingConfig(
        kind="flow_matching",
        history="full",
        noise_per="clip",
        shift=3.0,
        given_share=0.5,
        given_noise=0.01,
    )
    network, seen = tiny.transformer(), list[Tensor]()
    plain = network.forward

    def watched(latents: Tensor, sigma: Tensor, *others: Any) -> Tensor:
        seen.append(sigma)
        return plain(latents, sigma, *others)

    network.forward = watched  # type: ignore[method-assign, assignment]
    objective = FlowMatching(config, network, attend_all)
    b, f = 40, 8
    poses = torch.eye(4, dtype=torch.float64).expand(b, f, 4, 4)
    batch = LatentBatch(
        latents=torch.randn(b, f, 8, 4),
        camera_from_anchor=poses,
        intrinsics=torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(b, f, 4),
        time=torch.arange(f).float().expand(b, f),
        words=torch.zeros(b, 1),
    )
    objective.loss("student", batch, Moment(0, 0.0, torch.Generator().manual_seed(3)))
    (sigma,) = seen
    level = sigma[:, -1:]
    given = sigma < 0.01
    learned = given.logical_not()
    assert torch.equal(sigma[learned], level.expand_as(sigma)[learned])
    assert set(given.sum(1).tolist()) == {0, 1, 2}
    assert 10 < int(given[:, 0].sum()) < 30
    for row in given:
        assert row.tolist() == sorted(row.tolist(), reverse=True)


def test_only_a_bidirectional_stage_is_given_frames() -> None:
    keys: Any = {"kind": "flow_matching", "noise_per": "frame", "shift": 3.0, "given_share": 0.5}
    with pytest.raises(ValueError, match="history: clean gives all frames before"):
        FlowMatchingConfig(history="clean", **keys)
    with pytest.raises(ValueError, match=r"given_share lies in \[0, 1\]"):
        FlowMatchingConfig(history="full", **{**keys, "given_share": 1.5})
