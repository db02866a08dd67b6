"""Commits packed with the next frame's first pass leave the frames and the memory as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel import tiny, tiny_wan
from tests.worldmodel.test_captured import Beside, Replayed
from worldmodel import captured
from worldmodel import session as sessions
from worldmodel.attention import Cached, Committing, Packing
from worldmodel.checkpoint import PlayableConfig
from worldmodel.kv_cache import CacheConfig, KVCache
from worldmodel.recall import RecallConfig
from worldmodel.sampler import Sampler
from worldmodel.session import WorldSession
from worldmodel.types import Camera, Start

BLOCKS = ("playable.rollout.block_frames=3", "playable.cache.window_frames=5")
SINKS = ("playable.cache.sink_frames=1", "playable.cache.window_frames=3")


def _tiny(
    packed: bool, capture: bool = False, vocabulary: tuple[str, ...] = (), device: str = "cpu"
) -> WorldSession:
    return WorldSession(
        tiny.playable(),
        tiny.autoencoder(),
        tiny.transformer(vocabulary),
        torch.device(device),
        torch.float32,
        capture,
        compiled=False,
        packed=packed,
    )


def _wan(
    folder: Path,
    packed: bool,
    capture: bool,
    *overrides: str,
    device: str = "cpu",
    compiled: bool = False,
) -> WorldSession:
    how = {"capture": capture, "compiled": compiled, "packed": packed}
    return tiny_wan.session(folder, *overrides, device=torch.device(device), **how)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for them; see `test_captured.py`."""
    monkeypatch.setattr(captured, "CudaGraph", Replayed)
    monkeypatch.setattr(captured, "SideStream", Beside)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each pass of a sampler was called."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> None:
        function = getattr(Sampler, name)

        def call(*inputs: object) -> torch.Tensor:
            counted[name] += 1
            return function(*inputs)

        monkeypatch.setattr(Sampler, name, call)

    for name in ("denoise", "commit", "commit_and_denoise"):
        counting(name)
    return counted


Happening = Callable[[WorldSession], None]


def _play(
    session: WorldSession, steps: int, happening: Happening | None = None, image: bool = False
) -> list[np.ndarray]:
    """Frames of a walk; `happening` is what happens in the middle of it."""
    spec = session.spec
    walk = [
        Camera(camera.camera_from_world, spec.intrinsics)
        for camera in tiny.walk(1 + steps * spec.cameras_per_step)
    ]
    picture = np.full((spec.height_px, spec.width_px, 3), 90, np.uint8) if image else None
    made = [session.reset(Start(seed=2, image=picture), walk[0])[None]]
    for step in range(steps):
        if happening is not None and step == steps // 2:
            happening(session)
        first = 1 + step * spec.cameras_per_step
        made.append(session.step(walk[first : first + spec.cameras_per_step]))
    return made


def _same(packed: WorldSession, separate: WorldSession, steps: int, *what: object) -> None:
    for ours, theirs in zip(
        _play(packed, steps, *what),  # type: ignore[arg-type]
        _play(separate, steps, *what),  # type: ignore[arg-type]
        strict=True,
    ):
        assert (
            np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
        )  # a rounding of the last bit
    ours_left, theirs_left = packed.snapshot(), separate.snapshot()
    for name in ("keys", "values", "filled"):
        memories = ours_left["cache"][name], theirs_left["cache"][name]
        torch.testing.assert_close(*memories, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours_left["noise"], theirs_left["noise"])


@pytest.mark.parametrize("held", [0, 2, 4, None])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_each_half_sees_what_it_sees_in_a_pass_of_its_own(
    frames: int, held: int | None, last: bool
) -> None:
    random = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2 * frames, 6, 4, 8, generator=random)
    k, v = (torch.randn(1, 2 * frames, 6, 2, 8, generator=random) for _ in range(2))
    found = []
    for packed in (True, False):
        cache = KVCache(
            CacheConfig(sink_frames=1, window_frames=3),
            layers=1,
            batch=1,
            kv_heads=2,
            tokens_per_frame=6,
            head_width=8,
            dtype=torch.float32,
            device=torch.device("cpu"),
            block_frames=frames,
        )
        cache.keys.normal_(generator=torch.Generator().manual_seed(1))
        cache.values.normal_(generator=torch.Generator().manual_seed(2))
        # the newest slots; where memory is full, those of the oldest frames
        slot = torch.arange(frames) + (1 if held == 4 else held or 0)
        after = None if held is None else min(held + frames, 4)
        cache.mark_filled(slot)
        if packed:
            mixed = Packing(cache, 0, slot, held=after, last=last)(q, k, v)
        else:
            clean, new = ([x[:, half] for x in (q, k, v)] for half in _halves(frames))
            commit = Committing(cache, 0, slot, held=after)(*clean)
            commit = torch.zeros_like(commit) if last else commit  # nobody asks
            mixed = torch.cat([commit, Cached(cache, 0, held=after)(*new)], dim=1)
        found.append((mixed, cache.all_keys, cache.all_values))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def _halves(frames: int) -> tuple[slice, slice]:
    return slice(0, frames), slice(frames, None)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("image", [False, True])
