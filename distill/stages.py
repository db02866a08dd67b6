"""The stages of training are rows of a table: a YAML file each, over one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from distill import lineage
from distill.adversarial import AdversarialReconstruction, PatchCritic
from distill.batches import (
    Batches,
    FrameBatches,
    LatentBatches,
    PathBatches,
    ResidentFrameBatches,
)
from distill.clips import ClipSet
from distill.discriminator import Discriminator
from distill.features import Perception
from distill.histories import NoisyHistory
from distill.lineage import ObjectiveConfig
from distill.matching import DistributionMatching, DistributionMatchingConfig
from distill.networks import Transformer, WanStudent, device_of, make_transformer
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
from distill.sharding import shard
from worldmodel import config as strict
from worldmodel.attention import Attend, TeacherForcing, attend_all
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.checkpoint import assign, load_tensors
from worldmodel.kv_cache import CacheConfig
from worldmodel.models import WanModelConfig, prompt_folder
from worldmodel.runtime import fastest_dtype, prepare
from worldmodel.transformer import TransformerConfig, WorldTransformer
from worldmodel.wan import WanConfig

# what is not computed again in compiled blocks: attention by a mask, dense, and on CPUs
KEPT: list[Any] = [
    torch.ops.worldmodel.attend_frames.default,
    torch.ops.higher_order.flex_attention,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]

OF_FRAMES = (Autoencoder, Discriminator, PatchCritic, Perception)  # the others are transformers


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
    critic_optimizer: OptimizerConfig | None = None  # of objectives that have a critic
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
        if _has_critic(self.objective) != (self.critic_optimizer is not None):
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
        optimizers = [self.optimizer, *([self.critic_optimizer] if self.critic_optimizer else [])]
        if any(optimizer.muon_learning_rate is not None for optimizer in optimizers):
            raise ValueError(
                "shard: Muon needs whole matrices; set muon_learning_rate: null for AdamW alone"
            )

    def optimizer_of(self, role: str) -> OptimizerConfig:
        if role == "student":
            return self.optimizer
        assert self.critic_optimizer is not None
        return self.critic_optimizer

    @property
    def network_name(self) -> str:
        return "autoencoder" if self.objective.kind == "reconstruction" else "transformer"


def _has_critic(objective: ObjectiveConfig) -> bool:
    if isinstance(objective, ReconstructionConfig):
        return objective.adversarial_weight > 0
    return isinstance(objective, DistributionMatchingConfig)


def _has_discriminator(objective: ObjectiveConfig) -> bool:
    return isinstance(objective, DistributionMatchingConfig) and objective.adversarial_weight > 0


AnyModel = ModelConfig | WanModelConfig


def load_stage(path: Path, overrides: list[str]) -> tuple[StageConfig, AnyModel]:
    """A stage and the model it names.

    Raises:
        ValueError: if one of them is wrong, or the stage asks what Wan cannot do.
    """
    stage = strict.load(path, StageConfig, overrides)
    if "playable" not in strict.top_keys(stage.model):
        return stage, strict.load(stage.model, ModelConfig)
    try:
        _check_wan(stage)
    except ValueError as error:
        raise ValueError(f"{path}: {stage.model} is a Wan model: {error}") from error
    return stage, strict.load(stage.model, WanModelConfig)


def _check_wan(stage: StageConfig) -> None:
    if stage.objective.kind in ("reconstruction", "endpoint_regression"):
        raise ValueError(f"no {stage.objective.kind} stage trains one")
    if _has_discriminator(stage.objective):
        raise ValueError(
            "adversarial_weight must be 0: a discriminator knows words, not embeddings"
        )
    if stage.time_reversal:
        raise ValueError("time_reversal must be 0: a latent holds four frames, the first one")
    if stage.sample_every:
        raise ValueError("sample_every must be 0: its decoder is no autoencoder of ours")
    for optimizer in (stage.optimizer, stage.critic_optimizer):
        if optimizer is not None and optimizer.muon_learning_rate is not None:
            raise ValueError("muon_learning_rate must be null: it was trained with AdamW")


def build_network(
    stage: StageConfig, model: AnyModel, init: Path | None, device: torch.device | None = None
) -> nn.Module:
    """The network a stage trains, from scratch or from the weights an earlier stage left in `init`.

    A transformer may begin with another vocabulary: words keep their meaning, new ones have none yet.
    A Wan network is made on `device`: a CPU would take half a minute for a billion random numbers.

    Raises:
        ValueError: if `init` holds another kind or shape of network.
    """
    if isinstance(model, WanModelConfig):
        with torch.device(device or "cpu"):
            wan = make_transformer(model.transformer)
        if init is not None:
            _assign_wan(wan, model.transformer, init)
        return wan
    if stage.network_name == "transformer":
        transformer = make_transformer(model.transformer)
        assert isinstance(transformer, WorldTransformer)
        if init is not None:
            assign_transformer(transformer, init)
        return transformer
    return _autoencoder(stage, model.autoencoder, init)


def _autoencoder(stage: StageConfig, config: AutoencoderConfig, init: Path | None) -> Autoencoder:
    """What frames look like is measured again after training, unless their latents stay."""
    objective, weights = stage.objective, dict[str, Tensor]()
    latents_stay = isinstance(objective, ReconstructionConfig) and objective.part == "decoder"
    if init is not None:
        found, weights = load_tensors(init, "autoencoder", AutoencoderConfig)
        if found != config:
            raise ValueError(f"{init}: its autoencoder has another architecture: {found}")
        if not latents_stay:
            weights = {
                key: w for key, w in weights.items() if not key.startswith("latent_moments.")
            }
    autoencoder = Autoencoder.of(config, weights)
    if latents_stay:
        autoencoder.keep_latents()
    if init is not None:
        assign(autoencoder, weights, str(init))
    return autoencoder


def assign_transformer(network: WorldTransformer, folder: Path) -> None:
    """The weights of a run or model folder; its vocabulary may be another.

    Raises:
        ValueError: if it holds another kind or shape of network.
    """
    config = network.config
    found, weights = load_tensors(folder, "transformer", TransformerConfig)
    weights["words.weight"] = of_other_words(
        weights["words.weight"], found.vocabulary, config.vocabulary
    )
    found = replace(found, vocabulary=config.vocabulary)
    if found != config:
        raise ValueError(f"{folder}: its transformer has another architecture: {found}")
    assign(network, weights, str(folder))


def of_other_words(weight: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """The columns of `weight` [width words] for the `wanted` words instead of the `known` ones."""
    columns = weight.new_zeros(len(weight), max(len(wanted), 1))
    for place, word in enumerate(wanted):
        if word in known:
            columns[:, place] = weight[:, known.index(word)]
    return columns


def _assign_wan(network: nn.Module, config: WanConfig, init: Path) -> None:
    """Weights of a converted model or of a run; a camera branch that they lack stays as it begins."""
    found, weights = load_tensors(init, "transformer", WanConfig)
    if config.camera and not found.camera:
        branch = {k: v for k, v in network.state_dict().items() if ".camera_o." in k}
        weights |= branch
        found = replace(found, camera=True, metres_per_unit=config.metres_per_unit)
    if found != config:
        raise ValueError(f"{init}: its transformer has another architecture: {found}")
    assign(network, weights, str(init))


def build_networks(
    stage: StageConfig,
    model: AnyModel,
    init: Path | None,
    teacher: Path | None,
    device: torch.device | None = None,
    *,
    untrained: bool = False,
) -> dict[str, nn.Module]:
    """The networks a stage trains, by role.

    With `untrained` teachers have random weights, for measuring speed.
    """
    networks = {"student": build_network(stage, model, init, device)}
    if _has_critic(stage.objective):
        networks["critic"] = build_critic(stage, model, teacher, device, untrained=untrained)
    if _has_discriminator(stage.objective):
        networks["discriminator"] = _discriminator(stage, model)
    return networks


def _discriminator(stage: StageConfig, model: AnyModel) -> Discriminator:
    assert isinstance(stage.objective, DistributionMatchingConfig)
    config = model.transformer
    words, width = max(len(config.vocabulary), 1), stage.objective.discriminator_width
    return Discriminator(config.grid, config.latent_channels, words, width)


def build_critic(
    stage: StageConfig,
    model: AnyModel,
    teacher: Path | None,
    device: torch.device | None = None,
    *,
    untrained: bool = False,
) -> nn.Module:
    """Who judges what the student makes: of clips it begins as the teacher, of frames from nothing."""
    if isinstance(stage.objective, ReconstructionConfig):
        return PatchCritic(stage.objective.critic_widths)
    begin = None if untrained else _needed(stage, teacher)
    return build_network(stage, model, begin, device)


def ready(network: nn.Module, stage: StageConfig, processes: Processes) -> None:
    """Make a network one to train: on its device, the same in all processes, compiled, spread."""
    network.to(processes.device)
    processes.align(network)
    _prepare_blocks(network, stage)
    if stage.shard and processes.count > 1:
        shard(network, processes.device, processes.count)


def _prepare_blocks(network: nn.Module, stage: StageConfig) -> None:
    """Checkpointing goes inside what is compiled, and both inside what gathers spread weights."""
    for block in _blocks(network)[: stage.checkpoint_blocks]:
        block.forward = partial(_again, block.forward, compiled=stage.compile)
    if stage.compile:
        compile_network(network)


def _again(forward: Callable[..., Tensor], *inputs: Any, compiled: bool) -> Tensor:
    """`forward`, of which only the inputs are kept for the backward pass.

    A compiler can be told to keep what attention gave: the dearest part, and small.
    """
    again = partial(checkpoint, forward, *inputs, use_reentrant=False, preserve_rng_state=False)
    result: Tensor = again(context_fn=_keeping_attention) if compiled else again()
    return result


def _keeping_attention() -> Any:
    return create_selective_checkpoint_contexts(KEPT)


def build_objective(
    stage: StageConfig,
    model: AnyModel,
    networks: Mapping[str, nn.Module],
    teacher: Path | None = None,
    processes: Processes | None = None,
    *,
    untrained: bool = False,
) -> Objective:
    """`networks` are `ready`. With `untrained` a teacher has random weights, for measuring speed.

    Raises:
        ValueError: if the stage needs a teacher and there is none, or the other way round.
    """
    student: Any = networks["student"]
    objective = stage.objective
    processes = processes or Processes(0, 1, device_of(student))
    device = processes.device

    def frozen() -> Transformer:
        folder = None if untrained else _needed(stage, teacher)
        return _frozen(stage, model, folder, processes, light=True)

    if isinstance(objective, ConsistencyConfig):
        average = _frozen(stage, model, None, processes, light=False)
        attend = _kernel(stage, model, device)
        return Consistency(objective, student, frozen(), average, attend)
    if isinstance(objective, DistributionMatchingConfig):
        critic, attend = networks["critic"], _kernel(stage, model, device)
        return DistributionMatching(
            objective,
            student,
            critic,
            frozen(),
            model.cache,
            attend,
            networks.get("discriminator"),
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


def _needed(stage: StageConfig, teacher: Path | None) -> Path:
    if teacher is None:
        which = "1" if lineage.teacher_of(stage.objective) == "causal" else "0"
        raise ValueError(
            f"a {stage.objective.kind} stage needs --teacher, a run folder of stage {which}"
        )
    return teacher


def _frozen(
    stage: StageConfig, model: AnyModel, folder: Path | None, processes: Processes, *, light: bool
) -> Transformer:
    """A network that is only read; `light`: a Wan model's in the type it is computed in."""
    network = build_network(stage, model, folder, processes.device).to(processes.device)
    assert isinstance(network, WorldTransformer | WanStudent)
    if light and isinstance(network, WanStudent):
        network = prepare(network, processes.device, fastest_dtype(processes.device))
    if stage.compile:
        compile_network(network)
    if stage.shard and processes.count > 1:
        shard(network, processes.device, processes.count)
    return network


def _kernel(stage: StageConfig, model: AnyModel, device: torch.device) -> Attend:
    """What shows the student its history, unless that is its own rollout."""
    history = lineage.history_of(stage.objective)
    if history in ("full", "self"):
        return attend_all
    kernel = NoisyHistory if history == "noisy" else TeacherForcing
    tokens = model.transformer.tokens_per_frame
    return kernel(stage.frames, tokens, model.cache, device)


def compile_network(network: nn.Module) -> None:
    """Compile what repeats: the blocks of a transformer, or the whole of what sees frames."""
    # the roles and shapes of stage 3, with and without gradients, are more cases than the default 8
    torch._dynamo.config.recompile_limit = 32
    if isinstance(network, OF_FRAMES):
        network.compile(dynamic=False)
        return
    for block in _blocks(network):
        # the forward alone: what gathers and frees spread weights around it stays outside
        block.forward = torch.compile(block.forward, dynamic=False)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """What repeats; a network of frames has none."""
    return [] if isinstance(network, OF_FRAMES) else list(network.blocks)  # type: ignore[arg-type]


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
