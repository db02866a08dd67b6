"""Folders in, folders out: what joins configs, networks, data and the training loop."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill import card, lineage
from distill.batches import Batches, FrameBatches, to_device
from distill.clips import ClipSet
from distill.evaluate import Model
from distill.networks import WanStudent, make_transformer
from distill.processes import Processes
from distill.result import write_atomically
from distill.samples import Samples
from distill.sharding import whole
from distill.stage_networks import assign_transformer, build_networks, ready
from distill.stage_objectives import build_batches, build_objective
from distill.stages import AnyModel, ModelConfig, StageConfig
from distill.trainer import Trainer
from distill.trajectories import TrajectoriesConfig, write_trajectories
from distill.wan_export import export_wan
from worldmodel import config as strict
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig, frames_to_float
from worldmodel.checkpoint import (
    PlayableConfig,
    assign,
    load_model,
    load_tensors,
    load_upscaler,
    save_model,
    save_tensors,
    stored_kind,
)
from worldmodel.convert import write_shards
from worldmodel.models import WanModelConfig
from worldmodel.runtime import choose_device, fastest_dtype, prepare
from worldmodel.transformer import TransformerConfig, WorldTransformer
from worldmodel.upscaler import FACTOR, UpscaledAutoencoder, Upscaler
from worldmodel.wan import KIND

CALIBRATION_FRAMES = 1024
MOMENT_FRAMES = 2048
OF_ONE_MODEL = ("*.safetensors", "model.yaml", "evaluation.*")  # a copy has its own


def run_stage(
    stage: StageConfig,
    model: AnyModel,
    data: Path,
    out: Path,
    init: Path | None,
    processes: Processes,
    teacher: Path | None = None,
    autoencoder: Path | None = None,
    worse_teacher: Path | None = None,
) -> dict[str, Any]:
    """Train or resume one stage in folder `out`; leaves averaged weights and `report.json` there.

    Raises:
        ValueError: if the data, the initial weights or the run folder do not fit the stage.
    """
    clips = ClipSet(data)
    lineage.check(stage.objective, init, teacher, worse_teacher)
    torch.manual_seed(stage.seed)
    networks = build_networks(stage, model, init, teacher, processes.device)
    with _tuned_for_training(processes.device):
        for network in networks.values():
            ready(network, stage, processes)
        objective = build_objective(
            stage, model, networks, teacher, processes, worse_teacher=worse_teacher
        )
        batches = build_batches(stage, model, clips, processes)
        samples = _samples(stage, model, autoencoder, batches, out, processes)
        out.mkdir(parents=True, exist_ok=True)
        report = Trainer(stage, networks, objective, batches, out, processes, samples).run()
    network = networks["student"]
    if isinstance(network, UpscaledAutoencoder):
        network = network.upscaler  # the rest was there before
    if isinstance(network, Autoencoder) and not network.latents_stay:
        _calibrate(network, clips, stage, processes)
    report |= {"init": None if init is None else str(init)}
    _save_weights(out, stage.network_name, network, processes)
    if processes.leads:
        (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    processes.wait()
    return report


@contextmanager
def _tuned_for_training(device: torch.device) -> Iterator[None]:
    """Shorter factors and measured kernels on a GPU; what this process does afterwards has neither."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if device.type == "cuda":
        matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        if device.type == "cuda":  # torch's defaults; cuDNN's shorter factors are one of them
            matmul.allow_tf32 = cudnn.benchmark = False


def _save_weights(out: Path, name: str, network: Any, processes: Processes) -> None:
    if not isinstance(network, WanStudent):
        weights = {key: whole(value) for key, value in network.state_dict().items()}
        if processes.leads:
            save_tensors(out, name, weights, network.config, torch.float32)
        return
    tensors = ((key, whole(value).cpu()) for key, value in network.state_dict().items())
    if processes.leads:
        write_shards(out, name, tensors, network.config)
    else:
        deque(tensors, maxlen=0)  # all processes gather together


def _samples(
    stage: StageConfig,
    model: AnyModel,
    autoencoder: Path | None,
    batches: Batches,
    out: Path,
    processes: Processes,
) -> Samples | None:
    if not stage.sample_every or isinstance(model, WanModelConfig):
        return None
    decoder = None if autoencoder is None else load_autoencoder(autoencoder)
    batch = to_device(batches.at(0), processes.device)
    return Samples(stage=stage, model=model, autoencoder=decoder, batch=batch, out=out)


def run_trajectories(
    config: TrajectoriesConfig, data: Path, teacher: Path, out: Path, processes: Processes
) -> dict[str, Any]:
    """Store the paths of a teacher in clip folder `out`; returns what they cost.

    Raises:
        ValueError: if the data, the teacher or the folder do not fit the configuration.
    """
    clips = ClipSet(data)
    direction: lineage.Direction = "causal" if config.history == "clean" else "bidirectional"
    lineage.check_direction(teacher, direction, "--teacher")
    model = strict.load(config.model, ModelConfig)
    network = make_transformer(model.transformer)
    assert isinstance(network, WorldTransformer)
    assign_transformer(network, teacher)
    return write_trajectories(config, clips, network, model.cache, out, processes)


def _calibrate(
    network: Autoencoder, clips: ClipSet, stage: StageConfig, processes: Processes
) -> None:
    sample = FrameBatches(clips, CALIBRATION_FRAMES, stage.seed + 1, 0).at(0).frames
    parts = sample.split(64)
    with torch.autocast(
        processes.device.type, torch.bfloat16, enabled=processes.device.type == "cuda"
    ):
        frames = [frames_to_float(part.to(processes.device)) for part in parts]
        network.calibrate(frames)
        with torch.no_grad():
            network.measure_moments(torch.cat([network.encode(part) for part in frames]))