def test_packed_play_is_separate_play_while_the_ring_wraps_and_the_anchor_moves(
    capture: bool, image: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANCHOR_FRAMES", 7)
    _same(_tiny(True, capture), _tiny(False), 18, None, image)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("overrides", [(), SINKS, BLOCKS])
def test_also_with_wan_with_sinks_and_in_blocks(
    tmp_path: Path, capture: bool, image: bool, overrides: tuple[str, ...]
) -> None:
    packed = _wan(tmp_path / "packed", True, capture, *overrides)
    separate = _wan(tmp_path / "separate", False, False, *overrides)
    _same(packed, separate, 5 if overrides == BLOCKS else 8, None, image)


def test_a_packed_step_takes_one_pass_fewer(passes: Counter[str]) -> None:
    _play(_tiny(False), 5)
    assert passes == {"denoise": 3 + 5 * 2, "commit": 5}  # the last one is pending
    passes.clear()
    _play(_tiny(True), 5)
    assert passes == {"denoise": 3 + 5, "commit_and_denoise": 5}


def test_a_moved_anchor_settles_first(
    passes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANCHOR_FRAMES", 4)
    _play(_tiny(True), 7)
    assert (passes["commit"], passes["commit_and_denoise"]) == (1, 6)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("capture", [False, True])
def test_a_picture_before_blocks_is_committed_alone_and_blocks_are_packed(
    tmp_path: Path, capture: bool, passes: Counter[str]
) -> None:
    session = _wan(tmp_path / "m", True, capture, *BLOCKS)
    passes.clear()  # of what was captured
    _play(session, 4, image=True)
    assert (passes["commit"], passes["commit_and_denoise"]) == (1, 3)


def _snapshot(session: WorldSession) -> None:
    session.snapshot()


def _go_back(session: WorldSession) -> None:
    state = session.snapshot()
    camera = Camera(tiny.walk(3)[2].camera_from_world, session.spec.intrinsics)
    for _ in range(3):
        session.step([camera])  # leaves something pending
    session.restore(state)


def _other_words(session: WorldSession) -> None:
    session.set_prompt("night")


def _less_memory(session: WorldSession) -> None:
    session.set_window(2)


def _timed(session: WorldSession) -> None:
    session.denoising(1)()


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("happening", [_snapshot, _go_back, _other_words, _less_memory, _timed])
def test_whatever_happens_in_the_middle_leaves_packed_play_separate_play(
    capture: bool, happening: Happening
) -> None:
    words = ("day", "night")
    packed, separate = _tiny(True, capture, words), _tiny(False, False, words)
    _same(packed, separate, 28 if happening is _other_words else 12, happening)


def test_packed_play_goes_on_from_a_snapshot_bit_for_bit() -> None:
    session, other, cameras = _tiny(True), _tiny(True), tiny.walk(14)
    session.reset(Start(seed=1), cameras[0])
    for camera in cameras[1:6]:
        session.step([camera])
    state = session.snapshot()
    first = [session.step([camera]) for camera in cameras[6:]]
    for again in (session, other):
        again.restore(state)
        assert np.array_equal(first, [again.step([camera]) for camera in cameras[6:]])


@pytest.mark.usefixtures("graphs")
def test_a_graph_packs_for_every_number_of_frames_in_memory_if_asked_only() -> None:
    counts = captured.held_counts(tiny.CACHE.slots, 1)
    for packed in (True, False):
        graphs = _tiny(packed, capture=True)._graphs
        assert graphs is not None
        held = [held for name, held in graphs._graphs if name == "commit_and_denoise"]
        assert held == (counts if packed else [])


def _own(playable: PlayableConfig) -> PlayableConfig:
    return replace(playable, rollout=replace(playable.rollout, commit="own"))


def _recalling(playable: PlayableConfig) -> PlayableConfig:
    recall = RecallConfig(frames=1, least_overlap=0.3)
    return replace(playable, rollout=replace(playable.rollout, recall=recall))


@pytest.mark.parametrize(
    ("change", "runtime", "message"),
    [
        (_own, "torch", "rollout.commit own"),
        (_recalling, "torch", "rollout.recall"),
        (lambda playable: playable, "openvino", "need --runtime torch, not openvino"),
    ],
)
def test_what_has_nothing_to_pack_is_refused(
    change: Callable[[PlayableConfig], PlayableConfig], runtime: str, message: str
) -> None:
    networks = tiny.autoencoder(), tiny.transformer(), torch.device("cpu"), torch.float32
    with pytest.raises(ValueError, match=message):
        WorldSession(change(tiny.playable()), *networks, runtime=runtime, packed=True)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_packed_play_from_captured_graphs_is_that_without() -> None:
    graphed, eager = _tiny(True, True, device="cuda"), _tiny(True, device="cuda")
    for ours, theirs in zip(_play(graphed, 50), _play(eager, 50), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [(), SINKS, BLOCKS])
def test_packed_play_compiled_and_captured_is_separate_play_within_float32(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    packed = _wan(tmp_path / "a", True, True, *overrides, device="cuda", compiled=True)
    plain = _wan(tmp_path / "b", False, False, *overrides, device="cuda")
    ours, theirs = (np.concatenate(_play(session, 8)).astype(float) for session in (packed, plain))
    assert np.square(ours - theirs).mean() < 255**2 / 10**4.5  # 45 dB
