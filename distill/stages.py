"""The stages of training are rows of a table: a YAML file each, over one loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.lineage import ObjectiveConfig
from distill.matching_config import DistributionMatchingConfig
from distill.optimizers import OptimizerConfig
from distill.reconstruction import ReconstructionConfig
from worldmodel import config as strict
from worldmodel.autoencoder import AutoencoderConfig
from worldmodel.kv_cache import CacheConfig
from worldmodel.models import WanModelConfig
from worldmodel.transformer import TransformerConfig
from worldmodel.upscaler import UpscalerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A world model's architecture: `configs/model/*.yaml`."""

    autoencoder: AutoencoderConfig
    transformer: TransformerConfig
    cache: CacheConfig
    upscaler: UpscalerConfig | None = None  # of models whose frames are drawn larger


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage: `configs/stage/*.yaml`."""

    model: Path  # relative to the working directory
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    critic_optimizer: OptimizerConfig | None = None  # of objectives that have a critic
    discriminator_optimizer: OptimizerConfig | None = None  # of a discriminator, where there is one
    batch_size: int  # clips (or single frames) at once, per process
    accumulate: int = 1  # batches of which a step takes the mean gradient, one after another
    frames: int  # frames a clip; 1 for the autoencoder
    steps: int
    time_budget_s: float | None = None  # end early and on schedule when the steps do not fit
    time_reversal: float = 0.0
    prompt_dropout: float = 0.1
    # share of clips of which a quarter of the frames lie further back, within `spread_frames`
    spread_share: float = 0.0
    spread_frames: int = 64
    ema_decay: float = 0.999
    seed: int = 0
    compile: bool = True
    checkpoint_blocks: int = (
        0  # blocks whose insides are computed again for the backward pass, not kept
    )
    shard: bool = False  # spread weights and optimizer over the processes, instead of a copy each
    capture: bool = True  # on a GPU, repeat a step from a captured graph, which keeps its memory
    resident: bool = False  # autoencoder: keep the frames in GPU memory, spread over the processes
    checkpoint_every_s: float = 120.0
    sample_every: int = 0  # steps between pictures of what the student makes; 0: none
    tensorboard: bool = False  # also write the log for tensorboard

    def __post_init__(self) -> None:
        if has_critic(self.objective) != (self.critic_optimizer is not None):
            raise ValueError(
                "critic_optimizer belongs to distribution_matching and to reconstruction with an"
                " adversarial_weight, and to them alone"
            )
        if self.accumulate < 1 or self.checkpoint_blocks < 0:
            raise ValueError(
                "accumulate must be at least 1 and checkpoint_blocks not negative, got"
                f" {self.accumulate} and {self.checkpoint_blocks}"
            )
        self._refuse_what_cannot_be_sharded()
        self._refuse_to_spread_what_goes_on()
        if self.objective.kind == "distribution_matching":
            scored = self.objective.scored_frames
            if scored is not None and scored > self.frames:
                raise ValueError(f"scored_frames {scored} of a rollout of {self.frames} frames")
            if self.objective.adversarial_weight and self.accumulate > 1:
                raise ValueError("a discriminator sees one batch a step: accumulate must be 1")
        if self.objective.kind == "endpoint_regression" and (
            self.time_reversal or self.prompt_dropout
        ):
            raise ValueError(
                "endpoint_regression reads stored paths as they are: time_reversal and"
                " prompt_dropout belong to their trajectories, and must be 0 here"
            )

    def _refuse_to_spread_what_goes_on(self) -> None:
        if not self.spread_share:
            return
        objective = self.objective
        if objective.kind != "flow_matching" or objective.history != "full":
            raise ValueError(
                "spread_share is for flow_matching with history: full; others see one frame after the"
                " other (stage 3 has objective.spread_share)"
            )
        if not 0.0 < self.spread_share <= 1.0 or self.spread_frames <= self.frames:
            raise ValueError(
                f"spread_share must lie in [0, 1] and spread_frames be more than frames {self.frames},"
                f" got {self.spread_share} and {self.spread_frames}"
            )

    def _refuse_what_cannot_be_sharded(self) -> None:
        if not self.shard:
            return
        if self.capture:
            raise ValueError(
                "shard: weights that come and go cannot be captured; set capture: false"
            )
        if self.objective.kind == "reconstruction" or self.sample_every:
            raise ValueError(
                "shard is for transformers, and without samples: drop it or sample_every"
            )
        optimizers = self.optimizer, self.critic_optimizer, self.discriminator_optimizer
        if any(found is not None and found.muon_learning_rate is not None for found in optimizers):
            raise ValueError(
                "shard: Muon needs whole matrices; set muon_learning_rate: null for AdamW alone"
            )

    def optimizer_of(self, role: str) -> OptimizerConfig:
        if role == "student":
            return self.optimizer
        found = self.discriminator_optimizer if role == "discriminator" else self.critic_optimizer
        assert found is not None, "checked when the stage was read"
        return found

    @property
    def network_name(self) -> str:
        """Of the network that it leaves."""
        if not isinstance(self.objective, ReconstructionConfig):
            return "transformer"
        return "upscaler" if self.objective.part == "upscaler" else "autoencoder"

    @property
    def sees_frames(self) -> bool:
        """Single ones; a transformer sees clips of latents."""
        return isinstance(self.objective, ReconstructionConfig)


def has_critic(objective: ObjectiveConfig) -> bool:
    if isinstance(objective, ReconstructionConfig):
        return objective.adversarial_weight > 0
    return isinstance(objective, DistributionMatchingConfig)


def has_discriminator(objective: ObjectiveConfig) -> bool:
    return isinstance(objective, DistributionMatchingConfig) and objective.adversarial_weight > 0


AnyModel = ModelConfig | WanModelConfig


def load_stage(path: Path, overrides: list[str]) -> tuple[StageConfig, AnyModel]:
    """A stage and the model it names.

    Raises:
        ValueError: if one of them is wrong, or the stage asks what Wan cannot do.
    """
    stage = strict.load(path, StageConfig, overrides)
    if "playable" not in strict.top_keys(stage.model):
        if has_discriminator(stage.objective) and stage.discriminator_optimizer is None:
            raise ValueError(f"{path}: adversarial_weight needs a discriminator_optimizer")
        return stage, strict.load(stage.model, ModelConfig)
    try:
        _check_wan(stage)
    except ValueError as error:
        raise ValueError(f"{path}: {stage.model} is a Wan model: {error}") from error
    return stage, strict.load(stage.model, WanModelConfig)


def _check_wan(stage: StageConfig) -> None:
    if stage.objective.kind in ("reconstruction", "endpoint_regression"):
        raise ValueError(f"no {stage.objective.kind} stage trains one")
    if has_discriminator(stage.objective):
        raise ValueError(
            "adversarial_weight must be 0: a discriminator knows words, not embeddings"
        )
    if isinstance(stage.objective, DistributionMatchingConfig) and stage.objective.critic_knows_step:
        raise ValueError("critic_knows_step must be false: steps are words, not embeddings")
    if stage.time_reversal:
        raise ValueError("time_reversal must be 0: a latent holds four frames, the first one")
    if stage.spread_share:
        raise ValueError("spread_share must be 0: its clips are read from their beginning")
    if stage.sample_every:
        raise ValueError("sample_every must be 0: its decoder is no autoencoder of ours")
    for optimizer in (stage.optimizer, stage.critic_optimizer, stage.discriminator_optimizer):
        if optimizer is not None and optimizer.muon_learning_rate is not None:
            raise ValueError("muon_learning_rate must be null: it was trained with AdamW")
