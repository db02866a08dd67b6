"""Endpoint regression: the student jumps to where a stored path of the teacher ends.

clean   causal ODE: paths of the causal teacher; the student sees the true frames before each frame
noisy   bidirectional ODE: paths of the bidirectional teacher; the student sees noisy frames, as
        Self Forcing and CausVid begin
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from distill.batches import PathBatch
from distill.networks import Transformer
from distill.objectives import Metrics, Moment, teacher_forced
from worldmodel import flow
from worldmodel.attention import Attend


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRegressionConfig:
    """ODE distillation: few steps from stored paths (`python -m distill trajectories`)."""

    kind: Literal["endpoint_regression"]
    history: Literal["clean", "noisy"]
    level_per: Literal["clip", "frame"]  # all frames of a clip at one place on their paths, or not
    shift: float  # of the levels the paths were kept at


class EndpointRegression:
    """From any stored place on a path, the student says where the path ends.

    Source: the ODE initialisations of CausVid (arXiv 2412.07772) and Causal Forcing++ (arXiv
    2605.15141).
    """

    average_network = None

    def __init__(
        self, config: EndpointRegressionConfig, transformer: Transformer, attend: Attend
    ) -> None:
        """`attend` shows the history that the configuration names."""
        self.config = config
        self.trained = {"student": transformer}
        self._plain: Transformer = transformer
        self._kernels: list[Attend] = [attend] * self._plain.config.layers

    def due(self, step: int) -> Sequence[str]:  # noqa: ARG002 - the same at every step
        return ("student",)

    def case(self, moment: Moment) -> Hashable:  # noqa: ARG002 - the same at every step
        return "always"

    def loss(self, role: str, batch: PathBatch, moment: Moment) -> tuple[Tensor, Metrics]:
        geometry = self._plain.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
        noisy, sigma = self._places(batch, moment)
        network, words = self.trained[role], batch.words
        if self.config.history == "clean":
            context = batch.latents.float()
            velocity = teacher_forced(
                network, context, noisy, sigma, words, geometry, self._kernels
            )
        else:
            velocity = network(noisy, sigma, words, geometry, self._kernels)
        predicted = flow.x0_from_velocity(noisy, velocity, sigma)
        return functional.mse_loss(predicted, batch.paths[:, :, -1].float()), {}

    def _places(self, batch: PathBatch, moment: Moment) -> tuple[Tensor, Tensor]:
        """Latents [b f p c] somewhere on their paths, and their noise levels [b f]."""
        b, f, places = batch.paths.shape[:3]
        shape = (b, f if self.config.level_per == "frame" else 1)
        device = batch.paths.device
        index = torch.randint(places - 1, shape, generator=moment.random, device=device)
        index = index.expand(b, f)
        chosen = index[:, :, None, None, None].expand(b, f, 1, *batch.paths.shape[3:])
        levels = batch.levels.gather(1, index)
        return batch.paths.gather(2, chosen)[:, :, 0].float(), levels
