"""Camera following, shown: the same keys through the renderer (above) and through the model (below)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from distill.encode import encode
from distill.evaluate import SEED, Model, decode, known_to
from distill.render import Walk, Walks, walk_truth
from distill.rollout import Views, rollout
from distill.scenes.mix import WorldMix
from distill.scenes.renderer import Renderer
from distill.scenes.world import make_world
from worldmodel import config as strict
from worldmodel.autoencoder import frames_to_uint8
from worldmodel.transformer import prompt_words

LABEL_PX = 14


def walk_sheet(model: Model, table: Path, *, steps: int, columns: int) -> NDArray[np.uint8]:
    """One pair of rows per walk of the table: truth above, generated from its first frame below."""
    walks = strict.load(table, Walks)
    config = model.autoencoder.config
    renderer = Renderer(config.width_px, config.height_px)
    rows = [
        _pair(model, renderer, walk, walks.worlds, steps, columns)
        for walk in tqdm(walks.walks, unit="walk")
    ]
    renderer.release()
    return np.concatenate(rows)


def _pair(
    model: Model, renderer: Renderer, walk: Walk, worlds: WorldMix, steps: int, columns: int
) -> NDArray[np.uint8]:
    truth, cameras, lens = walk_truth(renderer, walk, worlds)
    intrinsics = torch.tensor([lens.fx, lens.fy, lens.cx, lens.cy]).expand(1, len(truth), 4)
    prompt = known_to(model, make_world(walk.world, mix=worlds).prompt)  # as a start is played
    words = prompt_words(model.transformer.config.vocabulary, prompt) or [0.0]
    views = Views(
        cameras=torch.from_numpy(cameras)[None].to(model.device),
        intrinsics=intrinsics.to(model.device),
        words=torch.tensor([words], device=model.device),
    )
    start = torch.from_numpy(encode(model.autoencoder, truth[:1], model.device))[None]
    latents = rollout(
        model.transformer,
        model.autoencoder,
        model.playable.cache,
        start.float().to(model.device),
        views,
        how=replace(model.playable.rollout, steps=steps),
        seed=SEED,
    )
    chosen = np.linspace(0, len(truth) - 1, columns).round().astype(int)
    made = frames_to_uint8(decode(model, latents[0, chosen])).cpu().numpy()
    pictures = np.concatenate([_row(truth[chosen]), _row(made)])
    return np.concatenate([_label(f"{walk.name}   {walk.trajectory}", pictures.shape[1]), pictures])


def _row(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate(list(frames), axis=1)


def _label(text: str, width_px: int) -> NDArray[np.uint8]:
    strip = Image.new("RGB", (width_px, LABEL_PX), "white")
    ImageDraw.Draw(strip).text((4, 1), text, fill="black")
    return np.asarray(strip)
