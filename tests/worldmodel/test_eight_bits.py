"""Memory in 8 bits is memory rounded, whatever is done to it, and attention reads it as such."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import tiny, tiny_wan
from worldmodel import attention, session
from worldmodel.attention import Cached, Committing, join_parts, mix_fused
from worldmodel.cuda_graph import CudaGraph
from worldmodel.eight_bits import (
    BLOCK,
    MOST_PARTS,
    EightBitCache,
    PlainKernels,
    block_part,
    even_blocks,
    to_float8,
)
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.session import WorldSession
from worldmodel.types import Camera, Start

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LAYERS, HEADS, TOKENS, WIDTH, BLOCK_FRAMES = 2, 3, 5, 8, 2  # odd, so that nothing is aligned
CONFIG = CacheConfig(sink_frames=1, window_frames=4)


def _cache(dtype: torch.dtype = torch.bfloat16) -> EightBitCache:
    return EightBitCache(
        CONFIG,
        kernels=PlainKernels(),
        layers=LAYERS,
        batch=1,
        kv_heads=HEADS,
        tokens_per_frame=TOKENS,
        head_width=WIDTH,
        dtype=dtype,
        device=CPU,
        block_frames=BLOCK_FRAMES,
    )


def _frames(count: int, *layers: int) -> tuple[Tensor, Tensor]:
    """Some are beyond what e4m3 knows."""
    keys, values = 200 * torch.randn(2, *layers, 1, HEADS, count * TOKENS, WIDTH)
    return keys, values


def _filled() -> EightBitCache:
    torch.manual_seed(0)
    cache = _cache()
    cache.write_layers(*_frames(CONFIG.slots, LAYERS), torch.arange(CONFIG.slots))
    cache.set_filled(CONFIG.slots)
    return cache


def _same(found: Tensor, wanted: Tensor) -> bool:
    return torch.equal(found.float(), wanted.float())


def _is_rounded(cache: KVCache) -> bool:
    assert isinstance(cache, EightBitCache)
    values = cache.small_values[..., : cache.all_values.shape[3]].transpose(-1, -2)
    keys = _same(cache.small_keys, to_float8(cache.all_keys))
    return keys and _same(values, to_float8(cache.all_values))


OPERATIONS: dict[str, Callable[[EightBitCache], object]] = {
    "write": lambda cache: cache.write(1, *_frames(2), torch.tensor([4, 2])),
    "write_own": lambda cache: cache.write_own(1, *_frames(2)),
    "write_own, held": lambda cache: cache.write_own(0, *_frames(2), held=3),
    "write_layers": lambda cache: cache.write_layers(*_frames(1, LAYERS), torch.tensor([3])),
    "move": lambda cache: cache.move(4, 1),
    "gather": lambda cache: cache.gather([3, 1, 4]),
    "gather nothing": lambda cache: cache.gather([]),
    "map": lambda cache: cache.map(lambda keys: 0.3 * keys, lambda values: -values),
    "map_keys": lambda cache: cache.map_keys(lambda keys: 0.7 * keys, range(2, 4)),
    "load_state": lambda cache: cache.load_state(
        {name: 0.5 * x if x.is_floating_point() else x for name, x in cache.state().items()}
    ),
    "reset": lambda cache: cache.reset(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_in_memory_in_8_bits_is_what_is_there_rounded_once(name: str) -> None:
    cache = _filled()
    former = cache.all_keys.clone(), cache.all_values.clone()
    assert _is_rounded(cache)
    OPERATIONS[name](cache)
    assert _is_rounded(cache)
    changed = not all(map(torch.equal, former, (cache.all_keys, cache.all_values)))
    assert changed == (name not in ("gather nothing", "reset"))


@pytest.mark.parametrize("held", [None, 3, 5])
def test_what_a_last_step_computed_is_kept_in_8_bits_too(held: int | None) -> None:
    cache = _filled()
    for layer in range(LAYERS):
        cache.write_own(layer, *_frames(2), held)
    cache.keep_own(torch.tensor([4, 1]), held)
    assert _is_rounded(cache)


def test_every_row_of_values_begins_where_tiles_may_begin() -> None:
    cache = _cache()
    for layer in range(LAYERS):
        keys, values = cache.small_keys[layer], cache.small_values[layer]
        assert values.stride(2) % 16 == values.stride(3) - 1 == 0
        assert not (keys.storage_offset() * WIDTH) % 8 and not values.storage_offset() % 16
        assert keys.is_contiguous() and values.is_contiguous()


@pytest.mark.parametrize("held", [0, 1, 3])
def test_frames_attend_to_memory_in_8_bits_where_there_are_many_queries(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    eight, plain = _cache(torch.float32), KVCache(
        CONFIG,
        layers=LAYERS,
        batch=1,
        kv_heads=HEADS,
        tokens_per_frame=TOKENS,
        head_width=WIDTH,
        dtype=torch.float32,
        device=CPU,
        block_frames=BLOCK_FRAMES,
    )  # fmt: skip
    content = torch.randn(2, LAYERS, 1, HEADS, held * TOKENS, WIDTH)
    q, k, v = (torch.randn(1, BLOCK_FRAMES, TOKENS, a, WIDTH) for a in (2 * HEADS, HEADS, HEADS))
    slots = torch.arange(held, held + BLOCK_FRAMES)

    def mixed(cache: KVCache) -> list[Tensor]:
        if held:
            cache.write_layers(*content, torch.arange(held))
        kernels = Cached(cache, 1, held=held), Committing(cache, 1, slots, held=held + BLOCK_FRAMES)
        return [kernel(q, k, v) for kernel in kernels]

    wanted = mixed(plain)
    assert all(map(torch.equal, mixed(eight), wanted))  # few queries
    monkeypatch.setattr(attention, "MANY_QUERIES", 1)
    for found, exact in zip(mixed(eight), wanted, strict=True):
        assert found.shape == exact.shape
        assert 0.005 < float((found - exact).norm() / exact.norm()) < 0.06


def test_where_empty_slots_are_hidden_by_a_bias_memory_is_read_as_it_is() -> None:
    cache = _filled()
    assert cache.seen(0, None).attend is None and cache.remembered(0, None).attend is None


def _in_8_bits(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> WorldSession:
    """A session on the CPU as if it were a GPU that has all that is needed."""
    for name, value in {
        "check_fp8": lambda _device: None,
        "attends_in_eight_bits": lambda *_: True,
        "_eight_bit_kernels": lambda _device: PlainKernels(),
    }.items():
        monkeypatch.setattr(session, name, value)
    monkeypatch.setattr(attention, "MANY_QUERIES", 1)
    return _session(folder, CPU, torch.float32, *overrides, capture=False, fp8=True)


def _session(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *overrides: str,
    capture: bool,
    fp8: bool,
) -> WorldSession:
    how = {"capture": capture, "fp8": fp8}
    return tiny_wan.session(folder, *overrides, device=device, dtype=dtype, **how)


def _walk(session: WorldSession, steps: int) -> list[list[Camera]]:
    lens, block = session.spec.intrinsics, session.spec.cameras_per_step
    walk = [Camera(camera.camera_from_world, lens) for camera in tiny.walk(steps * block)]
    return [walk[first : first + block] for first in range(0, len(walk), block)]


@pytest.mark.parametrize("overrides", [(), ("playable.rollout.block_frames=2",)])
def test_a_session_keeps_its_memory_in_8_bits_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    eight = _in_8_bits(tmp_path / "eight", monkeypatch, *overrides)
    plain = _session(tmp_path / "plain", CPU, torch.float32, *overrides, capture=False, fp8=False)
    first, *others = _walk(eight, 6)
    plain.reset(Start(seed=3), first[0])
    errors = []
    for step, cameras in enumerate(others):
        eight.restore(plain.snapshot())
        assert _is_rounded(eight._cache)
        if step == 3:
            for one in (eight, plain):
                one.move_anchor(cameras[0].camera_from_world)
            assert _is_rounded(eight._cache)
        frames = [one.step(cameras).astype(float) for one in (eight, plain)]
        assert _is_rounded(eight._cache)
        eight.settle()
        assert _is_rounded(eight._cache)
        errors.append(np.abs(np.subtract(*frames)).mean() / frames[1].std())
    assert 0.0 < max(errors) < 0.2
    eight.set_window(eight.spec.windows[-1])
    eight.step(others[-1])
    assert _is_rounded(eight._cache)


@pytest.mark.parametrize("keys", [1, 127, 128, 129, 1560, 4097, 6 * 1560, 21 * 1560])
def test_parts_are_whole_blocks_and_none_is_empty(keys: int) -> None:
    for tiles in (1, 132, 300, 2352):
        parts = even_blocks(tiles, keys, 132)
        part = block_part(keys, parts)
        assert 1 <= parts <= MOST_PARTS
        assert part % BLOCK == 0 and (parts - 1) * part < keys <= parts * part


@pytest.mark.parametrize(("latents", "parts"), [(1, 1), (2, 2), (6, 3), (21, 5)])
def test_a_frame_of_wan_is_cut_as_it_was_fastest_on_an_h100(latents: int, parts: int) -> None:
    assert even_blocks(12 * 25, latents * 1560, 132) == parts


def test_the_kernels_compute_what_pytorch_does() -> None:
    """In triton's interpreter, of which one process has either all kernels or none."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    subprocess.run(
        [sys.executable, "-m", "tests.worldmodel.interpreted"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=200,
    )


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("parts", [1, 3, 5])
@pytest.mark.parametrize("held", [1560, 2 * 1560, 5 * 1560, 4 * 1560 + 1, 3 * 1560 - 1])
def test_8_bit_attention_on_a_gpu_is_that_of_its_rounded_inputs(held: int, parts: int) -> None:
    from worldmodel.fp8_attention import attend_fp8

    torch.manual_seed(0)
    heads, room = 3, 6 * 1560
    q, k, v = (to_float8(2 * _draw(n, heads, 128)) for n in (1560, room, room))
    keys, values = k.transpose(0, 1).contiguous(), v.permute(1, 2, 0).contiguous()
    for beyond in (keys[:, held:], values[:, :, held:]):
        beyond.view(torch.uint8).fill_(0x7F)  # not a number
    mixed, sums = attend_fp8(q, keys, values, held, parts, torch.bfloat16)
    queries, seen, of = (x.float().transpose(0, 1) for x in (q, k[:held], v[:held]))
    scores = queries @ seen.transpose(1, 2) / 128**0.5
    wanted, found = scores.softmax(-1) @ of, join_parts(mixed, sums)[0].float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.04
    assert float((sums[..., 0].logsumexp(0) - scores.logsumexp(-1)).abs().max()) < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1560, 1027])
