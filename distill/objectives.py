"""What a stage teaches: each objective returns `(loss, metrics)` for the roles that are due.

Objectives receive constructed networks. They neither load, wrap, freeze nor save anything, so one
training loop serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill import losses
from distill.batches import LatentBatch
from distill.networks import Transformer, device_of
from worldmodel import flow
from worldmodel.attention import Attend
from worldmodel.transformer import Geometry

Metrics = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where training stands. All randomness of a step comes from `random`, so it can be resumed."""

    step: int
    progress: float  # 0 at the first step, 1 at the last
    random: torch.Generator


class Objective(Protocol):
    @property
    def trained(self) -> Mapping[str, nn.Module]: ...  # role -> network with an optimizer

    @property
    def average_network(self) -> nn.Module | None: ...  # runs with the student's running average

    def due(self, step: int) -> Sequence[str]: ...  # roles updated now, in order

    def loss(self, role: str, batch: Any, moment: Moment) -> tuple[Tensor, Metrics]: ...

    def case(self, moment: Moment) -> Hashable:
        """What of the moment decides which kernels a loss is: as long as it stays, a captured graph
        serves. None: every step is different."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """An objective that takes something along from step to step; a resumed run needs it, too."""

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowMatchingConfig:
    """Train the transformer to predict velocities."""

    kind: Literal["flow_matching"]
    history: Literal["full", "clean"]  # bidirectional, or teacher forcing
    noise_per: Literal["clip", "frame"]  # one noise level for all frames of a clip, or one each
    shift: float
    context_noise: float = 0.0  # largest noise level mixed into the clean history
    own_context_share: float = 0.0  # share of clips whose history is the model's own reconstruction
    own_context_from: float = 1.0  # training progress at which that begins
    # share of clips, history: full, whose first frames are given: up to a quarter of them, with little
    # noise and not learned; so the others are learned as what belongs to those
    given_share: float = 0.0
    given_noise: float = 0.2  # its largest level

    def __post_init__(self) -> None:
        if not 0.0 <= self.given_share <= 1.0 or not 0.0 <= self.given_noise < 1.0:
            raise ValueError(
                "given_share lies in [0, 1] and given_noise in [0, 1), got"
                f" {self.given_share} and {self.given_noise}"
            )
        if self.history != "full" and self.given_share:
            raise ValueError(f"history: {self.history} gives all frames before; drop given_share")
        if self.history == "full" and (self.context_noise or self.own_context_share):
            raise ValueError(
                "history: full has no separate context; drop context_noise and own_context_share"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyConfig:
    """Causal consistency distillation: few steps from a multi-step autoregressive teacher."""

    kind: Literal["consistency"]
    grid_steps: int  # of the teacher's grid of noise levels; a multiple of the student's steps
    shift: float
    guidance: float = 1.0  # of the teacher, over its prediction without words; 1: none

    def __post_init__(self) -> None:
        if self.grid_steps < 2:
            raise ValueError(f"grid_steps must be at least 2, got {self.grid_steps}")


class FlowMatching:
    average_network = None

    def __init__(
        self, config: FlowMatchingConfig, transformer: Transformer, attend: Attend
    ) -> None:
        """`attend` shows the history that the configuration names."""
        self.config = config
        self.trained = {"student": transformer}
        self._plain: Transformer = transformer
        self._kernels = [attend] * self._plain.config.layers

    def due(self, step: int) -> Sequence[str]:  # noqa: ARG002 - the same at every step
        return ("student",)

    def case(self, moment: Moment) -> Hashable:
        return "own context" if self._owns_context(moment) else "true context"

    def loss(
        self,
        role: str,  # noqa: ARG002 - it has one role only
        batch: LatentBatch,
        moment: Moment,
    ) -> tuple[Tensor, Metrics]:
        x0 = batch.latents.float()
        geometry = self._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
        context = self._context(x0, batch.words, geometry, moment)
        sigma = self._noise_levels(x0, moment)
        given = self._given(x0, moment) if self.config.given_share else None
        if given is not None:
            sigma = torch.where(given, low_levels(self.config.given_noise, x0, moment), sigma)
        noise = noise_like(x0, moment)
        noisy = flow.interpolate(x0, noise, sigma)
        predicted = self._predict(context, noisy, sigma, batch.words, geometry)
        counts = None if given is None else (~given).float()
        return losses.flow_matching(predicted, x0, noise, counts), {}

    def _given(self, x0: Tensor, moment: Moment) -> Tensor:
        """Which frames are, bool [b f]: of some clips the first one, or up to a quarter of all."""
        b, f = x0.shape[:2]
        chosen = random_uniform((b, 1), x0, moment) < self.config.given_share
        count = 1 + (random_uniform((b, 1), x0, moment) * max(f // 4, 1)).floor()
        return chosen & (torch.arange(f, device=x0.device) < count)

    def _predict(
        self,
        context: Tensor | None,
        noisy: Tensor,
        sigma: Tensor,
        words: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        network, kernels = self.trained["student"], self._kernels
        if context is None:
            out: Tensor = network(noisy, sigma, words, geometry, kernels)
            return out
        return teacher_forced(network, context, noisy, sigma, words, geometry, kernels)

    def _context(
        self, x0: Tensor, words: Tensor, geometry: Geometry, moment: Moment
    ) -> Tensor | None:
        """The history the student sees: a little noisy, and late in training partly its own."""
        if self.config.history == "full":
            return None
        level = self.config.context_noise * random_uniform(x0.shape[:2], x0, moment)
        context = flow.interpolate(x0, noise_like(x0, moment), level)
        if not self._owns_context(moment):
            return context
        sigma = 0.2 + 0.7 * random_uniform(x0.shape[:2], x0, moment)
        noisy = flow.interpolate(x0, noise_like(x0, moment), sigma)
        with torch.no_grad():
            predicted = self._predict(context, noisy, sigma, words, geometry)
        own = flow.x0_from_velocity(noisy, predicted, sigma)
        chosen = random_uniform((len(x0), 1, 1, 1), x0, moment) < self.config.own_context_share
        return torch.where(chosen, own, context)

    def _owns_context(self, moment: Moment) -> bool:
        begun = moment.progress >= self.config.own_context_from
        return begun and self.config.own_context_share > 0

    def _noise_levels(self, x0: Tensor, moment: Moment) -> Tensor:
        b, f = x0.shape[:2]
        u = random_uniform((b, f if self.config.noise_per == "frame" else 1), x0, moment)
        return flow.shift(u, self.config.shift).expand(b, f)


class Consistency:
    """Causal CD: the student jumps from every noise level to where the teacher's path would end.

    One Euler step of the frozen teacher leads from sigma to the next lower level of its grid; there the
    student's own running average says where the path ends, and the student must say the same from
    sigma. The last pair ends at level 0, where the answer is the latent itself: it ties everything to
    the teacher's data. All three see the true frames before each frame.
    Source: Causal Forcing++ (arXiv 2605.15141), equation 3; Song et al. 2023 (arXiv 2303.01469).
    """

    def __init__(
        self,
        config: ConsistencyConfig,
        transformer: Transformer,
        teacher: Transformer,
        average: Transformer,
        attend: Attend,
    ) -> None:
        """`average` gets the student's weights here and is kept at their running average."""
        self.config = config
        self.trained = {"student": transformer}
        self._plain: Transformer = transformer
        self.average_network: Transformer = average.requires_grad_(False)
        average.load_state_dict(self._plain.state_dict())
        self._teacher = teacher.requires_grad_(False)
        grid = flow.schedule(config.grid_steps, config.shift)
        self._grid = grid.to(device_of(self._plain))
        self._kernels: list[Attend] = [attend] * self._plain.config.layers

    def due(self, step: int) -> Sequence[str]:  # noqa: ARG002 - the same at every step
        return ("student",)

    def case(self, moment: Moment) -> Hashable:  # noqa: ARG002 - the same at every step
        return "always"

    def loss(
        self,
        role: str,
        batch: LatentBatch,
        moment: Moment,
    ) -> tuple[Tensor, Metrics]:
        x0, words = batch.latents.float(), batch.words
        geometry = self._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
        # a pair of levels for every frame: it sees clean frames only, so they need not agree
        shape = tuple(x0.shape[:2])
        index = torch.randint(
            self.config.grid_steps, shape, generator=moment.random, device=x0.device
        )
        sigma, lower = self._grid[index], self._grid[index + 1]
        noisy = flow.interpolate(x0, noise_like(x0, moment), sigma)
        with torch.no_grad():
            velocity = self._teacher_velocity(x0, noisy, sigma, words, geometry)
            stepped = flow.euler_step(noisy, velocity, sigma, lower)
            target = self._end(self.average_network, x0, stepped, lower, words, geometry)
        predicted = self._end(self.trained[role], x0, noisy, sigma, words, geometry)
        return functional.mse_loss(predicted, target), {}

    def _end(
        self,
        network: nn.Module,
        context: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        words: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        """Where the path through `noisy` ends, by `network`; at level 0 that is `noisy` itself."""
        velocity = teacher_forced(network, context, noisy, sigma, words, geometry, self._kernels)
        return flow.x0_from_velocity(noisy, velocity, sigma)

    def _teacher_velocity(
        self, context: Tensor, noisy: Tensor, sigma: Tensor, words: Tensor, geometry: Geometry
    ) -> Tensor:
        def velocity(asked: Tensor) -> Tensor:
            inputs = (context, noisy, sigma, asked, geometry)
            return teacher_forced(self._teacher, *inputs, self._kernels)

        return guided_velocity(velocity, words, self.config.guidance)


def guided(without: Tensor, with_words: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): 0 gives the first, 1 the second."""
    return without + guidance * (with_words - without)


def guided_velocity(
    velocity: Callable[[Tensor], Tensor],
    words: Tensor,
    guidance: float,
    worse: Callable[[Tensor], Tensor] | None = None,
    autoguidance: float = 1.0,
) -> Tensor:
    """`velocity(words)`, away from what it is without words and from what a `worse` network says.

    The camera stays in all passes; only the words are left out. Both weights are 1 for no change.
    Source: classifier-free guidance (arXiv 2207.12598); autoguidance (arXiv 2406.02507), where the worse
    one is of the same kind and makes the same mistakes, only more of them.
    """
    with_words = velocity(words)
    found = with_words
    if guidance != 1.0:
        found = guided(velocity(torch.zeros_like(words)), with_words, guidance)
    if worse is not None and autoguidance != 1.0:
        found = found + (autoguidance - 1.0) * (with_words - worse(words))
    return found


def teacher_forced(
    network: nn.Module,
    context: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    words: Tensor,
    geometry: Geometry,
    kernels: Sequence[Attend],
) -> Tensor:
    """Velocities of `noisy` [b f p c] when every frame sees only the `context` frames before it."""
    latents = torch.cat([context, noisy], dim=1)
    sigmas = torch.cat([torch.zeros_like(sigma), sigma], dim=1)
    if words.ndim == 3:
        words = torch.cat([words, words], dim=1)
    both: Tensor = network(latents, sigmas, words, geometry.twice(), kernels)
    return both[:, context.shape[1] :]


def low_levels(highest: float, like: Tensor, moment: Moment) -> Tensor:
    """A noise level up to `highest` for each clip of `like` [b f p c], of all its frames: [b f]."""
    b, f = like.shape[:2]
    return highest * random_uniform((b, 1), like, moment).expand(b, f)


def random_uniform(shape: Sequence[int], like: Tensor, moment: Moment) -> Tensor:
    """Uniform in [0, 1), on the device of `like`."""
    return torch.rand(tuple(shape), generator=moment.random, device=like.device)


def noise_like(x: Tensor, moment: Moment) -> Tensor:
    """Standard normal, of the shape and on the device of `x`."""
    return torch.randn(x.shape, generator=moment.random, device=x.device)
