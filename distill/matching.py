"""Distribution matching: a few-step student is moved to where clips are likelier.

One objective, three histories that the student may see:

    self    stage 3: its own rollout through its own memory, judged by bidirectional scores
    noisy   the baseline of CausVid: noised true clips, no rollout, bidirectional scores
    clean   causal DMD, an initialisation: the true frames before each frame; so do both scores
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill import losses
from distill.batches import LatentBatch, send, spread
from distill.discriminator import seen_by
from distill.matching_config import DistributionMatchingConfig
from distill.networks import Transformer, device_of
from distill.objectives import (
    Metrics,
    Moment,
    guided_velocity,
    low_levels,
    noise_like,
    random_uniform,
    teacher_forced,
)
from distill.self_rollout import Plan, Player, self_rollout
from distill.streams import Stream, first_frames, from_middle
from worldmodel import flow
from worldmodel.attention import Attend, attend_all
from worldmodel.kv_cache import CacheConfig
from worldmodel.transformer import Geometry, WorldTransformer


@dataclass(frozen=True, slots=True)
class Task:
    """One rollout. Frames are counted in `clips`: first those that are there already."""

    clips: LatentBatch  # cameras and words of all frames; its latents are those that are there
    remembered: int  # so many of the last ones that are there the student remembers
    judged: Sequence[int]
    truth: Tensor | None  # [b n p c] of the judged ones; None where nobody knows
    walked: LatentBatch  # the whole clips, to go on in
    walked_to: int  # the next frame there

    @property
    def there(self) -> int:
        return self.clips.latents.shape[1]


@dataclass(frozen=True, slots=True)
class Made:
    """What the student made and scores are to judge."""

    latents: Tensor  # [b f p c]
    geometry: Geometry  # where from they are seen
    words: Tensor  # of them
    steps: Tensor  # [b f], the denoising step that each frame came out of
    places: Sequence[int] = ()  # of a rollout's frames, in order: how far apart they lie
    given: int = 0  # so many of the first ones were there already, and scores are given them
    truth: Tensor | None = None  # [b f p c], what is true there
    near: slice | None = None  # frames that were made right after true ones


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
        student: Transformer,
        critic: Transformer,
        teacher: Transformer,
        cache: CacheConfig,
        attend: Attend | None = None,
        discriminator: nn.Module | None = None,
        *,
        worse_teacher: Transformer | None = None,
        compiled: bool = False,
    ) -> None:
        """`attend` shows the student its history, where that is not its own rollout.

        `worse_teacher`: what the teacher is guided away from. `compiled`: whether rollouts are.
        """
        self.config, self.cache, self._compiled = config, cache, compiled
        self._critic = critic
        self.trained: dict[str, nn.Module] = {"student": student, "critic": critic}
        if discriminator is not None:
            self.trained["discriminator"] = discriminator
        self._plain: Transformer = student
        self._teacher = teacher.requires_grad_(False)
        self._worse = None if worse_teacher is None else worse_teacher.requires_grad_(False)
        self._attend = attend or attend_all
        self._levels = flow.schedule(config.student_steps, config.steps_shift)
        self._levels_there = self._levels.to(device_of(self._plain))
        self._first_levels = flow.schedule(config.first_frame_steps, config.steps_shift)
        self._player: Player | None = None  # made when the first batch shows how large it is
        self._streams: dict[int, Stream] = {}  # on their way, by the step that all their frames exit at
        self._judged: deque[Made] = deque()  # what the student was judged for; its critic learns it
        self._shown: Made | None = None  # what the critic saw last
        # how much of what it saw last its discriminator put below the truth; it is heard accordingly
        self._right = torch.full((), 0.5, device=device_of(self._plain))

    def due(self, step: int) -> Sequence[str]:
        """The discriminator comes after the critic, which made what both see."""
        learn = tuple(role for role in self.trained if role != "student")
        return learn if step % self.config.critic_updates else ("student", *learn)

    def case(self, moment: Moment) -> Hashable:  # noqa: ARG002
        # every rollout exits where its step says, and consists of captured graphs itself
        return None if self.config.history == "self" else "always"

    def state(self) -> dict[str, Tensor]:
        """The streams that are on their way, and how right the discriminator was."""
        streams = {
            f"{step}.{name}": tensor
            for step, stream in self._streams.items()
            for name, tensor in stream.tensors().items()
        }
        return streams | {"right": self._right}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._streams, streams = {}, dict(state)
        self._right = streams.pop("right", self._right)
        for step in sorted({int(name.partition(".")[0]) for name in streams}):
            own = {name: state[f"{step}.{name}"] for name in Stream.names()}
            self._streams[step] = Stream.of_tensors(own)

    def loss(self, role: str, batch: LatentBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        if role == "discriminator":
            return self._discrimination(batch, moment)
        if role == "critic" and self._judged:
            made = self._judged.popleft()
        else:
            with torch.set_grad_enabled(role == "student"):
                made = self._made(batch, moment)
        if role == "student" and self.config.history == "self":  # captured graphs remember nothing
            self._judged.append(replace(made, latents=made.latents.detach()))
        latents = made.latents
        sigma, given = self._noise_levels(latents, moment), made.given
        if given:
            low = low_levels(self.config.given_noise, latents, moment)
            sigma = torch.cat([low[:, :given], sigma[:, given:]], dim=1)
        noise = noise_like(latents, moment)
        noisy = flow.interpolate(latents.detach(), noise, sigma)

        def score(network: Transformer, words: Tensor) -> Tensor:
            return self._score(network, batch.latents.float(), noisy, sigma, words, made.geometry)

        if role == "critic":
            self._shown = replace(made, latents=latents.detach())
            predicted = score(self._critic, self._told_critic(made))
            new = [x[:, given:] for x in (predicted, latents.detach(), noise)]
            return losses.flow_matching(*new), {}
        with torch.no_grad():
            fake = score(self._critic, self._told_critic(made))
            real = self._real(score, made.words)
        real_x0 = flow.x0_from_velocity(noisy, real, sigma)
        fake_x0 = flow.x0_from_velocity(noisy, fake, sigma)
        loss = losses.distribution_matching(*(x[:, given:] for x in (latents, real_x0, fake_x0)))
        if self.config.truth_weight and made.near is not None and made.truth is not None:
            distance = functional.mse_loss(latents[:, made.near], made.truth[:, made.near])
            loss = loss + self.config.truth_weight * distance
        if "discriminator" in self.trained:
            weight = self.config.adversarial_weight * (2 * self._right - 1).clamp(min=0)
            loss = loss + weight * losses.pushed(latents, self._push(made, batch, moment))
        return loss, {}

    def _real(self, score: Callable[[Transformer, Tensor], Tensor], words: Tensor) -> Tensor:
        """What the teacher says, with its guidance."""
        led_away = None if self._worse is None else partial(score, self._worse)
        weights = self.config.guidance, led_away, self.config.autoguidance
        return guided_velocity(partial(score, self._teacher), words, *weights)

    def _told_critic(self, made: Made) -> Tensor:
        """The words it hears: [b v], or of one that knows steps [b f v+s], 1 at each frame's step."""
        if not self.config.critic_knows_step:
            return made.words
        (b, f), vocabulary = made.steps.shape, self._plain.config.vocabulary
        words = made.words if made.words.ndim == 3 else made.words[:, None].expand(b, f, -1)
        step = functional.one_hot(made.steps, self.config.student_steps).to(words.dtype)
        return torch.cat([words[..., : len(vocabulary)], step], dim=-1)

    def _discrimination(self, batch: LatentBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        """Of true clips, and of what the critic of the same step was shown."""
        assert self._shown is not None, "the critic comes first"
        sigma = self._level_shown(self._shown, moment)
        of_truth = self._opinion(self._truth_beside(self._shown, batch, moment), sigma, moment)
        of_made = self._opinion(self._shown, sigma, moment)
        self._right = (of_truth > of_made).float().mean()
        return losses.relativistic(of_truth, of_made), {"right": self._right}

    def _truth_beside(self, made: Made, batch: LatentBatch, moment: Moment) -> Made:
        """What is true where it was made; where nobody knows, other frames that are as far apart."""
        if made.truth is not None:
            return replace(made, latents=made.truth)
        apart = np.array(made.places) - made.places[0]
        # from the step alone, as all that decides which frames of a batch are read
        random = np.random.default_rng((moment.step, 1))
        frames = random.integers(batch.time.shape[1] - apart[-1]) + apart
        latents = batch.latents[:, send(torch.from_numpy(frames), batch.latents.device)].float()
        geometry, words = self._views(batch, frames.tolist())
        return replace(made, latents=latents, geometry=geometry, words=words)

    def _push(self, made: Made, batch: LatentBatch, moment: Moment) -> Tensor:
        """The gradient at its latents [b f p c] of looking less true; none reaches any weights."""
        seen, sigma = made.latents.detach().requires_grad_(), self._level_shown(made, moment)
        with torch.no_grad():
            of_truth = self._opinion(self._truth_beside(made, batch, moment), sigma, moment)
        with torch.enable_grad():
            of_made = self._opinion(replace(made, latents=seen), sigma, moment)
            (push,) = torch.autograd.grad(losses.relativistic(of_made, of_truth), seen)
        return push

    def _level_shown(self, made: Made, moment: Moment) -> Tensor:
        """The noise levels [b f] at which a pair is shown: who is noisier is no sign of anything."""
        return low_levels(self.config.discriminator_noise, made.latents, moment)

    def _opinion(self, clip: Made, sigma: Tensor, moment: Moment) -> Tensor:
        """Of every place, [b f p]."""
        noisy = flow.interpolate(clip.latents, noise_like(clip.latents, moment), sigma)
        assert isinstance(self._teacher, WorldTransformer), "checked when the stage was read"
        seen = seen_by(self._teacher, noisy, sigma, clip.words, clip.geometry)
        opinion: Tensor = self.trained["discriminator"](*seen)
        return opinion

    def _made(self, batch: LatentBatch, moment: Moment) -> Made:
        """What the student makes of its history."""
        if self.config.history == "self":
            return self._rollout(batch, moment)
        geometry = self._geometry(batch)
        x0, words = batch.latents.float(), batch.words
        shape, steps = x0.shape[:2], self.config.student_steps
        step = torch.randint(steps, shape, generator=moment.random, device=x0.device)
        sigma = self._levels_there[step]
        noisy = flow.interpolate(x0, noise_like(x0, moment), sigma)
        student = self.trained["student"]
        kernels = [self._attend] * self._plain.config.layers
        if self.config.history == "clean":
            velocity = teacher_forced(student, x0, noisy, sigma, words, geometry, kernels)
        else:
            velocity = student(noisy, sigma, words, geometry, kernels)
        return Made(flow.x0_from_velocity(noisy, velocity, sigma), geometry, words, step)

    def _geometry(self, batch: LatentBatch) -> Geometry:
        return self._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)

    def _rollout(self, batch: LatentBatch, moment: Moment) -> Made:
        """The last frames of a rollout, which are those with a gradient."""
        config = self.config
        # drawn from the step alone: all processes must exit alike, or the quick ones wait for the slow
        random = np.random.default_rng(moment.step)
        exit_step = int(random.integers(config.student_steps))
        first_exit_step = int(random.integers(config.first_frame_steps))
        task = self._task(batch, random, moment, exit_step)
        there, played_from = task.there, task.there - task.remembered
        plan = Plan(
            levels=self._levels.tolist(),
            exit_step=exit_step,
            first_levels=self._first_levels.tolist(),
            first_exit_step=first_exit_step,
            commit=config.commit,
            block_frames=config.block_frames,
            gradient_from=task.remembered + max(task.judged[0] - there, 0),
        )
        place, words = self._views(task.clips, range(played_from, task.clips.time.shape[1]))
        before = task.clips.latents.float()
        inputs = (place, words, before[:, played_from:], plan, moment.random)
        new = self_rollout(self.trained["student"], self._player_for(batch), *inputs)
        latents = torch.cat([before, new[:, task.remembered :]], dim=1)
        if config.stream_share:
            newest = latents[:, -self._kept :].detach()
            self._streams[exit_step] = Stream(task.walked, newest, task.walked_to)
        judged = latents[:, send(torch.tensor(list(task.judged)), latents.device)]
        steps = torch.full(judged.shape[:2], exit_step, device=judged.device)
        gives = config.given_share > 0 and random.random() < config.given_share
        given = sum(frame < there for frame in task.judged) if gives else 0
        views = self._views(task.clips, task.judged)
        begins_true = task.walked is batch and there > 0 and task.judged[0] == 0
        near = slice(there, there + config.truth_frames) if begins_true else None
        return Made(judged, *views, steps, list(task.judged), given, task.truth, near)

    def _task(
        self, batch: LatentBatch, random: np.random.Generator, moment: Moment, exit_step: int
    ) -> Task:
        """A rollout that begins with the batch, or one that goes on where the last one ended.

        The last one that exited at the same step: in play all frames take as many steps.
        """
        config, frames = self.config, batch.time.shape[1]
        known_frames = 0 if random.random() < config.invented_share else config.known_frames
        scored = config.scored_frames or frames
        start = int(random.integers(frames - scored + 1)) if not config.stream_share else 0
        goes_on = random.random() < config.stream_share
        if exit_step not in self._streams or not goes_on:
            clips = replace(
                first_frames(batch, start + scored), latents=batch.latents[:, :known_frames]
            )
            stop = start + scored
            true = batch.latents[:, start:stop].float()
            return Task(clips, known_frames, range(start, stop), true, batch, stop)
        # a quarter of what is judged is remembered: it shows whether the new frames go on from it
        stream, new = self._streams[exit_step], scored - scored // 4
        if stream.turns_within(new) and random.random() < config.stream_onward:
            stream = stream.onward(self._way_on(batch, moment))
        clips, there = stream.ahead(new), stream.made.shape[1]
        remembered = min(there, self.cache.window_frames)
        judged = list(range(there + new - scored, there + new))
        if config.spread_share and random.random() < config.spread_share:
            within = min(there + new, config.spread_frames)
            judged = spread(random, scored, within, there + new).tolist()
        truth = stream.truth([stream.position - there + frame for frame in judged])
        return Task(clips, remembered, judged, truth, stream.clips, stream.position + new)

    @property
    def _kept(self) -> int:
        """So many of its last frames a stream takes along."""
        config = self.config
        new = (config.scored_frames or 0) - (config.scored_frames or 0) // 4
        judged = config.spread_frames - new if config.spread_share else 0
        return max(self.cache.window_frames, judged)

    def _views(self, clips: LatentBatch, frames: Sequence[int]) -> tuple[Geometry, Tensor]:
        """Of some frames of clips, from an anchor where their middle one stands; and their words."""
        at = send(torch.tensor(list(frames)), clips.time.device)
        time = clips.time[:, at] - clips.time[:, at[:1]]
        cameras = from_middle(clips.camera_from_anchor[:, at])
        words = clips.words if clips.words.ndim == 2 else clips.words[:, at]
        return self._plain.geometry(cameras, clips.intrinsics[:, at], time), words

    def _way_on(self, batch: LatentBatch, moment: Moment) -> Tensor:
        """Cameras [b f 4 4] of the batch, or of walks; those are others on every process."""
        cameras, walks = batch.camera_from_anchor, self.config.stream_walks
        if walks is None:
            return cameras
        here = moment.random.device
        seed = int(torch.randint(2**31, (1,), generator=moment.random, device=here))
        return walks.draw(np.random.default_rng(seed), len(cameras)).to(cameras)

    def _player_for(self, batch: LatentBatch) -> Player:
        clips, frames = batch.time.shape
        if self.config.stream_share:
            scored = self.config.scored_frames or frames
            frames = max(scored, self.cache.window_frames + scored - scored // 4)
        if self._player is None or not self._player.fits(clips, frames):
            self._player = Player(
                self._plain, self.cache, clips=clips, frames=frames, compiled=self._compiled
            )
        return self._player

    def _score(
        self,
        network: Transformer,
        context: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        words: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        layers = network.config.layers  # it may have more than the student
        if self.config.causal_scores:
            kernels = [self._attend] * layers
            return teacher_forced(network, context, noisy, sigma, words, geometry, kernels)
        velocity: Tensor = network(noisy, sigma, words, geometry, [attend_all] * layers)
        return velocity

    def _noise_levels(self, made: Tensor, moment: Moment) -> Tensor:
        """One level per clip, as bidirectional scores know it, or per frame; shifted and clamped."""
        config, (b, f) = self.config, made.shape[:2]
        shape = (b, f if config.causal_scores else 1)
        level = flow.shift(random_uniform(shape, made, moment), config.shift)
        return level.clamp(config.lowest_level, config.highest_level).expand(b, f)