def test_memory_in_8_bits_on_a_gpu_is_memory_rounded(tokens: int) -> None:
    """Also where frames begin at no multiple of 16 bytes, and a captured graph writes them."""
    from worldmodel.fp8_attention import TritonKernels

    torch.manual_seed(0)
    cache = EightBitCache(
        CacheConfig(sink_frames=0, window_frames=4),
        kernels=TritonKernels(132, join_parts),
        layers=2,
        batch=1,
        kv_heads=3,
        tokens_per_frame=tokens,
        head_width=128,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )
    slots = torch.tensor([3, 1], device="cuda")
    cache.write_layers(
        200 * _draw(2, 1, 3, 2 * tokens, 128), _draw(2, 1, 3, 2 * tokens, 128), slots
    )
    assert _is_rounded(cache)
    cache.map(lambda keys: 0.005 * keys, lambda values: -values)
    assert _is_rounded(cache)
    q, k, v = (_draw(1, 1, tokens, 3, 128) for _ in range(3))
    graph = CudaGraph(Cached(cache, 1, mix_fused, held=3), (q, k, v))
    for _ in range(2):
        q, k, v = (_draw(1, 1, tokens, 3, 128) for _ in range(3))
        found = graph(q, k, v).float()
        assert _is_rounded(cache)
        small = cache.small_keys[1], cache.small_values[1]
        wanted = PlainKernels().attend(q[0].transpose(1, 2), *small, held=4 * tokens).float()
        assert float((found[0].transpose(1, 2) - wanted).norm() / wanted.norm()) < 0.04


