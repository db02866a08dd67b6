"""Pictures during training: what the student makes of the same clips every so many steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from distill.batches import FrameBatch, LatentBatch
from distill.lineage import history_of
from distill.matching_config import DistributionMatchingConfig
from distill.objectives import FlowMatchingConfig
from distill.optimizers import ExponentialAverage
from distill.reconstruction import ReconstructionConfig
from distill.rollout import Views, rollout
from distill.stage_networks import build_network
from distill.stages import ModelConfig, StageConfig
from worldmodel import flow
from worldmodel.attention import attend_all
from worldmodel.autoencoder import Autoencoder, frames_to_float, frames_to_uint8
from worldmodel.checkpoint import RolloutConfig
from worldmodel.transformer import WorldTransformer

TEACHER_STEPS = 16  # of networks that are not distilled
COLUMNS, ROWS, SEED = 8, 4, 0


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Writes `samples/STEP.png`: truth above, below it what the averaged weights make."""

    stage: StageConfig
    model: ModelConfig
    autoencoder: Autoencoder | None  # to show latents with; not needed to train an autoencoder
    batch: Any  # on the device; its first clips are shown
    out: Path

    def __post_init__(self) -> None:
        if self.autoencoder is None and self.stage.network_name == "transformer":
            raise ValueError("sample_every: pictures of latents need --autoencoder, a run folder")

    def write(self, average: ExponentialAverage, trained: nn.Module, step: int) -> Path:
        """Draw one sheet; neither weights nor random numbers of the training are touched."""
        network = build_network(self.stage, self.model, None).to(average.weights[0].device)
        average.copy_to(network.eval())
        statistics = dict(trained.named_buffers())  # of latents; no average is made of them
        for name, buffer in network.named_buffers():
            buffer.copy_(statistics[name])
        truth, made = self._frames(network)
        path = self.out / "samples" / f"{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet(truth, made)).save(path)
        return path

    @torch.no_grad()
    def _frames(self, network: Any) -> tuple[Tensor, Tensor]:
        """Truth and samples, uint8 [rows columns H W 3]."""
        if isinstance(self.batch, FrameBatch):
            # as in training: until it is calibrated, the statistics of latents are those of the batch
            frames = frames_to_float(self.batch.frames)
            made = network(frames, frames.new_zeros(1))
            return self.batch.frames[None, :COLUMNS], frames_to_uint8(made[:COLUMNS])[None]
        batch = _first(self.batch)
        assert self.autoencoder is not None
        made = sample(self.stage, self.model, network, self.autoencoder, batch)
        return self._decode(batch.latents.float()), self._decode(made)

    def _decode(self, latents: Tensor) -> Tensor:
        assert self.autoencoder is not None
        frames = latents.shape[1]
        chosen = np.linspace(0, frames - 1, min(COLUMNS, frames)).round().astype(int).tolist()
        decoder = self.autoencoder.to(latents.device).eval()
        return torch.stack([frames_to_uint8(decoder.decode(clip[chosen])) for clip in latents])


@torch.no_grad()
def sample(
    stage: StageConfig,
    model: ModelConfig,
    network: WorldTransformer,
    autoencoder: Autoencoder,
    batch: LatentBatch,
) -> Tensor:
    """Latents [b f p c] as the stage's network makes them along the cameras of `batch`.

    A bidirectional network makes the whole clip from noise, a causal one continues the first frame.
    """
    objective = stage.objective
    if isinstance(objective, FlowMatchingConfig) and history_of(objective) == "full":
        return _whole_clip(network, batch, objective.shift)
    views = Views(cameras=batch.camera_from_anchor, intrinsics=batch.intrinsics, words=batch.words)
    start, how = batch.latents[:, :1].float(), rollout_of(stage)
    return rollout(network, autoencoder, model.cache, start, views, how=how, seed=SEED)


def rollout_of(stage: StageConfig) -> RolloutConfig:
    """How the student of a stage is to be sampled."""
    objective = stage.objective
    assert not isinstance(objective, ReconstructionConfig)
    if isinstance(objective, FlowMatchingConfig):
        steps = TEACHER_STEPS
        return RolloutConfig(steps=steps, first_frame_steps=steps, shift=objective.shift)
    if isinstance(objective, DistributionMatchingConfig):
        return RolloutConfig(
            steps=objective.student_steps,
            first_frame_steps=objective.first_frame_steps,
            shift=objective.steps_shift,
            solver="consistency",
            commit=objective.commit,
        )
    return RolloutConfig(steps=4, first_frame_steps=4, shift=objective.shift, solver="consistency")


def _whole_clip(network: WorldTransformer, batch: LatentBatch, shift: float) -> Tensor:
    geometry = network.geometry(batch.camera_from_anchor, batch.intrinsics, batch.time)
    kernels = [attend_all] * network.config.layers
    device = batch.words.device
    noise = torch.Generator(device).manual_seed(SEED)
    latent = torch.randn(batch.latents.shape, generator=noise, device=device)
    levels = flow.schedule(TEACHER_STEPS, shift).to(device).expand(len(latent), -1)
    for step in range(TEACHER_STEPS):
        sigma, to = (levels[:, i : i + 1].expand(latent.shape[:2]) for i in (step, step + 1))
        velocity = network(latent, sigma, batch.words, geometry, kernels)
        latent = flow.euler_step(latent, velocity, sigma, to)
    return latent


def sheet(truth: Tensor, made: Tensor) -> NDArray[np.uint8]:
    """Frames uint8 [rows columns H W 3] as one picture: for every row truth above, made below."""
    both = torch.stack([truth, made], dim=1)
    picture: NDArray[np.uint8] = rearrange(both, "r k c h w x -> (r k h) (c w) x").cpu().numpy()
    return picture


def _first(batch: LatentBatch) -> LatentBatch:
    """The first clips of a batch, without the paths it may carry."""
    names = ("latents", "camera_from_anchor", "intrinsics", "time", "words")
    return LatentBatch(**{name: getattr(batch, name)[:ROWS] for name in names})
