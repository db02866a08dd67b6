"""The procedural worlds and their renderer: exact cameras, reproducible pixels, playable motion."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distill import motions
from distill.clips import ClipSet
from distill.render import (
    SHIPPED_LIMITS,
    RenderConfig,
    Walks,
    render_dataset,
    true_walk,
    walk_truth,
)
from distill.scenes.biomes import BIOMES, VOCABULARY
from distill.scenes.kinds import kind_index, kinds
from distill.scenes.objects import Objects
from distill.scenes.paths import PathMix, draw_commands, draw_path, viewpoints_for
from distill.scenes.placements import CLEAR_M, choose_placement
from distill.scenes.renderer import Renderer
from distill.scenes.terrain import WADING_M
from distill.scenes.views import EYE_HEIGHT_M, make_views
from distill.scenes.world import Placement, World, make_world
from worldmodel.config import load
from worldmodel.motion import Command, Viewpoint, advance
from worldmodel.types import Intrinsics

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
WIDTH, HEIGHT = 112, 64
LENS = Intrinsics.from_field_of_view(math.radians(80.0), WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(WIDTH, HEIGHT, 2)
    yield renderer
    renderer.release()


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(3)


@pytest.fixture(scope="module")
def config() -> RenderConfig:
    return load(CONFIGS / "nano.yaml", RenderConfig)


def placement_of(world: World) -> Placement:
    return choose_placement(world, np.random.default_rng(0))


def test_every_config_loads() -> None:
    for name in ("pocket", "nano", "evaluation", "evaluation-moving"):
        assert load(CONFIGS / f"{name}.yaml", RenderConfig).limits == SHIPPED_LIMITS


def test_a_seed_gives_the_same_pixels_twice(renderer: Renderer) -> None:
    frames = []
    for _ in range(2):
        world = make_world(8)
        renderer.load(world)
        frames.append(renderer.render(placement_of(world), [Viewpoint()], LENS))
    assert np.array_equal(*frames)
    assert frames[0].std() > 10.0


def test_seeds_differ_and_attributes_come_from_the_vocabulary() -> None:
    worlds = [make_world(seed) for seed in range(24)]
    assert len({world.attributes for world in worlds}) > 8
    assert all(word in VOCABULARY for world in worlds for word in world.attributes)
    assert len(BIOMES) >= 6


def test_an_unknown_biome_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown attribute 'moon'"):
        make_world(1, biome="moon")


@pytest.mark.parametrize(
    "point", [(0.0, 0.0, 12.0), (-4.0, -2.5, 10.0), (5.0, -1.0, 9.0), (2.0, -4.0, 14.0)]
)
def test_a_known_point_appears_where_camera_maths_puts_it(
    renderer: Renderer, world: World, point: tuple[float, float, float]
) -> None:
    """A ball hung at a point of the camera's frame shows up at the pixel the lens says."""
    placement = placement_of(world)
    viewpoint = Viewpoint(x_m=0.7, y_m=-2.0, z_m=-0.4, yaw_rad=0.3, pitch_rad=0.1)
    lens = replace(LENS, cx=0.53, cy=0.46)
    eye = make_views(world.terrain, placement, [viewpoint], [lens]).eye[0]
    east, down, north = viewpoint.camera_from_world()[:3, :3].T @ np.array(point)
    c, s = math.cos(placement.yaw_rad), math.sin(placement.yaw_rad)
    hung = eye + np.array([c * east + s * north, -down, c * north - s * east])
    images = []
    for scale in (3.0, 1e-4):
        renderer.load(replace(world, objects=one_ball(hung, scale)))
        images.append(renderer.render(placement, [viewpoint], lens)[0].astype(float))
    corners = 3.0 * kinds()[kind_index("pebble")].mesh[:, :3]
    world_from_view = np.array([[c, 0.0, s], [0.0, -1.0, 0.0], [-s, 0.0, c]])
    in_view = (corners + hung - eye) @ world_from_view
    local = in_view @ viewpoint.camera_from_world()[:3, :3].T
    u = (lens.cx + lens.fx * local[:, 0] / local[:, 2]) * WIDTH
    v = (lens.cy + lens.fy * local[:, 1] / local[:, 2]) * HEIGHT
    changed = np.abs(images[0] - images[1]).sum(-1)
    outline = (slice(int(v.min()) - 3, int(v.max()) + 4), slice(int(u.min()) - 3, int(u.max()) + 4))
    rows, columns = np.nonzero(changed[outline] > 20.0)  # the ball only, not its shadow
    rows, columns = rows + outline[0].start, columns + outline[1].start
    expected = (0.5 * (u.min() + u.max()), 0.5 * (v.min() + v.max()))
    found = (0.5 * (columns.min() + columns.max() + 1), 0.5 * (rows.min() + rows.max() + 1))
    assert found == pytest.approx(expected, abs=0.75)
    assert np.ptp(columns) + 1 == pytest.approx(np.ptp(u), abs=2.0)


