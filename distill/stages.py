"""The stages of training are rows of a table: a YAML file each, over one loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill import lineage
from distill.batches import (
    Batches,
    FrameBatches,
    LatentBatches,
    PathBatches,
    ResidentFrameBatches,
)
from distill.clips import ClipSet
from distill.histories import NoisyHistory
from distill.lineage import ObjectiveConfig
from distill.matching import DistributionMatching, DistributionMatchingConfig
from distill.objectives import (
    Consistency,
    ConsistencyConfig,
    FlowMatching,
    Objective,
    Reconstruction,
    ReconstructionConfig,
)
from distill.optimizers import OptimizerConfig
from distill.processes import Processes
from distill.regression import EndpointRegression, EndpointRegressionConfig
from worldmodel import config as strict
from worldmodel.attention import Attend, TeacherForcing, attend_all
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.checkpoint import assign, load_tensors
from worldmodel.kv_cache import CacheConfig
from worldmodel.transformer import TransformerConfig, WorldTransformer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A world model's architecture: `configs/model/*.yaml`."""

    autoencoder: AutoencoderConfig
    transformer: TransformerConfig
    cache: CacheConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage: `configs/stage/*.yaml`."""

    model: Path  # relative to the working directory
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    critic_optimizer: OptimizerConfig | None = None  # distribution matching only
    batch_size: int  # clips (or single frames) at once, per process
    accumulate: int = 1  # batches of which a step takes the mean gradient, one after another
    frames: int  # frames a clip; 1 for the autoencoder
    steps: int
    time_budget_s: float | None = None  # end early and on schedule when the steps do not fit
    time_reversal: float = 0.0
    prompt_dropout: float = 0.1
    ema_decay: float = 0.999
    seed: int = 0
    compile: bool = True
    resident: bool = False  # autoencoder: keep the frames in GPU memory, spread over the processes
    checkpoint_every_s: float = 120.0
    sample_every: int = 0  # steps between pictures of what the student makes; 0: none
    tensorboard: bool = False  # also write the log for tensorboard

    def __post_init__(self) -> None:
        if (self.objective.kind == "distribution_matching") != (self.critic_optimizer is not None):
            raise ValueError("critic_optimizer belongs to distribution_matching, and to it alone")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")
        if self.objective.kind == "distribution_matching":
            scored = self.objective.scored_frames
            if scored is not None and scored > self.frames:
                raise ValueError(f"scored_frames {scored} of a rollout of {self.frames} frames")
        if self.objective.kind == "endpoint_regression" and (
            self.time_reversal or self.prompt_dropout
        ):
            raise ValueError(
                "endpoint_regression reads stored paths as they are: time_reversal and"
                " prompt_dropout belong to their trajectories, and must be 0 here"
            )

    def optimizer_of(self, role: str) -> OptimizerConfig:
        if role == "critic":
            assert self.critic_optimizer is not None
            return self.critic_optimizer
        return self.optimizer

    @property
    def network_name(self) -> str:
        return "autoencoder" if self.objective.kind == "reconstruction" else "transformer"


def load_stage(path: Path, overrides: list[str]) -> tuple[StageConfig, ModelConfig]:
    stage = strict.load(path, StageConfig, overrides)
    return stage, strict.load(stage.model, ModelConfig)


def build_network(stage: StageConfig, model: ModelConfig, init: Path | None) -> nn.Module:
    """The network a stage trains, from scratch or from the weights an earlier stage left in `init`.

    A transformer may begin with another vocabulary: words keep their meaning, new ones have none yet.

    Raises:
        ValueError: if `init` holds another kind or shape of network.
    """
    if stage.network_name == "autoencoder":
        autoencoder = Autoencoder(model.autoencoder)
        if isinstance(stage.objective, ReconstructionConfig) and stage.objective.part == "decoder":
            autoencoder.keep_latents()
        network: nn.Module = autoencoder
        config: Any = model.autoencoder
    else:
        network = WorldTransformer(model.transformer)
        config = model.transformer
    if init is not None:
        found, weights = load_tensors(init, stage.network_name, type(config))
        if isinstance(found, TransformerConfig):
            weights["words.weight"] = of_other_words(
                weights["words.weight"], found.vocabulary, config.vocabulary
            )
            found = replace(found, vocabulary=config.vocabulary)
        if found != config:
            raise ValueError(f"{init}: its {stage.network_name} has another architecture: {found}")
        assign(network, weights, str(init))
    return network


def of_other_words(weight: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """The columns of `weight` [width words] for the `wanted` words instead of the `known` ones."""
    columns = weight.new_zeros(len(weight), max(len(wanted), 1))
    for place, word in enumerate(wanted):
        if word in known:
            columns[:, place] = weight[:, known.index(word)]
    return columns


def build_networks(
    stage: StageConfig, model: ModelConfig, init: Path | None, teacher: Path | None
) -> dict[str, nn.Module]:
    """The networks a stage trains, by role; a critic begins as its teacher."""
    networks = {"student": build_network(stage, model, init)}
    if isinstance(stage.objective, DistributionMatchingConfig):
        networks["critic"] = build_network(stage, model, _needed(stage, teacher))
    return networks


def build_objective(
    stage: StageConfig,
    model: ModelConfig,
    networks: Mapping[str, nn.Module],
    teacher: Path | None = None,
) -> Objective:
    """`networks` are on their device.

    Raises:
        ValueError: if the stage needs a teacher and there is none, or the other way round.
    """
    student: Any = networks["student"]
    objective = stage.objective
    device = next(student.parameters()).device
    if isinstance(objective, ConsistencyConfig):
        frozen = _frozen(stage, model, _needed(stage, teacher), device)
        average = _frozen(stage, model, None, device)
        return Consistency(objective, student, frozen, average, _kernel(stage, model, device))
    if isinstance(objective, DistributionMatchingConfig):
        frozen = _frozen(stage, model, _needed(stage, teacher), device)
        critic, attend = networks["critic"], _kernel(stage, model, device)
        return DistributionMatching(objective, student, critic, frozen, model.cache, attend)
    if teacher is not None:
        raise ValueError(f"a {objective.kind} stage has no use for --teacher")
    if isinstance(objective, ReconstructionConfig):
        return Reconstruction(objective, student)
    if isinstance(objective, EndpointRegressionConfig):
        return EndpointRegression(objective, student, _kernel(stage, model, device))
    return FlowMatching(objective, student, _kernel(stage, model, device))


def _needed(stage: StageConfig, teacher: Path | None) -> Path:
    if teacher is None:
        which = "1" if lineage.teacher_of(stage.objective) == "causal" else "0"
        raise ValueError(
            f"a {stage.objective.kind} stage needs --teacher, a run folder of stage {which}"
        )
    return teacher


def _frozen(
    stage: StageConfig, model: ModelConfig, folder: Path | None, device: torch.device
) -> WorldTransformer:
    network = build_network(stage, model, folder).to(device)
    assert isinstance(network, WorldTransformer)
    if stage.compile:
        compile_network(network)
    return network


def _kernel(stage: StageConfig, model: ModelConfig, device: torch.device) -> Attend:
    """What shows the student its history, unless that is its own rollout."""
    history = lineage.history_of(stage.objective)
    if history in ("full", "self"):
        return attend_all
    kernel = NoisyHistory if history == "noisy" else TeacherForcing
    tokens = model.transformer.tokens_per_frame
    return kernel(stage.frames, tokens, model.cache, device)


def compile_network(network: nn.Module) -> None:
    """Compile what repeats: the blocks of a transformer, or a whole autoencoder."""
    # the roles and shapes of stage 3, with and without gradients, are more cases than the default 8
    torch._dynamo.config.recompile_limit = 32
    if isinstance(network, Autoencoder):
        network.compile(dynamic=False)
        return
    for block in network.blocks:  # type: ignore[union-attr]
        block.compile(dynamic=False)


def build_batches(
    stage: StageConfig, model: ModelConfig, clips: ClipSet, processes: Processes
) -> Batches:
    rank, ranks = processes.rank, processes.count
    if stage.network_name == "autoencoder" and stage.resident:
        device = processes.device
        return ResidentFrameBatches(clips, stage.batch_size, stage.seed, rank, ranks, device)
    if stage.network_name == "autoencoder":
        clips.shards[0].array("frames")
        return FrameBatches(clips, stage.batch_size, stage.seed, rank)
    if isinstance(stage.objective, EndpointRegressionConfig):
        return PathBatches(
            clips,
            model.transformer.vocabulary,
            batch_size=stage.batch_size,
            frames=stage.frames,
            shift=stage.objective.shift,
            seed=stage.seed,
            rank=rank,
            ranks=ranks,
        )
    return LatentBatches(
        clips,
        model.transformer.vocabulary,
        batch_size=stage.batch_size,
        frames=stage.frames,
        time_reversal=stage.time_reversal,
        prompt_dropout=stage.prompt_dropout,
        seed=stage.seed,
        rank=rank,
        ranks=ranks,
    )
