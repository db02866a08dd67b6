"""Past frames come back beside the window when their place is seen again."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill.rollout import Views, rollout
from tests.worldmodel import tiny
from worldmodel import config as strict
from worldmodel.autoencoder import frames_to_float
from worldmodel.checkpoint import PlayableConfig, RolloutConfig
from worldmodel.motion import Viewpoint
from worldmodel.recall import Recall, RecallConfig, Shown, overlap
from worldmodel.saves import read_state, write_state
from worldmodel.session import WorldSession
from worldmodel.types import Camera, Start

CPU = torch.device("cpu")
RECALL = RecallConfig(frames=2, bank_frames=32, least_overlap=0.3)


def _camera(yaw_deg: float = 0.0, forward_m: float = 0.0, fx: float = tiny.LENS.fx) -> Camera:
    point = Viewpoint(z_m=forward_m, yaw_rad=math.radians(yaw_deg))
    return Camera(point.camera_from_world(), replace(tiny.LENS, fx=fx))


def _overlap(a: Camera, b: Camera) -> float:
    lens = b.intrinsics
    lenses = np.array([(lens.fx, lens.fy, lens.cx, lens.cy)])
    return float(overlap(a, b.camera_from_world[None], lenses)[0])


def _playable(recall: RecallConfig | None = RECALL, commit: str = "clean") -> PlayableConfig:
    config = tiny.playable()
    rollout = replace(config.rollout, recall=recall, commit=commit, solver="consistency")  # type: ignore[arg-type]
    return replace(config, rollout=rollout)


def _session(recall: RecallConfig | None = RECALL, commit: str = "clean") -> WorldSession:
    words = ("day", "night")
    return WorldSession(
        _playable(recall, commit), tiny.autoencoder(), tiny.transformer(words), CPU, torch.float32
    )


def _begun(session: WorldSession, cameras: list[Camera]) -> WorldSession:
    session.reset(Start(seed=3), cameras[0])
    for camera in cameras[1:]:
        session.step([camera])
    session.settle()
    return session


def _latent() -> torch.Tensor:
    return torch.randn(1, 1, 8, 4)


def _bank(**changes: float) -> Recall:
    return Recall(replace(RECALL, **changes), (8, 4), CPU)  # type: ignore[arg-type]


def test_the_same_view_overlaps_wholly_and_one_behind_the_back_not_at_all() -> None:
    assert _overlap(_camera(30.0), _camera(30.0)) == 1.0
    assert _overlap(_camera(), _camera(180.0)) == 0.0
    assert _overlap(_camera(), _camera(90.0)) == 0.0  # the picture is 80 degrees wide


def test_overlap_falls_with_every_degree_and_every_metre() -> None:
    turned = [_overlap(_camera(), _camera(yaw)) for yaw in (0.0, 10.0, 25.0, 50.0)]
    walked = [_overlap(_camera(), _camera(0.0, metres)) for metres in (0.0, 1.0, 4.0, 12.0)]
    for shares in (turned, walked):
        assert all(a > b for a, b in pairwise(shares))


def test_overlap_is_the_same_both_ways_also_between_lenses() -> None:
    near, far = _camera(20.0, 1.0, fx=0.5), _camera(0.0, -3.0, fx=1.1)
    assert _overlap(near, far) == _overlap(far, near)
    assert 0.0 < _overlap(near, far) < 0.5


def test_a_place_walked_away_from_by_a_thousand_kilometres_overlaps_as_one_nearby() -> None:
    a, b = _camera(10.0), _camera(30.0, 2.0)
    far = np.eye(4)
    far[2, 3] = -1.0e6
    moved = [Camera(x.camera_from_world @ far, x.intrinsics) for x in (a, b)]
    assert _overlap(*moved) == _overlap(a, b) > 0.0


def test_only_views_that_differ_are_kept_and_the_oldest_give_way() -> None:
    bank = _bank(bank_frames=3)
    for number, yaw in enumerate((0.0, 0.5, 40.0, 1.0, 80.0, 41.0)):
        bank.follow(Shown(_latent(), _camera(yaw), number), range(0))
    assert bank.known == [0, 2, 4]
    bank.follow(Shown(_latent(), _camera(160.0), 6), range(0))
    assert sorted(bank.known) == [2, 4, 6]


def test_a_frame_that_is_still_in_the_window_is_not_brought_back() -> None:
    bank = _bank()
    bank.follow(Shown(_latent(), _camera(), 0), range(0))
    assert bank.follow(Shown(_latent(), _camera(), 1), range(0)).put is None
    assert bank.follow(Shown(_latent(), _camera(), 2), range(1)).put == 0


def test_at_most_one_frame_comes_back_at_a_time_the_one_that_sees_most_first() -> None:
    bank, latents = _bank(frames=3), [_latent() for _ in range(4)]
    for number, yaw in enumerate((0.0, 12.0, 24.0, 150.0)):
        bank.follow(Shown(latents[number], _camera(yaw), number), range(0))
    changes = [bank.follow(Shown(_latent(), _camera(13.0), 9), range(4)) for _ in range(4)]
    assert [change.put for change in changes] == [0, 1, 2, None]
    latent, camera = bank.frame(0)
    assert torch.allclose(latent, latents[1], atol=2e-3)
    assert np.array_equal(camera.camera_from_world, _camera(12.0).camera_from_world)
    assert camera.intrinsics == tiny.LENS


def test_with_a_reach_a_frame_seen_from_further_away_does_not_come_back() -> None:
    for reach_m, comes_back in ((1.0, False), (3.0, True)):
        bank = _bank(least_overlap=0.1, reach_m=reach_m)
        bank.follow(Shown(_latent(), _camera(), 0), range(0))
        change = bank.follow(Shown(_latent(), _camera(forward_m=2.0), 9), range(9))
        assert (change.put is not None) == comes_back


def test_a_frame_that_gives_way_in_the_bank_is_not_the_one_that_comes_back() -> None:
    bank = _bank(bank_frames=2, new_overlap=0.8)
    for number, yaw in enumerate((0.0, 120.0)):
        bank.follow(Shown(_latent(), _camera(yaw), number), range(0))
    change = bank.follow(Shown(_latent(), _camera(20.0), 2), range(2))  # sees most of frame 0
    assert sorted(bank.known) == [1, 2] and change.put is None


def test_what_is_not_seen_any_more_leaves_and_the_others_close_the_gap() -> None:
    bank = _bank(frames=3)
    for number, yaw in enumerate((0.0, 20.0, 40.0)):
        bank.follow(Shown(_latent(), _camera(yaw), number), range(0))
    for yaw in (0.0, 5.0, 20.0):
        bank.follow(Shown(_latent(), _camera(yaw), 9), range(3))
    assert bank.state()["beside"] == [0, 1, 2]
    change = bank.follow(Shown(_latent(), _camera(50.0), 9), range(3))
    assert bank.state()["beside"] == [2, 1] and change.moves == ((2, 0),)
    change = bank.follow(Shown(_latent(), _camera(180.0), 9), range(3))
    assert bank.held == 0 and change.moves == () and change.put is None


def test_a_bank_goes_on_from_its_state_also_where_it_is_smaller() -> None:
    bank = _bank(bank_frames=4)
    for number, yaw in enumerate(range(0, 240, 40)):
        bank.follow(Shown(_latent(), _camera(yaw), number), range(0))
    other, smaller = _bank(bank_frames=4), _bank(bank_frames=2)
    other.load_state(bank.state())
    smaller.load_state(bank.state())
    assert other.known == [2, 3, 4, 5] and smaller.known == [4, 5]
    for one, two in zip(other.state().values(), bank.state().values(), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "1 <= frames <= bank_frames, got 0 and 32"),
        ({"bank_frames": 1}, "got 2 and 1"),
        ({"least_overlap": 0.0}, "least_overlap"),
        ({"new_overlap": 1.5}, "new_overlap"),
    ],
)
def test_a_recall_that_makes_no_sense_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECALL, **changes)  # type: ignore[arg-type]


def test_models_that_make_blocks_of_frames_refuse_it_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"rollout\.recall is for models that make one frame"):
        RolloutConfig(steps=2, first_frame_steps=2, shift=3.0, block_frames=2, recall=RECALL)


def test_it_is_off_unless_a_model_says_otherwise_and_reads_from_yaml() -> None:
    plain = strict.to_plain(_playable(None).rollout)
    assert plain.pop("recall") is None
    assert strict.build(plain, RolloutConfig, "here").recall is None
    known = strict.build(plain | {"recall": {"frames": 2}}, RolloutConfig, "here").recall
    assert known == RecallConfig(frames=2)
    with pytest.raises(ValueError, match=r"here: recall\.slots"):
        strict.build(plain | {"recall": {"slots": 2}}, RolloutConfig, "here")


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_frames_are_those_without_recall_until_something_comes_back(commit: str) -> None:
    cameras = tiny.there_and_back()
    found = []
    for recall in (RECALL, None):
        session = _session(recall, commit)
        found.append([session.reset(Start(seed=3), cameras[0])])
        found[-1] += [session.step([camera])[0] for camera in cameras[1:]]
    same = [np.array_equal(a, b) for a, b in zip(*found, strict=True)]
    first = same.index(False)
    assert all(same[:first]) and 9 < first < 14  # on the way back, and before its end


def test_what_comes_back_lies_there_as_if_committed_now_one_frame_old() -> None:
    """After moves of the anchor and frames in which it only stayed."""
    session = _begun(_session(), tiny.there_and_back())
    session.step([_camera(1.0)])
    session.settle()
    session.move_anchor(_camera(1.0, 0.5).camera_from_world)
    recall, cache, first = session._recall, session._cache, session._ring.config.slots
    assert recall is not None and recall.held == 2
    kept = cache.state()
    for slot in range(2):
        latent, camera = recall.frame(slot)
        with torch.inference_mode():
            session._commit_alone(latent, camera, first + slot)
    for name in ("keys", "values"):
        assert torch.allclose(cache.state()[name], kept[name], atol=2e-5)
    assert int(kept["filled"]) == first + 2


def _play(session: WorldSession, cameras: list[Camera]) -> NDArray[np.uint8]:
    return np.concatenate([session.step([camera]) for camera in cameras])


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_a_state_with_frames_beside_the_window_is_restored_bit_for_bit(
    tmp_path: Path, commit: str
) -> None:
    cameras = tiny.there_and_back()
    session = _begun(_session(commit=commit), cameras[:14])
    state = session.snapshot()
    assert state["recall"]["beside"]
    write_state(tmp_path / "state.safetensors", state)
    frames = _play(session, cameras[14:] + cameras)
    session.restore(state)
    assert np.array_equal(frames, _play(session, cameras[14:] + cameras))
    other = _session(commit=commit)
    other.restore(read_state(tmp_path / "state.safetensors"))
    assert np.array_equal(frames, _play(other, cameras[14:] + cameras))


def test_moving_the_anchor_leaves_the_frames_that_follow_unchanged() -> None:
    cameras = tiny.there_and_back()
    plain, moved = (_begun(_session(), cameras[:14]) for _ in range(2))
    moved.move_anchor(_camera(70.0, 3.0).camera_from_world)
    a, b = (_play(session, cameras[14:]).astype(int) for session in (plain, moved))
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("commit", ["clean", "own"])
def test_a_change_of_the_window_puts_away_and_then_brings_back_again(commit: str) -> None:
    cameras = tiny.there_and_back()
    session = _begun(_session(commit=commit), cameras[:14])
    recall = session._recall
    assert recall is not None and recall.held == 2
    for frames in (2, 3):
        session.set_window(frames)
        assert recall.held == 0
        for index in (14, 15, 16, 15, 14):
            session.step([cameras[index]])
        session.settle()
        assert recall.held == 2
        assert int(session._cache.filled) == session._ring.config.slots + 2
        state = session.snapshot()
        made = _play(session, cameras)
        session.restore(state)
        assert np.array_equal(made, _play(session, cameras))


def test_new_words_and_a_new_world_forget_what_was_seen_before() -> None:
    cameras = tiny.there_and_back()
    session = _begun(_session(), cameras[:14])
    recall = session._recall
    assert recall is not None and recall.held
    session.set_prompt("night")
    assert recall.held == 0 and recall.known == []
    assert int(session._cache.filled) == session._ring.config.slots
    session.step([cameras[14]])
    session.settle()
    assert recall.known == []  # while a world turns, it is neither this nor that
    session = _begun(_session(), cameras[:14])
    session.reset(Start(), cameras[0])
    assert session._recall is not None and session._recall.known == []


def test_saves_from_before_go_on_with_recall_and_those_with_it_go_on_without() -> None:
    cameras = tiny.there_and_back()
    old, new = _begun(_session(None), cameras[:14]), _begun(_session(), cameras[:14])
    later, plain = _session(), _session(None)
    later.restore(old.snapshot())
    assert np.array_equal(_play(later, cameras[14:15]), _play(old, cameras[14:15]))
    plain.restore(new.snapshot())
    assert int(plain._cache.filled) == plain._ring.config.slots
    new.set_window(2)
    _play(new, cameras[14:16])
    plain.restore(new.snapshot())
    assert int(plain._cache.filled) == plain._ring.config.slots == 3
    two = _session(replace(RECALL, frames=1))
    two.restore(new.snapshot())
    assert (
        two._recall is not None
        and two._recall.known == new.snapshot()["recall"]["numbers"].tolist()
    )
    assert _play(two, cameras[14:]).shape == _play(plain, cameras[14:]).shape


def _views(*clips: list[Camera]) -> Views:
    lens = torch.tensor([tiny.LENS.fx, tiny.LENS.fy, tiny.LENS.cx, tiny.LENS.cy])
    return Views(
        cameras=torch.from_numpy(np.array([[c.camera_from_world for c in clip] for clip in clips])),
        intrinsics=lens.expand(len(clips), len(clips[0]), 4),
        words=torch.zeros(len(clips), 2),
    )


def _rolled(views: Views, start: torch.Tensor, recall: RecallConfig | None) -> torch.Tensor:
    network, how = tiny.transformer(("day", "night")), _playable(recall).rollout
    return rollout(network, tiny.autoencoder(), tiny.CACHE, start, views, how=how, seed=3)


def test_a_rollout_for_evaluation_brings_back_what_a_session_does() -> None:
    cameras, session = tiny.there_and_back(), _session()
    picture = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    shown = [session.reset(Start(seed=3, image=picture), cameras[0])]
    shown += [session.step([camera])[0] for camera in cameras[1:]]
    autoencoder = tiny.autoencoder()
    with torch.no_grad():
        start = autoencoder.encode_start(frames_to_float(torch.from_numpy(picture)[None]))
        latents = _rolled(_views(cameras), start, RECALL)
        frames = autoencoder.render(latents).numpy()
    assert np.abs(frames.astype(int) - np.stack(shown).astype(int)).max() <= 1


def test_clips_of_a_batch_bring_back_their_own_frames() -> None:
    """In the first one looks around, in the second one walks on and sees nothing again."""
    on = [_camera(0.0, 6.0 * step) for step in range(17)]
    views = _views(tiny.there_and_back(), on)
    start = torch.randn(2, 1, 8, 4, generator=torch.Generator().manual_seed(0))
    recalled, without = (_rolled(views, start, recall) for recall in (RECALL, None))
    assert torch.allclose(recalled[:, :9], without[:, :9], atol=1e-4)  # of the same noise
    assert torch.allclose(recalled[1], without[1], atol=1e-4)
    assert not torch.allclose(recalled[0], without[0], atol=1e-2)


def test_a_rollout_forgets_under_new_words_as_a_session_does() -> None:
    views = _views(tiny.there_and_back())
    start = torch.randn(1, 1, 8, 4, generator=torch.Generator().manual_seed(0))
    words = torch.zeros(1, 17, 2)
    words[:, 9:, 1] = 1.0
    told = replace(views, words=words)
    recalled, without = (_rolled(told, start, recall) for recall in (RECALL, None))
    assert torch.allclose(recalled, without, atol=1e-4)
