"""Attention by a mask of whole frames is the same from a few dense attentions as from the mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from distill.histories import Beside, NoisyHistory, mask_of_frames
from distill.stage_networks import KEPT
from worldmodel import attention, frame_attention
from worldmodel.attention import LargeFrames, TeacherForcing, tiles_of_frames
from worldmodel.frame_attention import Piece, attend_frames, can_attend, pieces_of, runs_of
from worldmodel.kv_cache import CacheConfig

CPU = torch.device("cpu")
FRAMES, TOKENS, HEADS, WIDTH = 6, 5, 2, 8
HALF, FULL = torch.bfloat16, torch.float32
Make = Callable[[CacheConfig], Any]


def _large(seen: Tensor, tokens: int) -> LargeFrames:
    return LargeFrames(seen.cpu(), tiles_of_frames(seen, tokens))


@pytest.fixture
def small_frames_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is for large frames on a GPU, for small ones on a CPU."""
    monkeypatch.setattr(frame_attention, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(attention, "mask_of_frames", _large)


def _drawn(frames: int, tokens: int = TOKENS, batch: int = 2) -> Tensor:
    return torch.randn(batch, frames, tokens, HEADS, WIDTH, requires_grad=True)


def _with_gradients(
    attend: Callable[..., Tensor], inputs: list[Tensor], weights: Tensor
) -> list[Tensor]:
    """What comes out, then the gradients of the inputs."""
    mixed = attend(*inputs)
    return [mixed.detach(), *torch.autograd.grad((mixed * weights).sum(), inputs)]


def _check(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], frames: int) -> None:
    inputs = [_drawn(frames) for _ in "qkv"]
    weights = torch.randn_like(inputs[0])
    found = _with_gradients(ours, inputs, weights)
    for here, known in zip(found, _with_gradients(theirs, inputs, weights), strict=True):
        torch.testing.assert_close(here, known, rtol=1e-5, atol=1e-5)


MEMORIES = [(0, 20), (0, 3), (1, 3), (2, 2), (0, 1)]


