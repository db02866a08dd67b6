"""Generate many clips side by side, frame by frame through the cache, along given cameras."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel import flow
from worldmodel.autoencoder import Autoencoder
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.sampler import Sampler
from worldmodel.transformer import Geometry, WorldTransformer

ANCHOR_FRAMES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What a batch of clips is seen from."""

    cameras: Tensor  # float64 [b f 4 4], camera_from_world
    intrinsics: Tensor  # float32 [b f 4]
    words: Tensor  # float32 [b v]


@torch.no_grad()
def rollout(
    transformer: WorldTransformer,
    autoencoder: Autoencoder,
    cache_config: CacheConfig,
    context: Tensor,
    views: Views,
    *,
    steps: int,
    shift: float,
    seed: int,
) -> Tensor:
    """Continue `context` [b f0 p c] (true latents) to the length of `views`: latents [b f p c]."""
    device, (b, known) = context.device, context.shape[:2]
    config = transformer.config
    cache = KVCache(
        cache_config,
        layers=config.layers,
        batch=b,
        kv_heads=config.kv_heads,
        tokens_per_frame=config.tokens_per_frame,
        head_width=config.head_width,
        dtype=transformer.latent_in.weight.dtype,
        device=device,
    )
    sampler = Sampler(transformer, autoencoder, cache)
    noise = torch.Generator(device).manual_seed(seed)
    levels = flow.schedule(steps, shift).to(device)
    anchor = views.cameras[:, 0].double()
    frames, since = [], 0
    for index in range(views.cameras.shape[1]):
        if since >= ANCHOR_FRAMES:
            new = views.cameras[:, index].double()
            sampler.move_anchor(anchor @ torch.linalg.inv(new), float(since))
            anchor, since = new, 0
        places = _places(transformer, views, anchor, index, since)
        latent = context[:, index : index + 1]
        if index >= known:
            latent = torch.randn(context[:, :1].shape, generator=noise, device=device)
            for now, then in itertools.pairwise(levels):
                latent = sampler.denoise(
                    latent, now.expand(b, 1), then.expand(b, 1), views.words, *places
                )
        slot = torch.tensor([cache_config.slot(index)], device=device)
        sampler.commit(latent, torch.zeros(b, 1, device=device), slot, views.words, *places)
        frames.append(latent)
        since += 1
    return torch.cat(frames, dim=1)


def _places(
    transformer: WorldTransformer, views: Views, anchor: Tensor, index: int, time: int
) -> tuple[Tensor, ...]:
    pose = views.cameras[:, index].double() @ torch.linalg.inv(anchor)
    moment = torch.full((len(pose), 1), float(time), device=pose.device)
    lens = views.intrinsics[:, index : index + 1]
    geometry: Geometry = transformer.geometry(pose[:, None], lens, moment)
    return geometry.tensors()
