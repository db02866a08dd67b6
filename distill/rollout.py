"""Generate many clips side by side, frame by frame through the cache, along given cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial

import torch
from torch import Tensor

from worldmodel import flow
from worldmodel.attention import mix_by_matmul, mix_fused
from worldmodel.autoencoder import Autoencoder
from worldmodel.checkpoint import RolloutConfig
from worldmodel.cuda_graph import CudaGraph
from worldmodel.drift import holder
from worldmodel.kv_cache import CacheConfig, KVCache, Ring
from worldmodel.recall import Recall, Shown, bring_back
from worldmodel.sampler import Sampler, sample
from worldmodel.transformer import WorldTransformer, words_at
from worldmodel.turning import TURNING_FRAMES
from worldmodel.types import Camera, Intrinsics

ANCHOR_FRAMES = 16
CAPTURED_FRAMES = 256  # shorter rollouts are over before their graphs were captured

_Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What a batch of clips is seen from."""

    cameras: Tensor  # float64 [b f 4 4], camera_from_world
    intrinsics: Tensor  # float32 [b f 4]
    words: Tensor  # float32 [b v], or [b f v] where they change

    def camera(self, frame: int) -> Camera:
        """Of the first clip."""
        lens = Intrinsics(*self.intrinsics[0, frame].tolist())
        return Camera(self.cameras[0, frame].double().cpu().numpy(), lens)

    def clip(self, nth: int) -> Views:
        """Of one clip."""
        one = slice(nth, nth + 1)
        return Views(
            cameras=self.cameras[one], intrinsics=self.intrinsics[one], words=self.words[one]
        )


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
    frames = rollout_frames(
        transformer, autoencoder, cache_config, context, views, how=how, seed=seed
    )
    return torch.cat(list(frames), dim=1)


def rollout_frames(
    transformer: WorldTransformer,
    autoencoder: Autoencoder,
    cache_config: CacheConfig,
    context: Tensor,
    views: Views,
    *,
    how: RolloutConfig,
    seed: int,
) -> Iterator[Tensor]:
    """The same, frame by frame [b 1 p c], the context first: what is made is nowhere kept.

    Clips of a model that brings past frames back are made one beside the other, as each has its own;
    of the same noise as in a batch.
    """
    model = transformer, autoencoder, cache_config
    if how.recall is None:
        yield from _frames(*model, context, views, how, _noise(context, seed))
        return
    clips = [
        _frames(*model, clip, views.clip(nth), how, _noise(context, seed, nth))
        for nth, clip in enumerate(context.split(1))
    ]
    yield from (torch.cat(frames) for frames in zip(*clips, strict=True))


def _noise(like: Tensor, seed: int, clip: int | None = None) -> Callable[[], Tensor]:
    """What draws noise for a frame [b 1 p c] of a batch like [b f p c]; or of one `clip`, the same."""
    random = torch.Generator(like.device).manual_seed(seed)
    shape = (like.shape[0], 1, *like.shape[2:])
    rows = slice(None) if clip is None else slice(clip, clip + 1)
    return lambda: torch.randn(shape, generator=random, device=like.device)[rows]


@torch.no_grad()
def _frames(
    transformer: WorldTransformer,
    autoencoder: Autoencoder,
    cache_config: CacheConfig,
    context: Tensor,
    views: Views,
    how: RolloutConfig,
    fresh_noise: Callable[[], Tensor],
) -> Iterator[Tensor]:
    device, (b, known) = context.device, context.shape[:2]
    beside = 0 if how.recall is None else how.recall.frames
    cache = _cache(transformer, cache_config.widened(beside), b, device)
    mix = mix_by_matmul if device.type == "cpu" else mix_fused  # as a session does
    sampler = Sampler(transformer, autoencoder, cache, mix)
    levels = flow.schedule(how.steps, how.shift).tolist()
    first_levels = flow.schedule(how.first_frame_steps, how.shift).tolist()
    full = {x: torch.full((b, 1), x, device=device) for x in {0.0, *levels, *first_levels}}
    shape = (b, 1, *context.shape[2:])
    slots = torch.tensor([cache_config.slot(i) for i in range(views.cameras.shape[1])])
    slots = slots.to(device)
    hold = holder(autoencoder, how.drift_limit)
    passes = Passes(sampler.denoise, sampler.commit, sampler.commit_own)
    ring = Ring(cache_config, cache_config.sink_frames)
    recall = Recall.of(how.recall, context.shape[2:], device)
    for index, places in enumerate(_places(transformer, views, sampler)):
        at = (words_at(views.words, index, index + 1), *places)
        if index == 0 and worth_capturing(device, len(slots)):
            empty = torch.zeros(shape, device=device)
            passes = captured(sampler, empty, full[0.0], slots[:1], at)

        def denoise(
            latent: Tensor,
            now: float,
            to: float,
            at: _Tensors = at,
            one_step: Callable[..., Tensor] = passes.denoise,
        ) -> Tensor:
            return one_step(latent, full[now], full[to], *at)

        slot = slots[index : index + 1]
        if index < known:
            latent = context[:, index : index + 1]
        else:
            latent = sample(denoise, fresh_noise, levels if index else first_levels, how.solver)
            latent = hold(latent.clone())  # a captured graph owns its output and overwrites it
        if index >= known and how.commit == "own":
            passes.commit_own(slot)
        else:
            passes.commit(latent, full[0.0], slot, *at)
        if recall is not None and _told_new_words(views, index):
            recall.reset()
            cache.set_filled(ring.filled(index + 1))
        elif recall is not None and not _turns(views, index):
            shown = Shown(latent, views.camera(index), index)
            age = recall.config.age_frames
            commit = partial(_commit_alone, sampler, transformer, views, index, age)
            bring_back(recall, sampler, ring, shown, commit)
        yield latent


