"""The decoder against a critic of patches: who learns what from whom, and what the critic can see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill import losses
from distill.adversarial import AdversarialReconstruction, PatchCritic
from distill.batches import FrameBatch
from distill.features import Perception, Ruler
from distill.objectives import Moment
from distill.reconstruction import Reconstruction, ReconstructionConfig
from distill.stage_networks import build_networks
from distill.stage_objectives import build_objective
from distill.stages import load_stage
from tests.worldmodel import tiny
from worldmodel.autoencoder import Autoencoder, frames_to_float

STAGE = Path("configs/stage/nano/decoder-critic.yaml")
CONFIG = ReconstructionConfig(
    kind="reconstruction",
    gradient_weight=0.5,
    square_weight=0.5,
    latent_noise=0.0,
    part="decoder",
    adversarial_weight=1.0,
    critic_lead_steps=20,
    critic_widths=(8, 8),
)


def _autoencoder() -> Autoencoder:
    autoencoder = tiny.autoencoder()
    autoencoder.keep_latents()
    return autoencoder


def _critic() -> PatchCritic:
    torch.manual_seed(1)
    return PatchCritic(CONFIG.critic_widths)


def _objective(**changed: float) -> AdversarialReconstruction:
    autoencoder = _autoencoder()
    perception = Perception(autoencoder.encoder)
    return AdversarialReconstruction(replace(CONFIG, **changed), autoencoder, _critic(), perception)


def _batch() -> FrameBatch:
    random = torch.Generator().manual_seed(2)
    coarse = torch.randint(0, 256, (3, 8, 16, 3), generator=random, dtype=torch.uint8)
    return FrameBatch(coarse.repeat_interleave(4, 1).repeat_interleave(4, 2))


def _moment(step: int) -> Moment:
    return Moment(step, 0.0, torch.Generator().manual_seed(3))


def _touched(network: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in network.parameters())


def _board(rows: int, columns: int) -> Tensor:
    """Alternating pixels of -1 and 1: [1 1 rows columns]."""
    sign = torch.arange(rows)[:, None] + torch.arange(columns)
    return (1 - 2.0 * (sign % 2))[None, None]


@pytest.mark.parametrize("role", ["student", "critic"])
def test_gradients_reach_only_the_decoder_or_only_the_critic(role: str) -> None:
    objective = _objective(perceptual_weight=1.0)
    objective.loss(role, _batch(), _moment(50))[0].backward()
    student, critic = objective.trained["student"], objective.trained["critic"]
    assert isinstance(student, Autoencoder)
    assert _touched(student.decoder) == (role == "student")
    assert _touched(critic) == (role == "critic")
    assert not _touched(student.encoder)


def test_a_critic_learns_to_tell_a_faint_checkerboard_from_flat_pictures_in_a_few_dozen_steps() -> (
    None
):
    critic = _critic()
    optimizer = torch.optim.AdamW(critic.parameters(), 2e-3)
    random = torch.Generator().manual_seed(4)

    def flat_and_patterned() -> tuple[Tensor, Tensor]:
        colour = torch.rand(4, 3, 1, 1, generator=random) * 1.6 - 0.8
        flat = colour.expand(-1, -1, 32, 32)
        return flat, flat + 0.05 * _board(32, 32)

    for _ in range(40):
        flat, patterned = flat_and_patterned()
        optimizer.zero_grad()
        losses.relativistic(critic(flat), critic(patterned)).backward()
        optimizer.step()
    flat, patterned = flat_and_patterned()
    with torch.no_grad():
        assert (critic(flat) > critic(patterned)).float().mean() > 0.95


def test_an_opinion_is_of_a_patch_and_changes_nowhere_else() -> None:
    critic, frame = _critic(), torch.zeros(1, 3, 64, 64)
    changed = frame.clone()
    changed[..., 20, 20] = 1.0
    with torch.no_grad():
        different = (critic(changed) != critic(frame))[0]
    assert different[5, 5]
    assert not different[:, 10:].any() and not different[10:].any()


def test_a_critic_is_not_heard_before_it_has_learned_for_a_while() -> None:
    objective, plain = _objective(), Reconstruction(CONFIG, _autoencoder())
    early = objective.loss("student", _batch(), _moment(19))[0]
    assert torch.equal(early, plain.loss("student", _batch(), _moment(19))[0])
    assert objective.case(_moment(19)) != objective.case(_moment(20))
    assert objective.case(_moment(20)) == objective.case(_moment(99))
    assert objective.loss("student", _batch(), _moment(20))[0] != early


class Brightness(nn.Module):
    """A critic to whom the brighter pixel is the truer one; `scale` is how much it makes of that."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, frames: Tensor) -> Tensor:
        return self.scale * frames.mean(1)


