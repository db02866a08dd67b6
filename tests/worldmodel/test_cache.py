"""What is generated frame by frame is what was trained in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import tiny
from worldmodel import kv_cache
from worldmodel.attention import Committing, Mix, TeacherForcing, mix_by_matmul, mix_fused
from worldmodel.kv_cache import CacheConfig, KVCache, Ring
from worldmodel.sampler import Sampler
from worldmodel.transformer import EagerPlaces, Geometry, WorldTransformer

FRAMES = 8
CPU = torch.device("cpu")


def _clip() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    clean = torch.randn(1, FRAMES, 8, 4, generator=random)
    noisy = torch.randn(1, FRAMES, 8, 4, generator=random)
    sigma = torch.rand(1, FRAMES, generator=random)
    cameras = np.stack([camera.camera_from_world for camera in tiny.walk(FRAMES)])
    lens = torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(1, FRAMES, 4)
    return clean, noisy, sigma, torch.from_numpy(cameras)[None], lens


def _teacher_forced(model: WorldTransformer, cache: CacheConfig) -> Tensor:
    clean, noisy, sigma, poses, lens = _clip()
    geometry = model.geometry(poses, lens, torch.arange(FRAMES)[None].float())
    kernel = TeacherForcing(FRAMES, 8, cache, CPU)
    both = torch.cat([clean, noisy], 1)
    sigmas = torch.cat([torch.zeros_like(sigma), sigma], 1)
    words = torch.zeros(1, 1)
    out = model(both, sigmas, words, geometry.twice(), [kernel] * model.config.layers)
    return out[:, FRAMES:]


def _cache(config: CacheConfig, model: WorldTransformer) -> KVCache:
    c = model.config
    return KVCache(
        config,
        layers=c.layers,
        batch=1,
        kv_heads=c.kv_heads,
        tokens_per_frame=c.tokens_per_frame,
        head_width=c.head_width,
        dtype=torch.float32,
        device=CPU,
    )


@pytest.mark.parametrize("mix", [mix_fused, mix_by_matmul])
@pytest.mark.parametrize(("sink", "window"), [(0, 3), (1, 3), (2, 2), (0, 12)])
@torch.inference_mode()
def test_cached_step_by_step_equals_one_causal_pass(sink: int, window: int, mix: Mix) -> None:
    model, config = tiny.transformer(), CacheConfig(sink_frames=sink, window_frames=window)
    sampler = Sampler(model, tiny.autoencoder(), _cache(config, model), mix)
    clean, noisy, sigma, poses, lens = _clip()
    geometry = model.geometry(poses, lens, torch.arange(FRAMES)[None].float())
    words, made = torch.zeros(1, 1), []
    for i in range(FRAMES):
        places = geometry.frame(i).tensors()
        here = slice(i, i + 1)
        zero = torch.zeros(1, 1)
        # an Euler step from sigma to sigma - 1 leaves x - v: the velocity can be read off
        step = sampler.denoise(noisy[:, here], sigma[:, here], sigma[:, here] - 1, words, *places)
        made.append(noisy[:, here] - step)
        slot = torch.tensor([config.slot(i)])
        sampler.commit(clean[:, here], zero, slot, words, *places)
    torch.testing.assert_close(
        torch.cat(made, 1), _teacher_forced(model, config), rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_a_commit_writes_what_the_whole_model_would() -> None:
    model, config = tiny.transformer(), CacheConfig(sink_frames=1, window_frames=2)
    clean, _, _, poses, lens = _clip()
    geometry = model.geometry(poses, lens, torch.arange(FRAMES)[None].float())
    words, zero = torch.zeros(1, 1), torch.zeros(1, 1)
    short, whole = _cache(config, model), _cache(config, model)
    sampler = Sampler(model, tiny.autoencoder(), short)
    for i in range(FRAMES):
        slot, place, latent = torch.tensor([config.slot(i)]), geometry.frame(i), clean[:, i : i + 1]
        sampler.commit(latent, zero, slot, words, *place.tensors())
        whole.mark_filled(slot)
        kernels = [Committing(whole, layer, slot) for layer in range(model.config.layers)]
        model(latent, zero, words, EagerPlaces(place), kernels)
    assert torch.equal(short.keys, whole.keys)
    assert torch.equal(short.values, whole.values)


@torch.inference_mode()
def test_places_without_a_compiler_are_the_same_places() -> None:
    model = tiny.transformer()
    _, _, _, poses, lens = _clip()
    fused = model.geometry(poses, lens, torch.arange(FRAMES)[None].float())
    x = torch.randn(1, FRAMES, 8, 3, model.config.head_width)
    eager = EagerPlaces(fused)
    torch.testing.assert_close(eager.queries(x), fused.queries(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eager.keys(x), fused.keys(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eager.values(x), fused.values(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eager.outputs(x), fused.outputs(x), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_frame_sees_no_later_frame() -> None:
    model = tiny.transformer()
    clean, noisy, sigma, poses, lens = _clip()
    geometry: Geometry = model.geometry(poses, lens, torch.arange(FRAMES)[None].float())
    kernel = TeacherForcing(FRAMES, 8, tiny.CACHE, CPU)

    def run(history: Tensor) -> Tensor:
        both = torch.cat([history, noisy], 1)
        sigmas = torch.cat([torch.zeros_like(sigma), sigma], 1)
        kernels = [kernel] * model.config.layers
        return model(both, sigmas, torch.zeros(1, 1), geometry.twice(), kernels)[:, FRAMES:]

    changed = clean.clone()
    changed[:, 4:] += 1
    difference = (run(clean) - run(changed)).abs().amax((0, 2, 3))
    assert difference[:5].max() == 0  # frame 4 sees clean frames 0..3 only
    assert difference[5] > 1e-3


def test_reset_makes_a_used_cache_new() -> None:
    cache = _cache(tiny.CACHE, tiny.transformer())
    for frame in range(6):
        cache.mark_filled(torch.tensor([tiny.CACHE.slot(frame)]))
    assert bool(cache.valid().all())
    cache.reset()
    assert not bool(cache.valid().any())


@pytest.mark.parametrize("bytes_at_once", [1, 2 * 28 * 2 * 16 * 4, 2**26])
def test_memory_is_rewritten_some_frames_at_a_time(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of a whole layer would be several times as large while they are rewritten."""
    monkeypatch.setattr(kv_cache, "REWRITTEN_BYTES", bytes_at_once)
    cache = KVCache(
        CacheConfig(sink_frames=1, window_frames=4),
        layers=3,
        batch=1,
        kv_heads=2,
        tokens_per_frame=28,
        head_width=16,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    cache.all_keys.normal_()
    cache.all_values.normal_()
    keys, values, lengths = cache.keys.clone(), cache.values.clone(), set[int]()

    def doubled(part: Tensor) -> Tensor:
        lengths.add(part.shape[-2])
        return 2 * part

    own = cache.all_keys[..., 5 * 28 :, :].clone()
    cache.map(doubled, lambda part: -part)
    assert torch.equal(cache.keys, 2 * keys)
    assert torch.equal(cache.values, -values)
    assert torch.equal(cache.all_keys[..., 5 * 28 :, :], own)  # of frames being made: not memory
    frame = 28 * 2 * 16 * 4
    assert max(lengths) == 28 * min(5, max(1, bytes_at_once // frame))


def test_the_ring_keeps_sinks_and_the_newest_frames() -> None:
    config = CacheConfig(sink_frames=2, window_frames=3)
    assert [config.slot(frame) for frame in range(9)] == [0, 1, 2, 3, 4, 2, 3, 4, 2]


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("frames", [0, 1, 3, 7, 20])
def test_a_ring_of_another_length_keeps_the_newest_frames_in_order_and_goes_on_after_them(
    sinks: int, frames: int
) -> None:
    ring = Ring(CacheConfig(sink_frames=sinks, window_frames=6), sinks)
    slots: dict[int, int] = {}  # slot: the frame in it
    for frame in range(frames):
        slots[ring.slot(frame)] = frame
    for window in (3, 5, 6, 2, 6):
        known = sorted(slots.values())
        ring, kept = ring.resized(window, frames)
        slots = {new: slots[old] for new, old in enumerate(kept)}
        newest = [frame for frame in known if frame >= sinks][-window:]
        assert [slots[slot] for slot in sorted(slots)] == known[: min(sinks, frames)] + newest
        for _ in range(2):
            slots[ring.slot(frames)] = frames
            assert sorted(slots) == list(range(len(slots)))  # no gap: what is filled comes first
            assert len(slots) <= sinks + window
            frames += 1
        assert {frames - 1, frames - 2} <= set(slots.values())
