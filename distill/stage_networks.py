"""The networks that a stage's words ask for, ready to be trained or only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from distill import lineage
from distill.adversarial import PatchCritic
from distill.discriminator import Discriminator
from distill.features import Perception
from distill.lineage import ObjectiveConfig
from distill.matching_config import DistributionMatchingConfig
from distill.networks import Transformer, WanStudent, make_transformer
from distill.processes import Processes
from distill.reconstruction import ReconstructionConfig
from distill.sharding import shard
from distill.stages import AnyModel, ModelConfig, StageConfig, has_critic, has_discriminator
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.checkpoint import assign, load_tensors, load_upscaler, read_config
from worldmodel.models import WanModelConfig
from worldmodel.runtime import fastest_dtype, prepare
from worldmodel.transformer import TransformerConfig, WorldTransformer
from worldmodel.upscaler import UpscaledAutoencoder, Upscaler
from worldmodel.wan import WanConfig

# what is not computed again in compiled blocks: attention by a mask, dense, and on CPUs
KEPT: list[Any] = [
    torch.ops.worldmodel.attend_frames.default,
    torch.ops.higher_order.flex_attention,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]

# the others are transformers, of which what repeats is compiled, and not the whole
COMPILED_WHOLE = (Autoencoder, UpscaledAutoencoder, Discriminator, PatchCritic, Perception)


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
    if has_critic(stage.objective):
        networks["critic"] = build_critic(stage, model, teacher, device, untrained=untrained)
    if has_discriminator(stage.objective):
        begin = None if untrained else needed_teacher(stage, teacher)
        networks["discriminator"] = _discriminator(stage, model, begin)
    return networks


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
    autoencoder = _autoencoder(stage, model.autoencoder, init)
    if stage.network_name == "upscaler":
        return _upscaled(model, autoencoder, init)
    return autoencoder


def _upscaled(model: ModelConfig, autoencoder: Autoencoder, init: Path | None) -> nn.Module:
    """The autoencoder as it is, and an upscaler to train: that of `init`, or a new one."""
    if model.upscaler is None:
        raise ValueError("part: upscaler is for models whose config has an `upscaler`")
    found = None if init is None else load_upscaler(init)
    if found is not None and found.config != model.upscaler:
        raise ValueError(f"{init}: its upscaler has another architecture: {found.config}")
    upscaler = (found or Upscaler(model.upscaler)).train()
    return UpscaledAutoencoder(autoencoder.requires_grad_(False), upscaler)


def _autoencoder(stage: StageConfig, config: AutoencoderConfig, init: Path | None) -> Autoencoder:
    """What frames look like is measured again after training, unless their latents stay."""
    objective, weights = stage.objective, dict[str, Tensor]()
    latents_stay = isinstance(objective, ReconstructionConfig) and objective.part != "all"
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


def _discriminator(stage: StageConfig, model: AnyModel, teacher: Path | None) -> Discriminator:
    assert isinstance(stage.objective, DistributionMatchingConfig)
    theirs = teacher_model(stage, model, teacher).transformer
    return Discriminator(theirs.layers, theirs.width, stage.objective.discriminator_width)


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
    begin = None if untrained else needed_teacher(stage, teacher)
    theirs = _knowing_steps(stage.objective, teacher_model(stage, model, begin))
    return build_network(stage, theirs, begin, device)


def teacher_model(stage: StageConfig, model: AnyModel, folder: Path | None) -> AnyModel:
    """`model` with the transformer that `folder` holds, if it is to judge: it may be larger.

    Raises:
        ValueError: if its latents or positions are not those of the student.
    """
    if folder is None or isinstance(model, WanModelConfig):
        return model
    if not isinstance(stage.objective, DistributionMatchingConfig):
        return model
    ours, theirs = model.transformer, read_config(folder, "transformer", TransformerConfig)
    size = {name: getattr(theirs, name) for name in ("width", "layers", "heads", "kv_heads")}
    larger = replace(ours, **size, mlp_ratio=theirs.mlp_ratio)
    if replace(theirs, vocabulary=ours.vocabulary) != larger or theirs.head_width != ours.head_width:
        raise ValueError(
            f"{folder}: a teacher may be larger than its student, but sees the same latents, with"
            f" heads of the same width and the same positions; it has {theirs}"
        )
    return replace(model, transformer=larger)


def _knowing_steps(objective: ObjectiveConfig, model: AnyModel) -> AnyModel:
    """The steps of the student are words of its critic, which nobody else knows."""
    if not isinstance(objective, DistributionMatchingConfig) or not objective.critic_knows_step:
        return model
    assert isinstance(model, ModelConfig), "checked when the stage was read"
    steps = (f"step {index + 1}" for index in range(objective.student_steps))
    vocabulary = (*model.transformer.vocabulary, *steps)
    return replace(model, transformer=replace(model.transformer, vocabulary=vocabulary))


def needed_teacher(stage: StageConfig, teacher: Path | None) -> Path:
    if teacher is None:
        which = "1" if lineage.teacher_of(stage.objective) == "causal" else "0"
        raise ValueError(
            f"a {stage.objective.kind} stage needs --teacher, a run folder of stage {which}"
        )
    return teacher


def frozen_network(
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


def compile_network(network: nn.Module) -> None:
    """Compile what repeats, the blocks of a transformer, or else the whole."""
    # the roles and shapes of stage 3, with and without gradients, are more cases than the default 8
    torch._dynamo.config.recompile_limit = 32
    if isinstance(network, COMPILED_WHOLE):
        network.compile(dynamic=False)
        return
    for block in _blocks(network):
        # the forward alone: what gathers and frees spread weights around it stays outside
        block.forward = torch.compile(block.forward, dynamic=False)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """What repeats in a transformer."""
    return [] if isinstance(network, COMPILED_WHOLE) else list(network.blocks)  # type: ignore[arg-type]
