"""A session that replays one graph for every number of frames in memory makes the frames it always made.

Graphs need a GPU; here a stand-in calls the function itself, and is as strict about its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import tiny, tiny_wan
from worldmodel import captured
from worldmodel.captured import held_counts
from worldmodel.recall import RecallConfig
from worldmodel.session import WorldSession
from worldmodel.types import Camera, Start


class Replayed:
    """Like `CudaGraph`: inputs have the shapes of the example, outputs are overwritten."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        example: Sequence[Tensor],
        *,
        warmup: int = 3,
        pool: Any = None,
        stream: Any = None,
    ) -> None:
        assert (pool is None) == (stream is SIDE), "what runs beside others shares no memory"
        self._function, self._shapes = function, [(x.shape, x.dtype) for x in example]
        for _ in range(warmup):
            self._output = function(*example).clone()

    def __call__(self, *inputs: Tensor) -> Tensor:
        assert [(x.shape, x.dtype) for x in inputs] == self._shapes
        return self._output.copy_(self._function(*inputs))


SIDE = object()


class Beside:
    """Like `SideStream`."""

    stream = SIDE

    def __call__(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "CudaGraph", Replayed)
    monkeypatch.setattr(captured, "SideStream", Beside)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))


def _wan(folder: Path, capture: bool, *overrides: str) -> WorldSession:
    return tiny_wan.session(folder, *overrides, capture=capture, compiled=False)


def _frames(session: WorldSession, image: bool = False, steps: int = 8) -> list[np.ndarray]:
    spec = session.spec
    walk = [Camera(c.camera_from_world, spec.intrinsics) for c in tiny.walk(40)]
    picture = np.full((spec.height_px, spec.width_px, 3), 90, np.uint8) if image else None
    made = [session.reset(Start(seed=2, image=picture), walk[0])]
    block = spec.cameras_per_step
    for step in range(steps):
        if step == 3:
            session.settle()
        if step == 5:
            session.restore(session.snapshot())
        if step == 6:
            session.move_anchor(walk[20].camera_from_world)
        made.append(session.step(walk[1 + step * block : 1 + (step + 1) * block]))
    return made


@pytest.mark.parametrize("image", [False, True])
def test_captured_frames_are_those_of_the_plain_session(image: bool) -> None:
    replayed, plain = tiny.session(capture=True), tiny.session(capture=False)
    for ours, theirs in zip(_frames(replayed, image), _frames(plain, image), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize(
    "overrides",
    [
        ("playable.rollout.block_frames=2", "playable.cache.window_frames=5"),
        ("playable.rollout.commit=own",),
    ],
)
def test_also_in_blocks_and_without_a_clean_pass(
    tmp_path: Path, image: bool, overrides: tuple[str, ...]
) -> None:
    replayed = _wan(tmp_path / "a", True, *overrides)
    plain = _wan(tmp_path / "b", False, *overrides)
    for ours, theirs in zip(_frames(replayed, image), _frames(plain, image), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_past_frames_come_back_in_graphs_as_they_do_without(commit: str) -> None:
    config, cameras = tiny.playable(), tiny.there_and_back()
    recall = RecallConfig(frames=2, least_overlap=0.3)
    rollout = replace(config.rollout, commit=commit, solver="consistency", recall=recall)  # type: ignore[arg-type]
    found = []
    for capture in (True, False):
        networks = tiny.autoencoder(), tiny.transformer(), torch.device("cpu"), torch.float32
        session = WorldSession(replace(config, rollout=rollout), *networks, capture, compiled=False)
        found.append([session.reset(Start(seed=2), cameras[0])])
        found[-1] += [session.step([camera])[0] for camera in cameras[1:]]
        assert session.snapshot()["recall"]["beside"]
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_prompt_reaches_graphs_that_were_captured_before(tmp_path: Path) -> None:
    sessions = _wan(tmp_path / "a", True), _wan(tmp_path / "b", False)
    found = []
    for session in sessions:
        session._read_prompt = lambda _: tiny_wan.prompt(tiny_wan.model_config().transformer)
        first = _frames(session, steps=1)
        session.set_prompt("anything")
        found.append([*first, session.step(tiny.walk(1))])
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)


def test_new_words_count_for_more_also_where_graphs_read_them() -> None:
    found = []
    for capture in (True, False):
        session = WorldSession(
            tiny.playable(),
            tiny.autoencoder(),
            tiny.transformer(("day", "night")),
            torch.device("cpu"),
            torch.float32,
            capture,
            compiled=False,
        )
        cameras = tiny.walk(8)
        session.reset(Start(seed=1, prompt="day"), cameras[0])
        session.step([cameras[1]])
        session.set_prompt("night")
        found.append([session.step([camera]) for camera in cameras[2:]])
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_graphs_of_fewer_frames_serve_a_shorter_memory(tmp_path: Path, commit: str) -> None:
    overrides = (f"playable.rollout.commit={commit}", "playable.cache.window_frames=4")
    found = []
    for name, capture in (("a", True), ("b", False)):
        session = _wan(tmp_path / name, capture, *overrides)
        made = _frames(session, steps=3)
        assert session.spec.windows == (4, 3, 2)
        for window in (2, 4, 3, 2):
            session.set_window(window)
            for camera in tiny.walk(4):
                made.append(session.step([Camera(camera.camera_from_world, tiny.LENS)]))
                session.settle()
                assert int(session._cache.filled) == session._ring.filled(session._frame)
        found.append(made)
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)


def _drifting(capture: bool) -> WorldSession:
    """Takes fresh noise in every step, and holds what it makes."""
    config = tiny.playable()
    rollout = replace(config.rollout, solver="consistency", drift_limit=2.0)
    return WorldSession(
        replace(config, rollout=rollout),
        tiny.measured(tiny.autoencoder()),
        tiny.transformer(),
        torch.device("cpu"),
        torch.float32,
        capture,
        compiled=False,
    )


def test_frames_are_held_by_a_graph_of_its_own() -> None:
    replayed, plain = _drifting(True), _drifting(False)
    assert isinstance(replayed._hold, Replayed)
    for ours, theirs in zip(_frames(replayed), _frames(plain), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_step_leaves_nothing_to_settle_and_noise_for_the_next_one() -> None:
    session, walk = _drifting(True), tiny.walk(3)
    session.reset(Start(seed=2), walk[0])
    for frames, camera in enumerate(walk[1:], 2):
        session.step([camera])
        assert session._pending is None and int(session._cache.filled) == frames
        assert len(session._noise._ready) == session.spec.steps


def test_what_was_prepared_changes_no_snapshot_and_no_frame_of_other_steps() -> None:
    made: list[list[np.ndarray]] = []
    noise: list[list[torch.Tensor]] = []
    for session in (_drifting(True), _drifting(False)):
        frames, states = _frames(session, steps=2), []
        for steps in (2, 1, 3):
            session.set_steps(steps)
            for camera in tiny.walk(5)[2:]:
                states.append(session.snapshot())
                frames.append(session.step([camera]))
        session.restore(states[1])
        made.append([*frames, session.step(tiny.walk(1))])
        noise.append([state["noise"] for state in states])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*made, strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*noise, strict=True))


def test_every_number_of_frames_that_play_can_reach_is_captured() -> None:
    assert held_counts(3, 1) == [0, 1, 2, 3]
    assert held_counts(6, 3) == [0, 1, 3, 4, 6]
    assert held_counts(5, 2) == [0, 1, 2, 3, 4, 5]