# the smallest for which attention in 8 bits is
LARGE = (
    "transformer.grid=[32, 32]",
    "transformer.width=256",
    "decoder.height_px=512",
    "decoder.width_px=512",
)


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [(), ("playable.rollout.block_frames=2",)])
def test_a_captured_session_in_8_bits_makes_what_a_plain_one_makes(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    where = torch.device("cuda"), torch.bfloat16, *LARGE, *overrides
    fast = _session(tmp_path / "fast", *where, capture=True, fp8=True)
    eager = _session(tmp_path / "eager", *where, capture=False, fp8=True)
    true = _session(tmp_path / "true", *where, capture=False, fp8=False)
    assert isinstance(fast._cache, EightBitCache) and isinstance(eager._cache, EightBitCache)
    first, *others = _walk(true, 6)
    true.reset(Start(seed=3), first[0])
    for cameras in others:
        for one in (fast, eager):
            one.restore(true.snapshot())
            one.step(cameras)
            assert _is_rounded(one._cache)
        true.step(cameras)
        found, like, exact = (
            torch.cat([one.snapshot()["cache"][name].float() for name in ("keys", "values")])
            for one in (fast, eager, true)
        )
        assert torch.isfinite(found).all()
        assert float((found - like).norm() / like.norm()) < 0.06
        assert float((found - exact).norm() / exact.norm()) < 0.1