def _measure_moments(autoencoder: Autoencoder, clips: ClipSet) -> None:
    """What the frames of `clips` look like, for `rollout.drift_limit`."""
    frames = FrameBatches(clips, MOMENT_FRAMES, 0, 0).at(0).frames
    with torch.no_grad():
        latents = [autoencoder.encode(frames_to_float(part)) for part in frames.split(64)]
    autoencoder.measure_moments(torch.cat(latents))


def write_moments(folder: Path, data: Path, out: Path, limit: float) -> None:
    """A copy of a playable model that keeps its frames within `limit` of what those of `data` are.

    Raises:
        ValueError: if the model or the clips are not what they should be.
    """
    clips = ClipSet(data)
    playable, autoencoder, transformer = load_model(folder)
    upscaler = load_upscaler(folder)
    _measure_moments(autoencoder, clips)
    rollout = replace(playable.rollout, drift_limit=limit)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*OF_ONE_MODEL))
    save_model(out, replace(playable, rollout=rollout), autoencoder, transformer, upscaler=upscaler)


def load_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder of a run or model folder, float32 on the CPU."""
    config, weights = load_tensors(folder, "autoencoder", AutoencoderConfig)
    network = Autoencoder.of(config, weights)
    assign(network, weights, str(folder))
    return network.eval()


def needed_upscaler(folder: Path) -> Upscaler:
    """The upscaler of a run or model folder.

    Raises:
        ValueError: if it has none.
    """
    upscaler = load_upscaler(folder)
    if upscaler is None:
        raise ValueError(f"{folder}: no upscaler here")
    return upscaler


def _drawn_as(folder: Path) -> Upscaler | None:
    """A model need not have one."""
    is_model = (folder / "model.yaml").is_file()
    return load_upscaler(folder) if is_model else needed_upscaler(folder)


def load_transformer(folder: Path) -> WorldTransformer:
    """The transformer of a run or model folder, float32 on the CPU."""
    config, weights = load_tensors(folder, "transformer", TransformerConfig)
    network = WorldTransformer(config)
    assign(network, weights, str(folder))
    return network.eval()


def averaged_transformer(folders: Sequence[Path]) -> WorldTransformer:
    """The mean of the weights of transformers that came from the same one.

    What they learned apart it has a share of, and it is often better than each.
    Source: Wortsman et al., arXiv 2203.05482 (model soups).

    Raises:
        ValueError: if they are of different shapes.
    """
    first, *others = networks = [load_transformer(folder) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if other.config != first.config:
            raise ValueError(
                f"{folder}: cannot be averaged with {folders[0]}: its transformer has another config"
            )
    states = [network.state_dict() for network in networks]
    mean = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    first.load_state_dict(mean)
    return first


def export(
    playable: PlayableConfig,
    autoencoder: Path,
    transformer: Path,
    out: Path,
    data: Path | None = None,
    averaged_with: Sequence[Path] = (),
    upscaler: Path | None = None,
) -> None:
    """Write a playable model folder from two run or model folders; Wan models: from a converted one too.

    `data` are the clips it was made of: lens, rate, limits of motion, licence and what frames look like
    are then theirs, and the folder gets start frames and a card. `averaged_with`: more transformers, of
    which the model is the mean. `upscaler`: the run folder of what draws frames larger; or a model
    folder, as whose they are then drawn.

    Raises:
        ValueError: if weights or clips are not what they should be.
    """
    if stored_kind(transformer, "transformer") == KIND:
        if averaged_with:
            raise ValueError(f"{transformer}: a Wan model; only our own transformers are averaged")
        if upscaler is not None:
            raise ValueError(f"{transformer}: a Wan model; upscalers are for our own autoencoders")
        export_wan(playable, autoencoder, transformer, out, data)
        return
    encoder = load_autoencoder(autoencoder)
    drawing = None if upscaler is None else _drawn_as(upscaler)
    network = averaged_transformer([transformer, *averaged_with])
    if data is None:
        save_model(out, playable, encoder, network, upscaler=drawing)
        return
    clips = ClipSet(data)
    adapted = card.adapted(playable, clips)
    out.mkdir(parents=True, exist_ok=True)
    card.write_starts(clips, out / "starts", encoder.config)
    if (
        adapted.rollout.drift_limit is not None
    ):  # a kept autoencoder knows the frames of other worlds
        _measure_moments(encoder, clips)
    runs, larger = (autoencoder, transformer), 1 if drawing is None else FACTOR
    page = card.page(adapted, encoder, network, clips, runs, drawn_larger=larger)
    write_atomically(page, out / "README.md")
    save_model(out, adapted, encoder, network, upscaler=drawing)


def load_for_evaluation(folder: Path, device_name: str | None) -> Model:
    """A playable model, ready on a device in the type it is played in."""
    return _for_evaluation(*load_model(folder), device_name)


def join_for_evaluation(
    playable: PlayableConfig, autoencoder: Path, transformer: Path, device_name: str | None
) -> Model:
    """The same from two run or model folders, without writing one."""
    parts = load_autoencoder(autoencoder), load_transformer(transformer)
    return _for_evaluation(playable, *parts, device_name)


def _for_evaluation(
    playable: PlayableConfig,
    autoencoder: Autoencoder,
    transformer: WorldTransformer,
    device_name: str | None,
) -> Model:
    device = choose_device(device_name)
    dtype = fastest_dtype(device)
    return Model(
        playable=playable,
        autoencoder=prepare(autoencoder, device, dtype),
        transformer=prepare(transformer, device, dtype),
        device=device,
        dtype=dtype,
    )