@pytest.mark.parametrize(("sink", "window"), MEMORIES)
@pytest.mark.parametrize("block_frames", [1, 3])
def test_teacher_forcing_gives_what_the_dense_mask_gives_and_its_gradients(
    sink: int, window: int, block_frames: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    dense = TeacherForcing(FRAMES, TOKENS, cache, CPU, block_frames)
    request.getfixturevalue("small_frames_count")
    ours = TeacherForcing(FRAMES, TOKENS, cache, CPU, block_frames)
    assert isinstance(dense.mask, Tensor)
    assert isinstance(ours.mask, LargeFrames)
    _check(ours, dense, 2 * FRAMES)


@pytest.mark.parametrize(("sink", "window"), MEMORIES)
def test_a_noisy_history_gives_what_the_dense_mask_gives_and_its_gradients(
    sink: int, window: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    dense = NoisyHistory(FRAMES, TOKENS, cache, CPU)
    request.getfixturevalue("small_frames_count")
    ours = NoisyHistory(FRAMES, TOKENS, cache, CPU)
    assert isinstance(ours.mask, LargeFrames)
    _check(ours, dense, FRAMES)


@pytest.mark.parametrize(("sink", "window"), MEMORIES)
def test_remembered_frames_beside_new_ones_are_seen_as_by_the_dense_mask(
    sink: int, window: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    cache = CacheConfig(sink_frames=sink, window_frames=window)

    def seen(query: Tensor, key: Tensor) -> Tensor:
        own = key - FRAMES == query
        return (cache.holds(query - 1, key) & (key < FRAMES)) | own

    masks = [mask_of_frames(seen, (FRAMES, 2 * FRAMES), TOKENS, CPU)]
    request.getfixturevalue("small_frames_count")
    masks.append(mask_of_frames(seen, (FRAMES, 2 * FRAMES), TOKENS, CPU))
    assert isinstance(masks[1], LargeFrames)
    remembered = [_drawn(FRAMES) for _ in "kv"]
    new = [_drawn(FRAMES) for _ in "qkv"]
    weights = torch.randn_like(new[0])
    found = []
    for mask in masks:
        mixed = Beside(*remembered, mask)(*new)
        gradients = torch.autograd.grad((mixed * weights).sum(), [*new, *remembered])
        found.append([mixed.detach(), *gradients])
    for known, here in zip(*found, strict=True):
        torch.testing.assert_close(here, known, rtol=1e-5, atol=1e-5)


def _kernel(frames: int = FRAMES, window: int = 20) -> TeacherForcing:
    return TeacherForcing(frames, TOKENS, CacheConfig(sink_frames=0, window_frames=window), CPU)


def test_a_clean_frame_and_the_noisy_one_after_it_are_one_piece_and_own_frames_another() -> None:
    seen = ((True, False, False, False), (True, True, False, False))
    noisy = ((False, False, True, False), (True, False, False, True))
    assert pieces_of(seen + noisy) == (
        Piece(1, (1,), (0, 1)),
        Piece(1, (0, 3), (0,)),
        Piece(2, (2, 3), (2, 3)),
    )


@pytest.mark.parametrize(("sink", "window"), MEMORIES)
@pytest.mark.parametrize("block_frames", [1, 3])
def test_pieces_cover_every_pair_that_may_see_once(
    sink: int, window: int, block_frames: int
) -> None:
    cache = CacheConfig(sink_frames=sink, window_frames=window)
    table = TeacherForcing(FRAMES, 1, cache, CPU, block_frames).mask
    assert isinstance(table, Tensor)
    found = torch.zeros(table.shape, dtype=torch.int)
    for piece in pieces_of(tuple(tuple(row) for row in table.tolist())):
        queries = torch.tensor(piece.queries).reshape(piece.rows, -1)
        keys = torch.tensor(piece.keys).reshape(piece.rows, -1)
        for ours, theirs in zip(queries, keys, strict=True):
            found[ours[:, None], theirs] += 1
    assert torch.equal(found, table.int())


def test_a_frame_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="frame 1 of the mask sees no frame"):
        pieces_of(((True, False), (False, False)))


def test_runs_end_where_frames_do_and_where_they_are_begun() -> None:
    assert runs_of([0, 1, 2, 5, 6, 4]) == [range(3), range(5, 7), range(4, 5)]
    assert runs_of([0, 1, 2, 3], begun={0, 1}) == [range(2), range(2, 4)]


@pytest.mark.usefixtures("small_frames_count")
def test_compilers_take_it_whole_and_another_table_is_no_other_case() -> None:
    torch.manual_seed(0)
    cases = []

    def backend(graph: Any, _inputs: Any) -> Any:
        cases.append(graph)
        return graph

    def block(x: Tensor, kernel: TeacherForcing) -> Tensor:
        return kernel(2 * x, x + 1, x).sin()

    seen_whole = torch.compile(block, fullgraph=True, backend=backend)
    traced = torch.compile(block, fullgraph=True, backend="aot_eager")
    for window in (20, 3):
        x, kernel = _drawn(2 * FRAMES), _kernel(window=window)
        known = torch.autograd.grad(block(x, kernel).sum(), x)[0]
        for compiled in (seen_whole, traced):
            found = torch.autograd.grad(compiled(x, kernel).sum(), x)[0]
            torch.testing.assert_close(found, known)
    assert len(cases) == 1


@pytest.mark.usefixtures("small_frames_count")
@pytest.mark.parametrize(("compiled", "times"), [(False, 2), (True, 1)])
def test_a_compiled_block_that_is_computed_again_keeps_what_it_gave(
    compiled: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, kernel, calls = _drawn(2 * FRAMES), _kernel(), list[int]()
    pieces = len(pieces_of(tuple(tuple(row) for row in kernel.mask.seen.tolist())))  # type: ignore[union-attr]
    dense = frame_attention._dense

    def counted(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return dense(*inputs)

    monkeypatch.setattr(frame_attention, "_dense", counted)

    def block(x: Tensor) -> Tensor:
        return kernel(2 * x, x + 1, x).sin()

    def again(x: Tensor) -> Tensor:
        kept = partial(create_selective_checkpoint_contexts, KEPT)
        kept = {"context_fn": kept} if compiled else {}
        found: Tensor = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, **kept)
        return found

    known = torch.autograd.grad(block(x).sum(), x)[0]
    calls.clear()
    if compiled:
        again = torch.compile(again, fullgraph=True, backend="aot_eager_decomp_partition")
    torch.testing.assert_close(torch.autograd.grad(again(x).sum(), x)[0], known)
    assert len(calls) == times * pieces


def test_only_inputs_the_result_and_sums_are_kept_for_the_backward_pass() -> None:
    q, k, v = (_drawn(4) for _ in "qkv")
    kept: list[tuple[int, ...]] = []
    seen = torch.ones(4, 4).tril().bool()

    def note(x: Tensor) -> Tensor:
        kept.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        attend_frames(q, k, v, seen)
    assert sorted(kept) == sorted([*[tuple(q.shape)] * 4, (2, 4, HEADS, TOKENS), (4, 4)])


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "width", "key_heads", "ours"),
    [
        ("cuda", HALF, 1560, 128, 12, True),
        ("cuda", torch.float16, 1024, 64, 12, True),
        ("cuda", HALF, 112, 64, 12, False),  # the small world's frames
        ("cuda", FULL, 1560, 128, 12, False),
        ("cuda", HALF, 1560, 256, 12, False),
        ("cuda", HALF, 1560, 128, 4, False),
    ],
)
def test_large_frames_of_equal_heads_in_half_precision_take_this_way(
    device: str, dtype: torch.dtype, tokens: int, width: int, key_heads: int, ours: bool
) -> None:
    with torch._subclasses.FakeTensorMode():  # a GPU's tensors without a GPU
        q = torch.empty(1, 2, tokens, 12, width, dtype=dtype, device=device)
        k = torch.empty(1, 2, tokens, key_heads, width, dtype=dtype, device=device)
        assert can_attend(q, k) == ours


@pytest.mark.parametrize(("tokens", "kind"), [(112, "tiles"), (1560, "large")])
def test_masks_of_small_frames_stay_tiles_on_a_gpu(
    tokens: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnGpu:
        is_cuda = True

        def cpu(self) -> str:
            return "on the CPU"

    monkeypatch.setattr(attention, "tiles_of_frames", lambda _seen, _tokens: "tiles")
    mask = attention.mask_of_frames(OnGpu(), tokens)  # type: ignore[arg-type]
    large = LargeFrames("on the CPU", "tiles")  # type: ignore[arg-type]
    assert mask == (large if kind == "large" else "tiles")


@pytest.mark.usefixtures("small_frames_count")
def test_keys_that_heads_share_take_the_tiles() -> None:
    kernel, taken = _kernel(), list[Any]()
    q, k = _drawn(2 * FRAMES), _drawn(2 * FRAMES)[..., :1, :]

    def noted(q: Tensor, *_: Tensor, block_mask: Any, **__: Any) -> Tensor:
        taken.append(block_mask)
        return q

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "flex_attention", noted)
        kernel(q, k, k)
    assert isinstance(kernel.mask, LargeFrames)
    assert taken == [kernel.mask.tiles]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_dense_pieces_are_flex_attention_within_bfloat16(compiled: bool) -> None:
    torch.manual_seed(0)
    cuda = torch.device("cuda")
    kernel = TeacherForcing(3, 1560, CacheConfig(sink_frames=0, window_frames=20), cuda)
    mask = kernel.mask
    assert isinstance(mask, LargeFrames)
    draw = partial(torch.randn, 1, 6, 1560, 12, 128, device=cuda, dtype=HALF)
    inputs, weights = [draw(requires_grad=True) for _ in "qkv"], draw()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q, k, v)

    fused = torch.compile(attend, fullgraph=True, dynamic=False)
    found = _with_gradients(fused if compiled else attend, inputs, weights)
    kernel.mask = mask.tiles
    flex = _with_gradients(fused, inputs, weights)
    for name, here, known in zip(("mixed", "q", "k", "v"), found, flex, strict=True):
        apart = (here.float() - known.float()).norm() / known.float().norm()
        assert float(apart) < 0.02, name
