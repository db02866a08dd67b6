"""Long play: where it goes, and what is called a collapse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.ahead import SPAN_FRAMES, ahead, views_ahead
from distill.evaluate import Truth, decode_clips, generate
from distill.features import Ruler
from distill.long_play import (
    WINDOW_FRAMES,
    Counting,
    LongPlay,
    Statistics,
    collapse,
    play,
    rest,
    walk,
    walk_numbers,
    walk_on,
)
from distill.metrics import gradient_energy
from distill.returning import returning, views_along, ways
from distill.rollout import Views
from distill.viewpoints import viewpoint_of
from tests.distill.network_maker import tiny_model
from tests.worldmodel import tiny
from worldmodel.autoencoder import frames_to_float
from worldmodel.motion import WALK_M_PER_S
from worldmodel.sampler import Commit, Solver
from worldmodel.types import check_rigid

KNOWN = 2


def _truth(clips: int = 2, frames: int = 6) -> Truth:
    random = torch.Generator().manual_seed(0)
    poses = [np.stack([c.camera_from_world for c in tiny.walk(frames, s)]) for s in range(clips)]
    return Truth(
        frames=torch.randint(0, 255, (clips, frames, 32, 64, 3), generator=random).byte(),
        latents=torch.randn(clips, frames, 8, 4, generator=random),
        views=Views(
            cameras=torch.from_numpy(np.stack(poses)),
            intrinsics=torch.tensor([0.6, 1.05, 0.5, 0.5]).expand(clips, frames, 4),
            words=torch.zeros(clips, 1),
        ),
    )


def test_a_viewpoint_is_found_again_from_its_pose() -> None:
    for camera in tiny.walk(20, seed=3):
        pose = camera.camera_from_world
        np.testing.assert_allclose(viewpoint_of(pose).camera_from_world(), pose, atol=1e-9)


def test_a_walk_goes_on_where_the_true_frames_end_and_keeps_to_the_limits_of_motion() -> None:
    truth = _truth()
    cameras = walk_on(tiny_model(), truth, KNOWN, 30).cameras
    assert cameras.shape == (2, KNOWN + 30, 4, 4)
    torch.testing.assert_close(cameras[:, :KNOWN], truth.views.cameras[:, :KNOWN])
    check_rigid(cameras[0, -1].numpy())
    centres = -(cameras[..., :3, :3].mT @ cameras[..., :3, 3:])[..., 0]
    steps = centres[:, KNOWN - 1 :].diff(dim=1).norm(dim=-1)
    assert 0 < float(steps.max()) <= tiny.LIMITS.translation_m_per_frame


def test_a_resting_camera_never_moves() -> None:
    cameras = rest(_truth(), 5).cameras
    assert cameras.shape[1] == 6
    assert bool((cameras == cameras[:, :1]).all())


def test_statistics_do_not_depend_on_how_many_frames_are_decoded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latents = torch.randn(2, 9, 8, 4, generator=torch.Generator().manual_seed(1))
    whole, few = Counting(tiny_model()), Counting(tiny_model())
    whole.add(latents)
    for latent in latents.split(1, dim=1):
        monkeypatch.setattr("distill.long_play.BATCH_FRAMES", 4)
        few.add(latent)
    for field in fields(Statistics):
        torch.testing.assert_close(
            getattr(few.statistics(), field.name), getattr(whole.statistics(), field.name)
        )
    assert whole.statistics().gradient_energy.shape == (2, 9)
    assert whole.statistics().motion.shape == (2, 8)


def test_who_walks_for_long_keeps_looking_about_where_clips_do() -> None:
    """Their truth is what walks are held against: it shows no thousand frames of sky."""
    truth = _truth()
    cameras = walk_on(tiny_model(), truth, KNOWN, 1000).cameras[:, KNOWN:].numpy()
    bent = np.abs([[viewpoint_of(pose).pitch_rad for pose in walk] for walk in cameras])
    assert np.median(bent) < np.radians(10.0)
    assert np.mean(bent > np.radians(35.0)) < 0.1


def test_of_a_long_walk_only_its_beginning_and_some_moments_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, truth = tiny_model(), _truth()
    views = walk_on(model, truth, KNOWN, 12)
    all_of_it = generate(model, truth.latents[:, :KNOWN], views, 2)[:, KNOWN:]
    monkeypatch.setattr("distill.long_play.KEPT_FRAMES", 5)
    monkeypatch.setattr("distill.long_play.BATCH_FRAMES", 4)
    walked = walk(model, truth, KNOWN, 12)
    torch.testing.assert_close(walked.start, all_of_it[:, :5])
    torch.testing.assert_close(walked.moments, all_of_it[:, [0, 9]])  # frames 1 and 10
    assert walked.statistics.gradient_energy.shape == (2, 12)


def _statistics(walks: int, frames: int, energy: Tensor | float = 1.0) -> Statistics:
    ones = torch.ones(walks, frames)
    colour = ones[..., None].expand(-1, -1, 3)
    return Statistics(ones * energy, colour, colour, ones[:, 1:])


def test_walks_like_the_truth_have_not_collapsed_and_flat_or_noisy_ones_have() -> None:
    true, frames = _statistics(3, 120), 100
    assert collapse(_statistics(3, frames), true, frames)["statement"] == "no collapse"
    energy = torch.tensor([1.0, 0.2, 5.0])[:, None]
    found = collapse(_statistics(3, frames, energy), true, frames)
    assert found["collapsed_walks"] == 2
    frozen = replace(_statistics(3, frames), motion=torch.zeros(3, frames - 1))
    assert collapse(frozen, true, frames)["collapsed_walks"] == 3


def test_only_the_newest_frames_count_at_a_moment() -> None:
    frames = 2 * WINDOW_FRAMES
    energy = torch.cat([torch.ones(WINDOW_FRAMES), torch.full((WINDOW_FRAMES,), 0.5)])
    made = _statistics(2, frames, energy)
    found = walk_numbers(made, _statistics(2, frames), frames)
    assert found["gradient_energy_ratio"] == {"32": 1.0, str(frames): 0.5}
    curve = found["curve"]["gradient_energy_ratio"]
    assert curve[0] == 1.0 and curve[-1] == 0.5


class Overwriting:
    """What `CudaGraph` promises, on a CPU: inputs are copied, the output is its own, it warms up."""

    def __init__(self, function: Callable[..., Tensor], example: tuple[Tensor, ...]) -> None:
        self.function, self.inputs = function, [x.clone() for x in example]
        self.output = function(*self.inputs).clone()

    def __call__(self, *inputs: Tensor) -> Tensor:
        for mine, new in zip(self.inputs, inputs, strict=True):
            assert (mine.shape, mine.dtype) == (new.shape, new.dtype)
            mine.copy_(new)
        return self.output.copy_(self.function(*self.inputs))


@pytest.mark.parametrize("solver", ["euler", "consistency"])
@pytest.mark.parametrize("commit", ["clean", "own"])
def test_a_walk_of_captured_graphs_is_the_walk(
    solver: Solver, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(tiny.playable().rollout, solver=solver, commit=commit)
    model = replace(tiny_model(), playable=replace(tiny.playable(), rollout=how))
    truth = _truth()
    views = walk_on(model, truth, KNOWN, 20)
    plain = generate(model, truth.latents[:, :KNOWN], views, 2)
    monkeypatch.setattr("distill.rollout.CudaGraph", Overwriting)
    monkeypatch.setattr("distill.rollout.worth_capturing", lambda *_: True)
    assert torch.equal(generate(model, truth.latents[:, :KNOWN], views, 2), plain)


@pytest.mark.gpu
def test_a_long_walk_on_a_gpu_is_the_walk_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    here = tiny_model()
    there = replace(
        here,
        device=device,
        autoencoder=here.autoencoder.to(device),
        transformer=here.transformer.to(device),
    )
    truth = _truth()
    views = walk_on(there, truth, KNOWN, 40)
    moved = Views(
        cameras=views.cameras.to(device),
        intrinsics=views.intrinsics.to(device),
        words=views.words.to(device),
    )
    plain = generate(there, truth.latents[:, :KNOWN].to(device), moved, 2)
    monkeypatch.setattr("distill.rollout.CAPTURED_FRAMES", 1)
    graphs = generate(there, truth.latents[:, :KNOWN].to(device), moved, 2)
    torch.testing.assert_close(graphs, plain, atol=1e-3, rtol=1e-3)


def test_what_a_walk_should_keep_to_and_does_not_is_named() -> None:
    frames = 2 * WINDOW_FRAMES
    true, made = _statistics(2, frames), _statistics(2, frames, energy=0.8)
    darker = replace(made, mean=0.9 * made.mean)
    found = walk_numbers(darker, true, frames)
    assert found["exposure_ratio"] == {"32": 0.9, str(frames): 0.9}
    assert found["outside_of_what_is_asked"]["32"] == [
        "gradient_energy_ratio", "exposure_ratio", "colour_drift"
    ]  # fmt: skip
    assert found["collapsed_walks"] == {"32": 0, str(frames): 0}
    assert not walk_numbers(true, true, frames)["outside_of_what_is_asked"]["32"]


def test_play_reports_every_moment_it_reached() -> None:
    played = play(tiny_model(), _truth(), KNOWN, LongPlay(walks=2, walk_frames=12, still_frames=11))
    assert played.walked.start.shape == (2, 12, 8, 4)
    numbers = played.numbers
    assert list(numbers["colour_drift"]) == ["12"]
    assert numbers["collapse"]["of"] == 2
    assert list(numbers["still"]["psnr_to_first_db"]) == ["10", "11"]
    assert numbers["floor"] is None  # clips too short to tell


@pytest.mark.parametrize("name", ways())
def test_every_way_back_ends_in_the_pose_it_began_with(name: str) -> None:
    truth = _truth()
    cameras = views_along(tiny_model(), truth, ways()[name]).cameras
    torch.testing.assert_close(cameras[:, 0], truth.views.cameras[:, 0])
    torch.testing.assert_close(cameras[:, -1], cameras[:, 0], atol=1e-9, rtol=0)
    half = cameras.shape[1] // 2
    assert float((cameras[:, half] - cameras[:, 0]).abs().max()) > 0.5


def test_a_place_that_comes_back_is_recognised_and_another_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, ruler = _truth(4), Ruler("tiny", tiny.autoencoder().encoder)
    start = truth.frames[:, 0].permute(0, 3, 1, 2).float() / 127.5 - 1
    for last, share in ((start, 1.0), (start.roll(1, 0), 0.0)):
        monkeypatch.setattr("distill.returning._last_frame", lambda *_, found=last: found)
        numbers = returning(tiny_model(), truth, ruler)["full turn"]
        assert numbers["recognised"] == share
        assert numbers["by_chance"] == 0.25
        assert (numbers["psnr_to_start_db"] > 40) == (share == 1.0)


def test_straight_ahead_is_w_held_and_eyes_level_from_where_true_frames_end() -> None:
    model, truth = tiny_model(), _truth()
    cameras = views_ahead(model, truth, KNOWN, 30).cameras
    torch.testing.assert_close(cameras[:, :KNOWN], truth.views.cameras[:, :KNOWN])
    for poses in cameras[:, KNOWN - 1 :].numpy():
        start, *path = (viewpoint_of(pose) for pose in poses)
        for n, point in enumerate(path, 1):
            there = n * WALK_M_PER_S / model.playable.frames_per_second
            assert point.x_m - start.x_m == pytest.approx(there * math.sin(start.yaw_rad))
            assert point.z_m - start.z_m == pytest.approx(there * math.cos(start.yaw_rad))
            assert (point.pitch_rad, point.y_m) == pytest.approx((0.0, start.y_m), abs=1e-9)


def test_straight_ahead_is_measured_span_by_span_against_the_true_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, truth = tiny_model(), _truth(frames=KNOWN + 16)
    ruler = Ruler("tiny", model.autoencoder.encoder)
    found = ahead(model, truth, KNOWN, 2, ruler)
    views = views_ahead(model, truth, KNOWN, 2 * SPAN_FRAMES)
    made = decode_clips(model, generate(model, truth.latents[:, :KNOWN], views, 2))[:, KNOWN:]
    assert torch.equal(found.moments[:, 0], truth.frames[:, KNOWN - 1])
    assert torch.equal(found.moments[:, 1:], made[:, SPAN_FRAMES - 1 :: SPAN_FRAMES])
    edges = [
        float(gradient_energy(frames_to_float(x.flatten(0, 1))).mean())
        for x in (made[:, SPAN_FRAMES:], truth.frames)
    ]
    ratio = found.numbers["gradient_energy_ratio"]
    assert list(ratio) == ["64", "128"]
    assert ratio["128"] == pytest.approx(edges[0] / edges[1], abs=1e-3)
    assert "frame_frechet" not in found.numbers  # of too few true frames
    monkeypatch.setattr("distill.ahead.CLIP_NUMBERS", 4)
    assert set(ahead(model, truth, KNOWN, 1, ruler).numbers["frame_frechet"]) == {"64"}


def test_what_is_seen_in_frames_is_the_same_in_whatever_order_they_come() -> None:
    ruler = Ruler("tiny", tiny_model().autoencoder.encoder)
    frames = torch.rand(6, 3, 32, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    features = ruler.frame_features(frames)
    torch.testing.assert_close(ruler.frame_features(frames[order]), features[order])
    assert features.shape[1] == 2 * ruler.features(frames)[2].shape[1]
