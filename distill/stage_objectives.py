"""The objective that a stage's words ask for, and the batches it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill import lineage
from distill.adversarial import AdversarialReconstruction
from distill.batches import (
    Batches,
    FrameBatches,
    LatentBatches,
    PathBatches,
    ResidentFrameBatches,
)
from distill.clips import ClipSet
from distill.features import Perception
from distill.histories import NoisyHistory
from distill.matching import DistributionMatching
from distill.matching_config import DistributionMatchingConfig
from distill.networks import Transformer, device_of
from distill.objectives import (
    Consistency,
    ConsistencyConfig,
    FlowMatching,
    Objective,
)
from distill.processes import Processes
from distill.reconstruction import Reconstruction, ReconstructionConfig
from distill.regression import EndpointRegression, EndpointRegressionConfig
from distill.stage_networks import (
    compile_network,
    frozen_network,
    needed_teacher,
    teacher_model,
)
from distill.stages import AnyModel, StageConfig
from worldmodel.attention import Attend, TeacherForcing, attend_all
from worldmodel.models import WanModelConfig, prompt_folder


def build_objective(
    stage: StageConfig,
    model: AnyModel,
    networks: Mapping[str, nn.Module],
    teacher: Path | None = None,
    processes: Processes | None = None,
    *,
    worse_teacher: Path | None = None,
    untrained: bool = False,
) -> Objective:
    """`networks` are `ready`. With `untrained` teachers have random weights, for measuring speed.

    Raises:
        ValueError: if the stage needs a teacher, or a worse one besides, and there is none, or the other
            way round.
    """
    student: Any = networks["student"]
    objective = stage.objective
    processes = processes or Processes(0, 1, device_of(student))
    device = processes.device

    def frozen(run: Path | None = teacher) -> Transformer:
        folder = None if untrained else needed_teacher(stage, run)
        theirs = teacher_model(stage, model, folder)
        return frozen_network(stage, theirs, folder, processes, light=True)

    guides = lineage.needs_worse_teacher(objective)
    if worse_teacher is not None and not guides:
        raise ValueError("--worse-teacher is of no use without objective.autoguidance above 1")

    if isinstance(objective, ConsistencyConfig):
        average = frozen_network(stage, model, None, processes, light=False)
        attend = _kernel(stage, model, device)
        return Consistency(objective, student, frozen(), average, attend)
    if isinstance(objective, DistributionMatchingConfig):
        critic: Any = networks["critic"]
        attend = _kernel(stage, model, device)
        return DistributionMatching(
            objective,
            student,
            critic,
            frozen(),
            model.cache,
            attend,
            networks.get("discriminator"),
            worse_teacher=frozen(worse_teacher) if guides else None,
            compiled=stage.compile and device.type == "cuda",
        )
    if teacher is not None:
        raise ValueError(f"a {objective.kind} stage has no use for --teacher")
    if isinstance(objective, ReconstructionConfig):
        return _reconstruction(stage, objective, networks)
    if isinstance(objective, EndpointRegressionConfig):
        return EndpointRegression(objective, student, _kernel(stage, model, device))
    return FlowMatching(objective, student, _kernel(stage, model, device))


def _reconstruction(
    stage: StageConfig, objective: ReconstructionConfig, networks: Mapping[str, nn.Module]
) -> Objective:
    student: Any = networks["student"]
    perception = None
    if objective.perceptual_weight:
        perception = Perception(student.encoder)
        if stage.compile:
            compile_network(perception)
    if "critic" not in networks:
        return Reconstruction(objective, student, perception)
    return AdversarialReconstruction(objective, student, networks["critic"], perception)


def _kernel(stage: StageConfig, model: AnyModel, device: torch.device) -> Attend:
    """What shows the student its history, unless that is its own rollout."""
    history = lineage.history_of(stage.objective)
    if history in ("full", "self"):
        return attend_all
    kernel = NoisyHistory if history == "noisy" else TeacherForcing
    tokens = model.transformer.tokens_per_frame
    return kernel(stage.frames, tokens, model.cache, device)


def build_batches(
    stage: StageConfig, model: AnyModel, clips: ClipSet, processes: Processes
) -> Batches:
    rank, ranks = processes.rank, processes.count
    if isinstance(model, WanModelConfig):
        return LatentBatches(
            clips,
            (),
            batch_size=stage.batch_size,
            frames=stage.frames,
            time_reversal=0.0,
            prompt_dropout=stage.prompt_dropout,
            seed=stage.seed,
            rank=rank,
            ranks=ranks,
            embeddings=prompt_folder(clips.folder, model.transformer),
        )
    if stage.sees_frames and stage.resident:
        device = processes.device
        return ResidentFrameBatches(clips, stage.batch_size, stage.seed, rank, ranks, device)
    if stage.sees_frames:
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
        spread_share=stage.spread_share,
        spread_frames=stage.spread_frames,
    )