@dataclass(frozen=True, slots=True)
class Passes:
    """The functions of a `Sampler` that a rollout calls, as they are or captured."""

    denoise: Callable[..., Tensor]
    commit: Callable[..., Tensor]
    commit_own: Callable[..., Tensor]


def worth_capturing(device: torch.device, frames: int) -> bool:
    return device.type == "cuda" and frames >= CAPTURED_FRAMES


def captured(sampler: Sampler, latent: Tensor, level: Tensor, slot: Tensor, at: _Tensors) -> Passes:
    """The same as replayed CUDA graphs, which cost a GPU no launches; the memory is empty then."""
    denoise = CudaGraph(sampler.denoise, (latent, level, level, *at))
    commit = CudaGraph(sampler.commit, (latent, level, slot, *at))
    commit_own = CudaGraph(sampler.commit_own, (slot,))
    sampler.cache.reset()
    return Passes(denoise, commit, commit_own)


def _told_new_words(views: Views, index: int) -> bool:
    words = views.words
    return words.ndim == 3 and index > 0 and not torch.equal(words[:, index], words[:, index - 1])


def _turns(views: Views, index: int) -> bool:
    """Whether the world still turns to new words after frame `index`, as a session says."""
    since = range(max(index - TURNING_FRAMES + 2, 0), index + 1)
    return any(_told_new_words(views, frame) for frame in since)


def _commit_alone(
    sampler: Sampler,
    transformer: WorldTransformer,
    views: Views,
    index: int,
    age_frames: float,
    latent: Tensor,
    camera: Camera,
    slot: int,
) -> None:
    """Commit a past frame of a clip again, for who has made frame `index` and will make the next."""
    device, first = latent.device, index - index % ANCHOR_FRAMES
    pose = torch.from_numpy(camera.camera_from_world)
    pose = pose @ torch.linalg.inv(views.cameras[0, first].double().cpu())
    lens = torch.tensor([[astuple(camera.intrinsics)]], dtype=torch.float32, device=device)
    time = torch.full((1, 1), index + 1 - first - age_frames, device=device)
    geometry = transformer.geometry(pose[None, None].to(device), lens, time)
    words = words_at(views.words, index, index + 1)
    where, clean = torch.tensor([slot], device=device), torch.zeros(1, 1, device=device)
    sampler.commit_alone(latent, clean, where, words, *geometry.tensors())


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


def _places(transformer: WorldTransformer, views: Views, sampler: Sampler) -> Iterator[_Tensors]:
    """Where each frame is seen from, relative to an anchor that moves; the cache moves with it.

    Matrices are inverted on the CPU, some frames at once: on a GPU every inverse would wait for all
    that was launched before it.
    """
    device, cameras = views.words.device, views.cameras.double().cpu()
    for first in range(0, cameras.shape[1], ANCHOR_FRAMES):
        frames = slice(first, first + ANCHOR_FRAMES)
        if first:
            back = cameras[:, first - ANCHOR_FRAMES] @ torch.linalg.inv(cameras[:, first])
            sampler.move_anchor(back, float(ANCHOR_FRAMES))
        poses = cameras[:, frames] @ torch.linalg.inv(cameras[:, first : first + 1])
        times = torch.arange(poses.shape[1], dtype=torch.float32).expand(len(poses), -1)
        lenses = views.intrinsics[:, frames]
        geometry = transformer.geometry(poses.to(device), lenses, times.to(device))
        for nth in range(poses.shape[1]):
            yield geometry.frame(nth).tensors()
