"""Our Wan transformer: equal to the published one, and to itself whichever way its history is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from tests.worldmodel import tiny, tiny_wan
from worldmodel import wan_keys
from worldmodel.attention import TeacherForcing, attend_all, mix_fused
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.sampler import Sampler
from worldmodel.wan import WanConfig, WanTransformer

FRAMES = 6
CPU = torch.device("cpu")
FULL_WIDTH = {
    "width": 1536,
    "heads": 12,
    "mlp_width": 8960,
    "text_width": 4096,
    "noise_frequencies": 128,
    "layers": 1,
}


def _theirs(model: WanTransformer) -> Any:
    """diffusers' transformer with the weights of ours."""
    diffusers = pytest.importorskip("diffusers")
    config = model.config
    theirs = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=config.vae_channels,
        out_channels=config.vae_channels,
        text_dim=config.text_width,
        freq_dim=2 * config.noise_frequencies,
        ffn_dim=config.mlp_width,
        num_layers=config.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )
    entries, weights = wan_keys.table(config, "diffusers"), model.state_dict()
    theirs.load_state_dict({e.their_name: weights[e.name].view(e.their_shape) for e in entries})
    return theirs.eval()


@pytest.mark.parametrize("changes", [{}, {"width": 64, "heads": 2}, FULL_WIDTH])
@torch.inference_mode()
def test_the_bidirectional_forward_is_that_of_diffusers(changes: dict[str, int]) -> None:
    config = tiny_wan.config(camera=False, **changes)
    model = tiny_wan.transformer(config)
    random = torch.Generator().manual_seed(2)
    video = torch.randn(1, 16, 3, 4, 6, generator=random)
    text, t = tiny_wan.prompt(config), 637.5
    theirs = _theirs(model)(video, torch.tensor([t]), text, return_dict=False)[0]
    tokens = rearrange(video, "b c f (h y) (w x) -> b f (h w) (c y x)", y=2, x=2)
    poses = torch.eye(4).expand(1, 3, 4, 4)
    geometry = model.geometry(poses, tiny_wan.LENS.expand(1, 3, 4), torch.arange(3.0)[None])
    sigma = torch.full((1, 3), t / 1000)
    kernels = [attend_all] * config.layers
    ours = model(tokens, sigma, model.condition(text), model.places(geometry), kernels)
    ours = rearrange(ours, "b f (h w) (c y x) -> b c f (h y) (w x)", h=2, y=2, x=2)
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    assert error <= 1e-4


def _clip(config: WanConfig) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    shape = (1, FRAMES, config.tokens_per_frame, config.latent_channels)
    clean, noisy = (torch.randn(shape, generator=random) for _ in range(2))
    sigma = torch.rand(1, FRAMES, generator=random)
    cameras = np.stack([camera.camera_from_world for camera in tiny.walk(FRAMES)])
    return clean, noisy, sigma, torch.from_numpy(cameras)[None], tiny_wan.LENS.expand(1, FRAMES, 4)


def _uncached(model: WanTransformer, cache: CacheConfig, block: int) -> Tensor:
    """One pass over the whole clip, masked."""
    clean, noisy, sigma, poses, lens = _clip(model.config)
    geometry = model.geometry(poses, lens, torch.arange(float(FRAMES))[None]).twice()
    kernel = TeacherForcing(FRAMES, model.config.tokens_per_frame, cache, CPU, block)
    words = model.condition(tiny_wan.prompt(model.config))
    both, sigmas = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(sigma), sigma], 1)
    kernels = [kernel] * model.config.layers
    return model(both, sigmas, words, model.places(geometry), kernels)[:, FRAMES:]


def _sampler(model: WanTransformer, cache: CacheConfig, block: int) -> Sampler:
    config = model.config
    memory = KVCache(
        cache,
        layers=config.layers,
        batch=1,
        kv_heads=config.kv_heads,
        tokens_per_frame=config.tokens_per_frame,
        head_width=config.head_width,
        dtype=torch.float32,
        device=CPU,
        block_frames=block,
    )
    return Sampler(model, tiny.autoencoder(), memory, mix_fused)


def _cached(model: WanTransformer, cache: CacheConfig, block: int, moved_at: int = 99) -> Tensor:
    """Block by block through the ring; from frame `moved_at` on seen from another anchor."""
    clean, noisy, sigma, poses, lens = _clip(model.config)
    sampler = _sampler(model, cache, block)
    words, made = model.condition(tiny_wan.prompt(model.config)), []
    time = torch.arange(float(FRAMES))[None]
    for start in range(0, FRAMES, block):
        if start == moved_at:
            anchor = poses[:, start]
            poses = poses @ torch.linalg.inv(anchor)[:, None]
            time = time - start
            sampler.move_anchor(torch.linalg.inv(anchor), float(start))
        here = slice(start, start + block)
        places = model.geometry(poses[:, here], lens[:, here], time[:, here]).tensors()
        # an Euler step from sigma to sigma - 1 leaves x - v: the velocity can be read off
        inputs = noisy[:, here], sigma[:, here], sigma[:, here] - 1, words, *places
        made.append(noisy[:, here] - sampler.denoise(*inputs))
        slots = torch.tensor([cache.slot(start + i) for i in range(block)])
        zero = torch.zeros(1, block)
        sampler.commit(clean[:, here], zero, slots, words, *places)
    return torch.cat(made, 1)


