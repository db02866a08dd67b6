"""What a model takes from its clips: lens, rate, limits of motion, licence, starts; and its card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from distill import motions
from distill.clip_facts import facts
from distill.clips import ClipSet
from worldmodel import config as strict
from worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldmodel.checkpoint import PlayableConfig
from worldmodel.tiny_decoder import TinyDecoder
from worldmodel.transformer import WorldTransformer
from worldmodel.types import Intrinsics, MotionLimits
from worldmodel.wan import WanTransformer
from worldmodel.wan_vae import WanVae

KNOWN_SHARE = 99.5  # percent of the motion in the clips that play may command
MOST_STARTS = 9  # as many as there are digit keys


def adapted(playable: PlayableConfig, clips: ClipSet) -> PlayableConfig:
    """The same model, played with the lens, at the rate and within the motion of its clips."""
    cameras = np.concatenate([shard.array("cameras") for shard in clips.shards])
    lenses = np.concatenate([shard.array("intrinsics") for shard in clips.shards])
    height = -motions.positions(cameras)[..., 1]
    rate = clips.manifest.get("import", {}).get("frames_per_second", playable.frames_per_second)
    fx, fy, cx, cy = (round(float(x), 7) for x in np.median(lenses.reshape(-1, 4), axis=0))
    return replace(
        playable,
        summary=f"Made of {len(clips)} clips: {clips.manifest['source']}.",
        licence=str(clips.manifest["licence"]),
        static_world=not any(any(shard.one_way) for shard in clips.shards),
        frames_per_second=float(rate),
        intrinsics=Intrinsics(fx, fy, cx, cy),
        limits=MotionLimits(
            translation_m_per_frame=_known(motions.steps(cameras)),
            rotation_rad_per_frame=_known(motions.turns_rad(cameras)),
            height_m=(0.0, max(0.0, _known(height))),
        ),
    )


def _known(values: Any) -> float:
    return round(float(np.percentile(values, KNOWN_SHARE)), 6)


def write_starts(clips: ClipSet, folder: Path, config: AutoencoderConfig) -> None:
    """First frames of clips spread over the folder, as pictures to begin with.

    Raises:
        ValueError: if the clips hold no frames, or of another size than the model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(0, len(clips) - 1, min(MOST_STARTS, len(clips))).astype(int)
    for nth, clip in enumerate(map(int, chosen), 1):
        frame = np.array(clips.array("frames", clip, 0, 1)[0])
        if frame.shape[:2] != (config.height_px, config.width_px):
            raise ValueError(
                f"{clips.folder}: frames of {frame.shape[0]}x{frame.shape[1]} px, but the model's"
                f" are {config.height_px}x{config.width_px} px"
            )
        shard, row = clips.locate(clip)
        tracks = json.loads(shard.metadata.get("tracks", "[]"))
        name = tracks[row] if tracks else clips.prompt(clip)
        slug = re.sub(r"\W+", "-", f"{nth} {name}".strip().lower()).strip("-")
        Image.fromarray(frame).save(folder / f"{slug}.png")


def page(
    playable: PlayableConfig,
    autoencoder: Autoencoder | TinyDecoder | WanVae,
    transformer: WorldTransformer | WanTransformer,
    clips: ClipSet,
    runs: Sequence[Path],
    *,
    starts: bool = True,
    drawn_larger: int = 1,
) -> str:
    """The card, as Markdown: what the model is, what it was made of, what it cannot do.

    `starts`: whether the folder has start frames of its clips. `drawn_larger`: than the autoencoder's
    frames those of play are.
    """
    ae, tr = autoencoder.config, transformer.config
    told, rollout, limits = facts(clips), playable.rollout, playable.limits
    scale = told["scale"] or {}
    low, high = told["field_of_view_deg"]
    drawn = f", drawn at {drawn_larger * ae.height_px}x{drawn_larger * ae.width_px}"
    lines = [
        f"# {playable.name}",
        "",
        playable.summary,
        "",
        "| | |",
        "|---|---|",
        f"| frames | {ae.height_px}x{ae.width_px}{drawn if drawn_larger > 1 else ''},"
        f" {playable.frames_per_second:g} a second |",
        f"| transformer | {_millions(transformer)}: width {tr.width}, {tr.layers} layers |",
        f"| autoencoder | {_millions(autoencoder)} |",
        f"| steps | {rollout.steps} per frame, solver {rollout.solver} |",
        f"| licence | {playable.licence} |",
        f"| prompt words | {', '.join(tr.vocabulary) or 'none'} |",
        "",
        f"**Data.** {told['source']}, licence: {told['licence']}. {told['clips']} clips of"
        f" {told['frames_per_clip']} frames. Lenses of {low:.0f} to {high:.0f} degrees across."
        + (f" One unit of the source is {scale['metres_per_unit']:.4g} m." if scale else ""),
        "",
        "**Recipe.**",
        "",
        *_recipe(runs),
        "",
        f"**Limits.** Motion it knows: up to {limits.translation_m_per_frame:.3g} m and"
        f" {np.degrees(limits.rotation_rad_per_frame):.3g} degrees a frame, {limits.height_m[0]:g} to"
        f" {limits.height_m[1]:.3g} m above the ground. It remembers"
        f" {playable.cache.window_frames + playable.cache.sink_frames} frames."
        + (
            " The start frames in `starts/` are first frames of its clips, under their licence."
            if starts
            else ""
        ),
    ]
    if told["licence"] == "unknown":
        lines += [
            "",
            "The licence of the data was not given: ask its owner before you publish this.",
        ]
    return "\n".join(lines) + "\n"


def _millions(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.2g} M parameters"


def _recipe(runs: Sequence[Path]) -> Iterator[str]:
    """What was trained, newest last, as far back as run folders tell."""
    for run in runs:
        chain: list[str] = []
        folder: Path | None = run
        while folder is not None:
            line, folder = _one(folder)
            chain.append(line)
        yield from reversed(chain)


def _one(folder: Path) -> tuple[str, Path | None]:
    """A line on one run or model folder, and the folder it began with."""
    report = folder / "report.json"
    if report.is_file():
        told = json.loads(report.read_text(encoding="utf-8"))
        objective, init = told["stage"]["objective"]["kind"].replace("_", " "), told.get("init")
        line = f"- {folder.name}: {objective}, {told['steps']} steps in {told['seconds']} s"
        return f"{line} on {told['processes']} x {told['device']}", init and Path(init)
    if (folder / "model.yaml").is_file():
        base = strict.load(folder / "model.yaml", PlayableConfig)
        return f"- begun with the model {base.name} ({base.licence}), {base.digest[:12]}", None
    return f"- begun with the weights of {folder.name}", None
