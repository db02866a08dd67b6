"""Generate many clips side by side, frame by frame through the cache, along given cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel import flow
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import RolloutConfig
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.sampler import Sampler, sample
from worldmodel.transformer import Geometry, WorldTransformer

ANCHOR_FRAMES = 16

_Tensors = tuple[Tensor, ...]


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
    how: RolloutConfig,
    seed: int,
) -> Tensor:
    """Continue `context` [b f0 p c] (true latents; f0 may be 0) to the length of `views`: [b f p c]."""
    device, (b, known) = context.device, context.shape[:2]
    sampler = Sampler(transformer, autoencoder, _cache(transformer, cache_config, b, device))
    noise = torch.Generator(device).manual_seed(seed)
    levels = flow.schedule(how.steps, how.shift).tolist()
    first_levels = flow.schedule(how.first_frame_steps, how.shift).tolist()
    shape = (b, 1, *context.shape[2:])
    anchor = views.cameras[:, 0].double()
    frames, since = [], 0
    for index in range(views.cameras.shape[1]):
        if since >= ANCHOR_FRAMES:
            new = views.cameras[:, index].double()
            sampler.move_anchor(anchor @ torch.linalg.inv(new), float(since))
            anchor, since = new, 0
        places = _places(transformer, views, anchor, index, since)

        def denoise(latent: Tensor, now: float, to: float, at: _Tensors = places) -> Tensor:
            level, lower = (torch.full((b, 1), x, device=device) for x in (now, to))
            return sampler.denoise(latent, level, lower, views.words, *at)

        def fresh_noise() -> Tensor:
            return torch.randn(shape, generator=noise, device=device)

        slot = torch.tensor([cache_config.slot(index)], device=device)
        if index < known:
            latent = context[:, index : index + 1]
        else:
            latent = sample(denoise, fresh_noise, levels if index else first_levels, how.solver)
        if index >= known and how.commit == "own":
            sampler.commit_own(slot)
        else:
            sampler.commit(latent, torch.zeros(b, 1, device=device), slot, views.words, *places)
        frames.append(latent)
        since += 1
    return torch.cat(frames, dim=1)


def _cache(
    transformer: WorldTransformer, config: CacheConfig, batch: int, device: torch.device
) -> KVCache:
    return KVCache(
        config,
        layers=transformer.config.layers,
        batch=batch,
        kv_heads=transformer.config.kv_heads,
        tokens_per_frame=transformer.config.tokens_per_frame,
        head_width=transformer.config.head_width,
        dtype=transformer.latent_in.weight.dtype,
        device=device,
    )


def _places(
    transformer: WorldTransformer, views: Views, anchor: Tensor, index: int, time: int
) -> _Tensors:
    pose = views.cameras[:, index].double() @ torch.linalg.inv(anchor)
    moment = torch.full((len(pose), 1), float(time), device=pose.device)
    lens = views.intrinsics[:, index : index + 1]
    geometry: Geometry = transformer.geometry(pose[:, None], lens, moment)
    return geometry.tensors()