@pytest.mark.parametrize("camera", [True, False])
@pytest.mark.parametrize(("block", "sink", "window"), [(1, 0, 3), (1, 1, 2), (3, 0, 3), (3, 0, 12)])
@torch.inference_mode()
def test_the_cached_rollout_is_the_uncached_masked_forward(
    camera: bool, block: int, sink: int, window: int
) -> None:
    model = tiny_wan.transformer(tiny_wan.config(camera))
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    cached, uncached = _cached(model, cache, block), _uncached(model, cache, block)
    torch.testing.assert_close(cached, uncached, rtol=1e-4, atol=1e-4)
    assert uncached.abs().mean() > 0.1


@torch.inference_mode()
def test_moving_the_anchor_leaves_the_next_frames_unchanged() -> None:
    model = tiny_wan.transformer()
    cache = CacheConfig(sink_frames=1, window_frames=3)
    torch.testing.assert_close(
        _cached(model, cache, 1, moved_at=4), _cached(model, cache, 1), rtol=1e-3, atol=1e-3
    )


@torch.inference_mode()
def test_a_camera_branch_whose_projection_is_zero_is_no_camera() -> None:
    cache = CacheConfig(sink_frames=0, window_frames=3)
    model = tiny_wan.transformer()
    with_branch = _uncached(model, cache, 1)
    for block in model.blocks:
        block.camera_o.weight.zero_()  # type: ignore[union-attr, operator]
        block.camera_o.bias.zero_()  # type: ignore[union-attr, operator]
    plain = WanTransformer(replace(model.config, camera=False)).eval()
    weights = {k: v for k, v in model.state_dict().items() if "camera_o" not in k}
    plain.load_state_dict(weights)
    torch.testing.assert_close(_uncached(model, cache, 1), _uncached(plain, cache, 1))
    assert (with_branch - _uncached(plain, cache, 1)).abs().max() > 0.01


@torch.inference_mode()
def test_the_camera_branch_is_the_published_formula_in_groups_of_four_neighbours() -> None:
    """q <- P^T q, k <- P^-1 k, v <- P^-1 v, o <- P o, written down once more, channel by channel."""
    config = tiny_wan.config()
    model, (_, _, _, poses, lens) = tiny_wan.transformer(config), _clip(config)
    geometry = model.geometry(poses, lens, torch.arange(float(FRAMES))[None])
    places = model.places(geometry)
    random = torch.Generator().manual_seed(4)
    shape = (1, FRAMES, config.tokens_per_frame, config.heads, config.head_width)
    q, k, v = (torch.randn(shape, generator=random) for _ in range(3))
    lift = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    lift[:, 0, 0], lift[:, 1, 1] = lens[0, :, 0].double(), lens[0, :, 1].double()
    p = (lift @ poses[0]).float()  # [f 4 4]

    def by_hand(x: Tensor, matrix: Tensor) -> Tensor:
        groups = [
            torch.einsum("fij,bfpaj->bfpai", matrix, x[..., start : start + 4])
            for start in range(0, config.head_width, 4)
        ]
        return torch.cat(groups, -1)

    heads = slice(config.heads, None)  # the second half of the heads is the branch
    ours = torch.einsum(
        "bfpad,bgrad->bafpgr", places.queries(q)[:, :, :, heads], places.keys(k)[:, :, :, heads]
    )
    theirs = torch.einsum("bfpad,bgrad->bafpgr", by_hand(q, p.mT), by_hand(k, p.inverse()))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    carried = places.outputs(places.values(v))[:, :, :, heads]
    torch.testing.assert_close(carried, v, rtol=1e-3, atol=1e-3)
    mixed = places.values(v)[:, :1].expand(1, FRAMES, -1, -1, -1)  # all attend to frame 0
    expected = by_hand(by_hand(v[:, :1], p[:1].inverse()).expand(shape), p)
    torch.testing.assert_close(
        places.outputs(mixed)[:, :, :, heads], expected, rtol=1e-3, atol=1e-3
    )


@torch.inference_mode()
def test_a_new_camera_branch_starts_at_zero() -> None:
    model = WanTransformer(tiny_wan.config())
    assert not any(v.any() for k, v in model.state_dict().items() if "camera_o" in k)


@torch.inference_mode()
def test_the_prompt_and_the_camera_change_what_is_predicted() -> None:
    model, cache = tiny_wan.transformer(), CacheConfig(sink_frames=0, window_frames=3)
    clean, noisy, sigma, poses, lens = _clip(model.config)
    sampler = _sampler(model, cache, 1)

    def step(words: Tensor, camera: Tensor) -> Tensor:
        time, place = torch.zeros(1, 1), poses[:, :1] @ camera
        places = model.geometry(place, lens[:, :1], time).tensors()
        return sampler.denoise(noisy[:, :1], sigma[:, :1], sigma[:, :1] - 1, words, *places)

    words = [model.condition(tiny_wan.prompt(model.config, seed)) for seed in (1, 2)]
    first = torch.eye(4, dtype=torch.float64)
    assert (step(words[0], first) - step(words[1], first)).abs().max() > 0.01
    # one frame alone has no camera to be compared with: the encoding is relative
    time, slot = torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    places = model.geometry(poses[:, :1], lens[:, :1], time).tensors()
    sampler.commit(clean[:, :1], time, slot, words[0], *places)
    moved = first.clone()
    moved[2, 3] = 0.5
    assert (step(words[0], first) - step(words[0], moved)).abs().max() > 0.01


def test_a_prompt_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="7 prompt embeddings of 20"):
        tiny_wan.transformer().condition(torch.zeros(1, 7, 19))
