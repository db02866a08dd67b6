"""What only a GPU shows: captured and compiled sessions make the frames that plain ones make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.worldmodel import tiny, tiny_wan
from worldmodel.compiled import compile_function
from worldmodel.cuda_graph import CudaGraph, views
from worldmodel.eight_bits import LARGEST
from worldmodel.fp8 import Fp8Linear
from worldmodel.models import load_playable
from worldmodel.noise import Noise
from worldmodel.session import WorldSession, load_session
from worldmodel.types import Camera, Start

POCKET = Path(__file__).parents[2] / "assets" / "pocket"
STEPS = 50


def _psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _worst_psnr_db(fast: WorldSession, plain: WorldSession, steps: int) -> float:
    """Of single steps, each from the same state: rounding that adds up over steps proves nothing."""
    lens, block = plain.spec.intrinsics, plain.spec.cameras_per_step
    walk = [Camera(camera.camera_from_world, lens) for camera in tiny.walk(steps * block + 1)]
    plain.reset(Start(seed=3), walk[0])
    worst = 1e3
    for step in range(steps):
        cameras = walk[1 + step * block : 1 + (step + 1) * block]
        fast.restore(plain.snapshot())
        worst = min(worst, _psnr_db(fast.step(cameras), plain.step(cameras)))
        committed = fast.snapshot()["cache"], plain.snapshot()["cache"]
        for name in ("keys", "values"):
            ours, theirs = (memory[name].float() for memory in committed)
            assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    return worst


@pytest.mark.gpu
def test_the_shipped_model_compiled_and_captured_is_itself_within_bfloat16() -> None:
    fast = load_session(POCKET, device="cuda")
    plain = load_session(POCKET, device="cuda", capture=False)
    assert _worst_psnr_db(fast, plain, STEPS) > 38


@pytest.mark.gpu
@pytest.mark.parametrize("chunks", [(), ("playable.rollout.block_frames=2",)])
def test_tiny_wan_compiled_and_captured_is_itself_within_float32(
    tmp_path: Path, chunks: tuple[str, ...]
) -> None:
    sessions = []
    for capture in (True, False):
        folder = tmp_path / str(capture)
        folder.mkdir()
        model = load_playable(tiny_wan.model_folder(folder, *chunks))
        sessions.append(
            WorldSession(
                model.playable,
                model.decoder,
                model.transformer,
                torch.device("cuda"),
                torch.float32,
                capture,
                read_prompt=model.read_prompt,
            )
        )
    assert _worst_psnr_db(*sessions, STEPS) > 45


@pytest.mark.gpu
def test_two_compiled_sessions_make_the_same_frames_bit_for_bit() -> None:
    walk, frames = tiny.walk(20), []
    for _ in range(2):
        session = load_session(POCKET, device="cuda")
        session.reset(Start(seed=5), Camera(walk[0].camera_from_world, session.spec.intrinsics))
        cameras = [Camera(camera.camera_from_world, session.spec.intrinsics) for camera in walk]
        frames.append([session.step([camera]) for camera in cameras[1:]])
    assert np.array_equal(*frames)


@pytest.mark.gpu
def test_frames_made_beside_commits_are_those_made_one_after_the_other() -> None:
    """Without waiting anywhere, and with the GPU idle before every piece of work."""
    session, walk, frames = load_session(POCKET, device="cuda"), tiny.walk(STEPS), []
    cameras = [Camera(camera.camera_from_world, session.spec.intrinsics) for camera in walk]
    for patient in (False, True):
        if patient:
            _wait_before_work(session)
        session.reset(Start(seed=5), cameras[0])
        frames.append([session.step([camera]) for camera in cameras[1:]])
    assert np.array_equal(*frames)


def _wait_before_work(session: WorldSession) -> None:
    go_on, show = session._go_on, session._show

    def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            torch.cuda.synchronize()
            return function(*inputs, **named)

        return call

    session._go_on, session._show = waiting(go_on), waiting(show)  # type: ignore[method-assign]


@pytest.mark.gpu
def test_noise_on_a_gpu_is_that_of_the_cpu_whenever_it_was_drawn() -> None:
    shape, generator = (1, 3, 501, 48), torch.Generator().manual_seed(7)
    noise = Noise(shape, torch.device("cuda"))
    noise.seed(7)
    for count in (0, 4, 1, 3, 2) * 10:
        noise.prepare(count)  # memory of what was taken is used again
        assert torch.equal(noise.take().cpu(), torch.randn(shape, generator=generator))


@pytest.mark.gpu
def test_a_graph_owns_its_output_takes_cpu_inputs_and_refuses_other_shapes() -> None:
    def add(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return a + b * c

    graph = CudaGraph(add, (torch.ones(3, device="cuda"), torch.ones(3), torch.ones(1)))
    first = graph(torch.ones(3, device="cuda"), torch.full((3,), 2.0), torch.full((1,), 4.0))
    assert first.tolist() == [9, 9, 9]
    graph(torch.zeros(3, device="cuda"), torch.ones(3), torch.ones(1))
    assert first.tolist() == [1, 1, 1]  # overwritten
    with pytest.raises(ValueError, match="graph input 1 was captured as"):
        graph(torch.ones(3, device="cuda"), torch.ones(4), torch.ones(1))


@pytest.mark.gpu
def test_more_graphs_take_no_more_working_memory_of_libraries() -> None:
    layer = nn.Linear(512, 512, device="cuda", dtype=torch.bfloat16)
    x, pool = torch.randn(64, 512, device="cuda").bfloat16(), torch.cuda.graph_pool_handle()
    with torch.inference_mode():
        graphs = [CudaGraph(layer, (x,), pool=pool)]
        before = torch.cuda.memory_allocated()
        graphs += [CudaGraph(layer, (x,), pool=pool) for _ in range(8)]
    # inputs and outputs only: a library's working memory is some megabytes for every stream it has seen
    assert torch.cuda.memory_allocated() - before < 8 * 4 * x.nbytes


@pytest.mark.gpu
def test_an_fp8_layer_is_within_five_per_cent_of_the_layer_also_compiled() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(256, 512, device="cuda", dtype=torch.bfloat16)
    eight = Fp8Linear(layer.weight, layer.bias)
    x = torch.randn(1, 2, 77, 256, device="cuda", dtype=torch.bfloat16)
    x[0, 0, 0, :4] = 1000.0  # beyond what e4m3 knows: 448, not infinite
    inside = x.clamp(-LARGEST, LARGEST)
    with torch.inference_mode():
        wanted = layer(inside).float()
        for forward in (eight.forward, compile_function(eight.forward)):
            found = forward(x).float()
            assert found.shape == wanted.shape
            assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_cpu_inputs_travel_side_by_side_in_one_aligned_buffer() -> None:
    example = [torch.ones(3), torch.ones(1, 2, dtype=torch.float64), torch.ones(1).long()]
    parts = views(torch.zeros(192, dtype=torch.uint8), example)
    for value, (part, like) in enumerate(zip(parts, example, strict=True)):
        assert (part.shape, part.dtype) == (like.shape, like.dtype)
        part.fill_(value + 1)
    assert [part.unique().tolist() for part in parts] == [[1], [2], [3]]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