def one_ball(place: NDArray[np.float64], scale: float) -> Objects:
    row = np.array([[*place, scale, 0.0, 0.9, 0.1, 0.1, 1.0, 1e3, 0.0]], np.float32)
    kind = np.array([kind_index("pebble")])
    return Objects(row, kind, np.zeros(1), np.array([scale]))


def warped(image: NDArray[np.float64], homography: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear look-up of `image` at homography @ pixel; NaN outside."""
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    points = np.stack([u / WIDTH, v / HEIGHT, np.ones_like(u)], -1) @ homography.T
    x = points[..., 0] / points[..., 2] * WIDTH - 0.5
    y = points[..., 1] / points[..., 2] * HEIGHT - 0.5
    outside = (x < 0) | (y < 0) | (x > WIDTH - 1.001) | (y > HEIGHT - 1.001)
    i, j = np.clip(x, 0, WIDTH - 1.001).astype(int), np.clip(y, 0, HEIGHT - 1.001).astype(int)
    a, b = (x - i)[..., None], (y - j)[..., None]
    top = image[j, i] * (1 - a) + image[j, i + 1] * a
    low = image[j + 1, i] * (1 - a) + image[j + 1, i + 1] * a
    return np.where(outside[..., None], np.nan, top * (1 - b) + low * b)


@pytest.mark.parametrize(("yaw_deg", "pitch_deg"), [(9.0, 0.0), (0.0, 7.0), (-6.0, -5.0)])
def test_rotation_alone_is_a_homography_between_frames(
    renderer: Renderer, world: World, yaw_deg: float, pitch_deg: float
) -> None:
    renderer.load(world)
    still = Viewpoint()
    turned = Viewpoint(yaw_rad=math.radians(yaw_deg), pitch_rad=math.radians(pitch_deg))
    first, second = renderer.render(placement_of(world), [still, turned], LENS).astype(float)
    lens = np.array([[LENS.fx, 0.0, LENS.cx], [0.0, LENS.fy, LENS.cy], [0.0, 0.0, 1.0]])
    first_from_second = still.camera_from_world() @ np.linalg.inv(turned.camera_from_world())
    expected = warped(first, lens @ first_from_second[:3, :3] @ np.linalg.inv(lens))
    seen = ~np.isnan(expected)
    error = np.sqrt(np.mean((expected - second)[seen] ** 2))
    unaligned = np.sqrt(np.mean((first - second)[seen] ** 2))
    assert error < 0.45 * unaligned and error < 12.0


def test_turning_right_moves_the_image_to_the_left(renderer: Renderer, world: World) -> None:
    renderer.load(world)
    placement = placement_of(world)
    turn = math.atan(10.0 / WIDTH / LENS.fx)  # ten pixels at the centre
    first, second = renderer.render(placement, [Viewpoint(), Viewpoint(yaw_rad=turn)], LENS)
    middle = slice(WIDTH // 2 - 12, WIDTH // 2 + 12)
    shifts = {
        shift: np.abs(
            np.roll(first.astype(float), shift, axis=1)[:, middle] - second[:, middle]
        ).mean()
        for shift in (-10, 0, 10)
    }
    assert min(shifts, key=shifts.__getitem__) == -10


def test_rising_moves_the_eye_up_and_standing_keeps_it_above_the_ground(world: World) -> None:
    placement = placement_of(world)
    path = [Viewpoint(z_m=float(z), y_m=-h) for z in range(0, 90, 2) for h in (0.0, 3.0)]
    views = make_views(world.terrain, placement, path, [LENS] * len(path))
    ground, up = views.eye[::2], views.eye[1::2]
    assert np.allclose(up[:, 1] - ground[:, 1], 3.0)
    land = world.terrain.height_at(ground[:, 0], ground[:, 2])
    assert (ground[:, 1] >= np.maximum(land - WADING_M, 0.0) + EYE_HEIGHT_M - 1e-9).all()


def test_the_ground_is_smooth_where_people_start() -> None:
    for seed in range(6):
        world = make_world(seed)
        place = placement_of(world)
        along = np.linspace(-3.0, 3.0, 61)
        ground = world.terrain.ground_at(place.x_m + along, np.full(61, place.z_m))
        assert np.abs(np.diff(ground)).max() < 0.1  # never steeper than 45 degrees, no steps


def test_the_conditioning_pose_carries_no_terrain_height(renderer: Renderer) -> None:
    frames, cameras, _ = true_walk(renderer, 11, "wr*30", 8.0)
    assert frames.shape == (31, HEIGHT, WIDTH, 3)
    assert (cameras[:, 1, 3] == 0.0).all()
    assert np.allclose(np.diff(np.linalg.inv(cameras)[:, 2, 3]), 0.6)


def test_placements_are_dry_and_free() -> None:
    for seed in range(14):
        world = make_world(seed)
        for clip in range(3):
            place = choose_placement(world, np.random.default_rng((seed, clip)))
            assert world.terrain.height_at(np.array(place.x_m), np.array(place.z_m)) > 0.0
            objects = world.objects
            away = np.hypot(objects.x_m - place.x_m, objects.z_m - place.z_m)
            solid = objects.footprint_m > 0.0
            assert (away[solid] > objects.footprint_m[solid] + CLEAR_M - 1e-3).all()


def test_motion_stays_inside_the_limits_and_covers_them(config: RenderConfig) -> None:
    steps, turns, heights = [], [], []
    for seed in range(300):
        path = draw_path(
            np.random.default_rng(seed),
            48,
            config.frames_per_second,
            config.paths,
            config.lens,
            config.limits,
            WIDTH,
            HEIGHT,
        )
        place = np.array([(v.x_m, v.y_m, v.z_m) for v in path.viewpoints])
        yaw = np.array([v.yaw_rad for v in path.viewpoints])
        pitch = np.array([v.pitch_rad for v in path.viewpoints])
        turn = np.remainder(np.diff(yaw) + math.pi, math.tau) - math.pi
        steps.append(np.linalg.norm(np.diff(place, axis=0), axis=1))
        turns.append(np.hypot(turn, np.diff(pitch)))
        heights.append(-place[:, 1])
    moved, turned, height = np.concatenate(steps), np.concatenate(turns), np.concatenate(heights)
    limits = config.limits
    assert moved.max() <= limits.translation_m_per_frame + 1e-9
    assert moved.max() > 0.97 * limits.translation_m_per_frame
    assert turned.max() <= limits.rotation_rad_per_frame + 1e-9
    assert turned.max() > 0.97 * limits.rotation_rad_per_frame
    assert height.min() == limits.height_m[0] and height.max() > 0.8 * limits.height_m[1]
    still = [s.max() == 0.0 and t.max() < 1e-12 for s, t in zip(steps, turns, strict=True)]
    assert 0.02 < np.mean(still) < 0.14


def test_paths_are_what_advance_makes_of_commands(config: RenderConfig) -> None:
    commands = draw_commands(np.random.default_rng(4), "wander", 20, 24.0)
    viewpoints = viewpoints_for(commands, 24.0, config.limits)
    assert len(viewpoints) == 21 and viewpoints[0] == Viewpoint()
    assert viewpoints[1] == advance(viewpoints[0], commands[0], 24.0, config.limits)
    assert viewpoints_for([Command(forward=1.0)], 12.0, config.limits)[1].z_m == pytest.approx(0.2)


def test_who_roams_never_rests_and_looks_around_most_of_the_time(config: RenderConfig) -> None:
    steps, turns = [], []
    for seed in range(20):
        commands = draw_commands(np.random.default_rng(seed), "roam", 60, 12.0)
        poses = np.stack(
            [v.camera_from_world() for v in viewpoints_for(commands, 12.0, config.limits)]
        )
        steps.append(motions.steps(poses))
        turns.append(np.degrees(motions.turns_rad(poses)))
    assert np.min(steps) > 0.0 and 0.2 < np.mean(steps) < 0.35
    assert 1.35 < np.mean(turns) < 5.0 and (np.stack(turns) > 0).mean() > 0.5


def test_clips_that_move_show_the_worlds_of_those_beside_them() -> None:
    for name in ("evaluation", "worlds-evaluation"):
        plain = load(CONFIGS / f"{name}.yaml", RenderConfig)
        moving = load(CONFIGS / f"{name}-moving.yaml", RenderConfig)
        assert replace(moving, paths=plain.paths) == plain
        assert moving.paths.roam == 0.9


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        PathMix(wander=0.9)


def test_walking_through_a_tree_never_jumps(renderer: Renderer) -> None:
    """The near fade: no frame of the walk differs from the one before by more than a turn would."""
    walks = {walk.name: walk for walk in load(CONFIGS / "walks.yaml", Walks).walks}
    frames = walk_truth(renderer, walks["through a tree"])[0].astype(float)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert changes.max() < 45.0
    assert frames.mean((1, 2, 3)).min() > 25.0  # and it never goes dark inside


def test_shards_are_the_same_whatever_the_worker_count(
    config: RenderConfig, tmp_path: Path
) -> None:
    small = replace(config, shards=2, worlds_per_shard=1, clips_per_world=2, frames_per_clip=4)
    for workers in (1, 2):
        render_dataset(small, tmp_path / str(workers), workers=workers)
    one, two = ClipSet(tmp_path / "1"), ClipSet(tmp_path / "2")
    assert len(one) == len(two) == 4
    for clip in range(4):
        for name in ("frames", "cameras", "intrinsics"):
            assert np.array_equal(one.array(name, clip), two.array(name, clip))
        assert one.prompt(clip) == two.prompt(clip)


def test_rendering_goes_on_where_it_stopped(config: RenderConfig, tmp_path: Path) -> None:
    small = replace(config, shards=1, worlds_per_shard=1, clips_per_world=1, frames_per_clip=2)
    render_dataset(small, tmp_path)
    before = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    render_dataset(replace(small, shards=2), tmp_path, sheet=tmp_path / "sheet.png")
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == before
    assert len(json.loads((tmp_path / "manifest.json").read_text())["shards"]) == 2
    assert (tmp_path / "sheet.png").is_file()
    with pytest.raises(ValueError, match="another configuration"):
        render_dataset(replace(small, seed=7), tmp_path)


def test_a_failing_worker_names_its_shard(config: RenderConfig, tmp_path: Path) -> None:
    broken = replace(config, shards=1, height_px=9000)
    with pytest.raises(ValueError, match="shard 0 failed: cannot draw frames"):
        render_dataset(broken, tmp_path)
