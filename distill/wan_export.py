"""Playable model folders of Wan transformers that were trained here."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from distill import card
from distill.clips import ClipSet
from distill.result import write_atomically
from worldmodel import config as strict
from worldmodel.checkpoint import PlayableConfig, write_playable
from worldmodel.convert import open_tensors, write_shards
from worldmodel.models import PROMPTS, check_fit, empty, load_decoder
from worldmodel.wan import WanConfig, WanTransformer


def export_wan(
    playable: PlayableConfig, base: Path, transformer: Path, out: Path, data: Path | None
) -> None:
    """Write model folder `out`: the transformer of a run in bfloat16, decoder and prompts of `base`.

    `data` are the latents it was made of: their prompts are kept too, and lens, rate, limits of motion
    and licence are theirs.

    Raises:
        ValueError: if the decoder does not fit, or weights or clips are not what they should be.
    """
    decoder = load_decoder(base)
    with open_tensors(transformer) as stored:
        config = strict.build(stored.config, WanConfig, stored.where)
        check_fit(config, decoder.config)
        clips = None if data is None else ClipSet(data)
        playable = playable if clips is None else card.adapted(playable, clips)
        _clear(out)
        tensors = ((name, stored.read(name).bfloat16()) for name in stored.shapes)
        files = write_shards(out, "transformer", tensors, config)
    for path in sorted(base.glob("decoder-*-of-*.safetensors")):
        files.append(out / path.name)
        shutil.copyfile(path, files[-1])
    for folder in (base, *([data] if data is not None else [])):
        if (folder / PROMPTS).is_dir():
            shutil.copytree(folder / PROMPTS, out / PROMPTS, dirs_exist_ok=True)
    if clips is not None:
        with torch.device("meta"):
            network = empty(WanTransformer, config)
        page = card.page(playable, decoder, network, clips, (base, transformer), starts=False)
        write_atomically(page, out / "README.md")
    write_playable(out, playable, files)


def _clear(out: Path) -> None:
    """Of a model that was there: half of it must not look like one."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.yaml").unlink(missing_ok=True)
    for pattern in ("transformer-*", "decoder-*"):
        for old in out.glob(pattern):
            old.unlink()