def test_the_decoder_makes_more_of_what_its_critic_takes_for_truth() -> None:
    def brightness_after(weight: float) -> float:
        student = _autoencoder()
        config = replace(CONFIG, adversarial_weight=weight)
        objective = AdversarialReconstruction(config, student, Brightness(1.0))
        optimizer = torch.optim.SGD(student.decoder.parameters(), 0.02)
        for _ in range(3):
            optimizer.zero_grad()
            objective.loss("student", _batch(), _moment(50))[0].backward()
            optimizer.step()
        with torch.no_grad():
            return float(objective._plain.reconstructed(_batch(), _moment(50))[0].mean())

    assert brightness_after(3.0) > brightness_after(1.0) > brightness_after(0.0)


def test_a_critic_that_makes_more_of_the_same_difference_does_not_push_harder() -> None:
    def gradient(scale: float) -> Tensor:
        student = _autoencoder()
        objective = AdversarialReconstruction(CONFIG, student, Brightness(scale))
        objective.loss("student", _batch(), _moment(50))[0].backward()
        parts = [p.grad.flatten() for p in student.decoder.parameters() if p.grad is not None]
        return torch.cat(parts)

    torch.testing.assert_close(gradient(0.02), gradient(0.01), rtol=1e-2, atol=1e-4)


def test_a_push_has_the_direction_of_its_gradient_and_the_length_of_that_of_an_l1_loss() -> None:
    made = torch.randn(2, 3, 8, 8, requires_grad=True)
    asked = 1e-7 * torch.randn(2, 3, 8, 8)
    (pushed,) = torch.autograd.grad(losses.pushed(made, asked), made)
    (pulled,) = torch.autograd.grad(functional.l1_loss(made, torch.zeros_like(made)), made)
    assert float(pushed.norm()) == pytest.approx(float(pulled.norm()), rel=1e-4)
    together = functional.cosine_similarity(pushed.flatten(), asked.flatten(), dim=0)
    assert float(together) == pytest.approx(1.0, abs=1e-4)
    (still,) = torch.autograd.grad(losses.pushed(made, torch.zeros_like(made)), made)
    assert not still.any()


def test_the_relativistic_loss_asks_who_is_above_and_not_where() -> None:
    above, below = torch.full((2, 3), 5.0), torch.full((2, 3), -5.0)
    assert losses.relativistic(above, below) < 1e-3
    assert losses.relativistic(below, above) > 9
    assert torch.equal(losses.relativistic(above, below), losses.relativistic(above + 7, below + 7))


def test_the_perceptual_loss_is_the_rulers_distance_zero_for_equal_pictures_and_has_a_gradient() -> (
    None
):
    encoder = _autoencoder().encoder
    perceive, ruler = Perception(encoder), Ruler("tiny", encoder)
    true = frames_to_float(_batch().frames)
    assert float(perceive(true, true)) == 0.0
    seen = (0.5 * true).requires_grad_()
    distance = perceive(seen, true)
    torch.testing.assert_close(distance.detach(), ruler.distance(seen, true).mean())
    (gradient,) = torch.autograd.grad(distance, seen)
    nearer = seen.detach() - 0.01 * gradient / gradient.norm()
    assert perceive(nearer, true) < distance
    assert not _touched(encoder)


def test_the_stage_makes_a_critic_only_if_one_is_to_be_heard() -> None:
    stage, model = load_stage(STAGE, [])
    networks = build_networks(stage, model, None, None)
    assert isinstance(networks["critic"], PatchCritic)
    assert isinstance(build_objective(stage, model, networks), AdversarialReconstruction)
    alone = ["objective.adversarial_weight=0.0", "critic_optimizer=null"]
    stage, model = load_stage(STAGE, alone)
    networks = build_networks(stage, model, None, None)
    assert list(networks) == ["student"]
    assert isinstance(build_objective(stage, model, networks), Reconstruction)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("objective.adversarial_weight=0.0", "critic_optimizer belongs to"),
        ("critic_optimizer=null", "critic_optimizer belongs to"),
        ("objective.adversarial_weight=-1.0", "must not be negative"),
        ("objective.critic_widths=[]", "critic_widths needs an entry"),
        ("objective.part=all", "set part: decoder"),
        ("objective.critic_lead_steps=-1", "must not be negative"),
    ],
)
def test_what_does_not_fit_together_is_named(changed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_stage(STAGE, [changed])
