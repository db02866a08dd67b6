"""Distribution matching: a few-step student is moved to where clips are likelier.

One objective, three histories that the student may see:

    self    stage 3: its own rollout through its own memory, judged by bidirectional scores
    noisy   the baseline of CausVid: noised true clips, no rollout, bidirectional scores
    clean   causal DMD, an initialisation: the true frames before each frame; so do both scores
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from distill import losses
from distill.batches import LatentBatch
from distill.objectives import (
    Metrics,
    Moment,
    guided_by_words,
    noise_like,
    random_uniform,
    teacher_forced,
)
from distill.self_rollout import Plan, Player, self_rollout
from worldmodel import flow
from worldmodel.attention import Attend, attend_all
from worldmodel.kv_cache import CacheConfig
from worldmodel.sampler import Commit
from worldmodel.transformer import Geometry, WorldTransformer, words_at


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionMatchingConfig:
    """A student against the difference of two scores, the teacher's and the critic's."""

    kind: Literal["distribution_matching"]
    history: Literal["self", "noisy", "clean"] = (
        "self"  # what the student sees; see the file's head
    )
    student_steps: int  # denoising steps of the student
    shift: float  # of the student's steps and of the noise levels at which scores are compared
    critic_updates: int  # of the fake score, for each update of the student
    guidance: float = 1.0  # of the real score, over its prediction without words; 1: none
    lowest_level: float = 0.02
    highest_level: float = 0.98
    # of the student's own rollout, history: self
    known_frames: int = 1  # true frames it begins with; 0: it begins with the student's own
    invented_share: float = 0.0  # share of rollouts that begin with no true frame all the same
    first_frame_steps: int = 4  # of a frame that begins a world without a picture
    block_frames: int = 1  # frames that are made together
    commit: Commit = "clean"  # who writes the memory; "own": the last denoising step, as in play
    scored_frames: int | None = None  # only the last ones, of a rollout of random length; None: all

    def __post_init__(self) -> None:
        for name in ("student_steps", "first_frame_steps", "block_frames", "critic_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.known_frames < 0 or not 0.0 <= self.invented_share <= 1.0:
            raise ValueError(
                "known_frames must not be negative and invented_share must lie in [0, 1], got"
                f" {self.known_frames} and {self.invented_share}"
            )
        if not 0.0 < self.lowest_level < self.highest_level < 1.0:
            raise ValueError(
                f"noise levels must rise inside (0, 1), got {self.lowest_level}"
                f" to {self.highest_level}"
            )
        if self.scored_frames is not None and self.scored_frames <= self.known_frames:
            raise ValueError(
                f"scored_frames must be more than known_frames, got {self.scored_frames} and"
                f" {self.known_frames}"
            )
        self._refuse_rollout_keys_without_a_rollout()

    def _refuse_rollout_keys_without_a_rollout(self) -> None:
        names = [field.name for field in fields(self)]
        of_rollouts = names[names.index("known_frames") :]
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in of_rollouts if getattr(self, name) != defaults[name]]
        if self.history != "self" and changed:
            raise ValueError(f"history: {self.history} has no rollout; drop {', '.join(changed)}")

    @property
    def causal_scores(self) -> bool:
        """Whether teacher and critic see the true frames before each frame, or the whole clip."""
        return self.history == "clean"


class DistributionMatching:
    """The student is moved from where its critic thinks it is to where the teacher thinks clips are.

    The real score is the frozen teacher; the critic learns the score of what the student makes. Their
    difference at a random noise level is the student's gradient.
    Source: DMD (arXiv 2311.18828), equations 7 and 8; Self Forcing (arXiv 2506.08009); CausVid
    (arXiv 2412.07772); Causal Forcing++ (arXiv 2605.15141), equation 7 for causal scores.
    """

    average_network = None

    def __init__(
        self,
        config: DistributionMatchingConfig,
        student: WorldTransformer,
        critic: nn.Module,
        teacher: WorldTransformer,
        cache: CacheConfig,
        attend: Attend | None = None,
    ) -> None:
        """`attend` shows the student its history, where that is not its own rollout."""
        self.config, self.cache = config, cache
        self.trained = {"student": student, "critic": critic}
        self._plain: WorldTransformer = student
        self._teacher = teacher.requires_grad_(False)
        self._kernels = [attend or attend_all] * self._plain.config.layers
        self._all = [attend_all] * self._plain.config.layers
        self._levels = flow.schedule(config.student_steps, config.shift)
        self._levels_there = self._levels.to(self._plain.position.device)
        self._first_levels = flow.schedule(config.first_frame_steps, config.shift)
        self._player: Player | None = None  # made when the first batch shows how large it is

    def due(self, step: int) -> Sequence[str]:
        return ("critic",) if step % self.config.critic_updates else ("student", "critic")

    def case(self, moment: Moment) -> Hashable:  # noqa: ARG002
        # every rollout exits where its step says, and consists of captured graphs itself
        return None if self.config.history == "self" else "always"

    def loss(self, role: str, batch: LatentBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        geometry = self._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
        with torch.set_grad_enabled(role == "student"):
            made, geometry, asked = self._made(batch, geometry, moment)
        sigma = self._noise_levels(made, moment)
        noise = noise_like(made, moment)
        noisy = flow.interpolate(made.detach(), noise, sigma)

        def score(network: nn.Module, words: Tensor) -> Tensor:
            return self._score(network, batch.latents.float(), noisy, sigma, words, geometry)

        if role == "critic":
            predicted = score(self.trained["critic"], asked)
            return losses.flow_matching(predicted, made.detach(), noise), {}
        with torch.no_grad():
            fake = score(self.trained["critic"], asked)
            guidance = self.config.guidance
            real = guided_by_words(lambda words: score(self._teacher, words), asked, guidance)
        real_x0 = flow.x0_from_velocity(noisy, real, sigma)
        fake_x0 = flow.x0_from_velocity(noisy, fake, sigma)
        return losses.distribution_matching(made, real_x0, fake_x0), {}

    def _made(
        self, batch: LatentBatch, geometry: Geometry, moment: Moment
    ) -> tuple[Tensor, Geometry, Tensor]:
        """What the student makes of its history, [b f p c], where that is seen from, and its words."""
        if self.config.history == "self":
            return self._rollout(batch, geometry, moment)
        x0, words = batch.latents.float(), batch.words
        shape, steps = x0.shape[:2], self.config.student_steps
        step = torch.randint(steps, shape, generator=moment.random, device=x0.device)
        sigma = self._levels_there[step]
        noisy = flow.interpolate(x0, noise_like(x0, moment), sigma)
        student = self.trained["student"]
        if self.config.history == "clean":
            velocity = teacher_forced(student, x0, noisy, sigma, words, geometry, self._kernels)
        else:
            velocity = student(noisy, sigma, words, geometry, self._kernels)
        return flow.x0_from_velocity(noisy, velocity, sigma), geometry, words

    def _rollout(
        self, batch: LatentBatch, geometry: Geometry, moment: Moment
    ) -> tuple[Tensor, Geometry, Tensor]:
        """The last frames of a rollout, which are those with a gradient."""
        config, frames = self.config, batch.latents.shape[1]
        # drawn from the step alone: all processes must exit alike, or the quick ones wait for the slow
        random = np.random.default_rng(moment.step)
        exit_step = int(random.integers(config.student_steps))
        first_exit_step = int(random.integers(config.first_frame_steps))
        known_frames = 0 if random.random() < config.invented_share else config.known_frames
        scored = config.scored_frames or frames
        start = int(random.integers(frames - scored + 1))
        plan = Plan(
            levels=self._levels.tolist(),
            exit_step=exit_step,
            first_levels=self._first_levels.tolist(),
            first_exit_step=first_exit_step,
            commit=config.commit,
            block_frames=config.block_frames,
            gradient_from=start,
        )
        player = self._player_for(batch.words, geometry)
        known, place = batch.latents[:, :known_frames].float(), geometry.frames(0, start + scored)
        inputs = (place, batch.words, known, plan, moment.random)
        made = self_rollout(self.trained["student"], player, *inputs)
        asked = words_at(batch.words, start, start + scored)
        return made[:, start:], place.frames(start, start + scored), asked

    def _player_for(self, words: Tensor, geometry: Geometry) -> Player:
        if self._player is None or not self._player.fits(words, geometry):
            clips, frames = len(words), geometry.matrix.shape[1]
            blocks = self.config.block_frames
            self._player = Player(
                self._plain, self.cache, clips=clips, frames=frames, block_frames=blocks
            )
        return self._player

    def _score(
        self,
        network: nn.Module,
        context: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        words: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        if self.config.causal_scores:
            return teacher_forced(network, context, noisy, sigma, words, geometry, self._kernels)
        velocity: Tensor = network(noisy, sigma, words, geometry, self._all)
        return velocity

    def _noise_levels(self, made: Tensor, moment: Moment) -> Tensor:
        """One level per clip, as bidirectional scores know it, or per frame; shifted and clamped."""
        config, (b, f) = self.config, made.shape[:2]
        shape = (b, f if config.causal_scores else 1)
        level = flow.shift(random_uniform(shape, made, moment), config.shift)
        return level.clamp(config.lowest_level, config.highest_level).expand(b, f)
