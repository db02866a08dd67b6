"""The living worlds: new places, weather, things that move; shipped worlds that never change."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.batches import LatentBatches
from distill.clips import ClipSet
from distill.encode import encode_clips
from distill.processes import Processes
from distill.render import RenderConfig, Walks, render_dataset, true_walk, write_starts
from distill.scenes.biomes import VOCABULARY
from distill.scenes.kinds import kind_index, kinds
from distill.scenes.mix import WorldMix
from distill.scenes.placements import CLEAR_M, choose_placement
from distill.scenes.places import ALL_BIOMES, ALL_TIMES, ALL_WEATHER
from distill.scenes.renderer import Renderer, lamp_map
from distill.scenes.terrain import DRY_M
from distill.scenes.world import World, make_world
from distill.stages import ModelConfig
from worldmodel.autoencoder import Autoencoder
from worldmodel.config import load
from worldmodel.motion import Viewpoint
from worldmodel.prompts import START_PROMPT, prompt_parts
from worldmodel.transformer import prompt_words
from worldmodel.types import Intrinsics

CONFIGS = Path(__file__).parents[2] / "configs"
RECORDED = Path(__file__).parent / "shipped_worlds.json"
WIDTH, HEIGHT = 112, 64
LENS = Intrinsics.from_field_of_view(math.radians(80.0), WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(WIDTH, HEIGHT, 2)
    yield renderer
    renderer.release()


@pytest.fixture(scope="module")
def mix() -> WorldMix:
    return load(CONFIGS / "data" / "worlds.yaml", RenderConfig).worlds


def view(renderer: Renderer, world: World, frames: int = 1) -> NDArray[np.uint8]:
    """A camera at rest at the world's own first place, one frame a second."""
    renderer.load(world)
    placement = choose_placement(world, np.random.default_rng((world.seed, 0)))
    return renderer.render(placement, [Viewpoint()] * frames, LENS, np.arange(float(frames)))


def described(renderer: Renderer, seed: int) -> dict[str, object]:
    """What `shipped_worlds.json` holds of a world."""
    world = make_world(seed)
    frames = true_walk(renderer, seed, "w*2,l*2", 12.0)[0]
    coarse = frames[-1].reshape(8, HEIGHT // 8, 14, WIDTH // 14, 3).mean((1, 3))
    counts = np.bincount(world.objects.kind)
    return {
        "prompt": world.prompt,
        "objects": {kinds()[k].name: int(n) for k, n in enumerate(counts) if n},
        "columns": world.objects.data[:, :11].astype(float).mean(0).tolist(),
        "height_m": float(world.terrain.height.mean()),
        "colour": world.terrain.colour.mean((0, 1)).tolist(),
        "pixels": np.rint(coarse).astype(int).tolist(),
        "sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
    }


def test_the_worlds_of_the_first_shipped_model_never_change(renderer: Renderer) -> None:
    """To the bit where the same software draws as when this was recorded, else closely."""
    recorded = json.loads(RECORDED.read_text())
    drawn_by = f"{renderer.device} {renderer.context.info['GL_VERSION']}"
    for seed, before in recorded["worlds"].items():
        now = described(renderer, int(seed))
        assert (now["prompt"], now["objects"]) == (before["prompt"], before["objects"])
        for name in ("columns", "height_m", "colour"):
            assert now[name] == pytest.approx(before[name], rel=1e-6, abs=1e-9)
        assert np.allclose(now["pixels"], before["pixels"], atol=3.0)
        if drawn_by == recorded["drawn_by"]:
            assert now["sha256"] == before["sha256"]


def test_the_default_mix_is_that_of_the_first_shipped_world() -> None:
    assert load(CONFIGS / "data" / "pocket.yaml", RenderConfig).worlds == WorldMix()
    assert WorldMix().vocabulary == VOCABULARY


def test_a_start_picture_carries_the_words_of_its_world(renderer: Renderer, tmp_path: Path) -> None:
    table = tmp_path / "starts.yaml"
    table.write_text(
        "worlds: {biomes: [old town], times: {night: 1.0}, weather: {fog: 0.5, clear: 0.5}}\n"
        "walks:\n  - {name: town, world: 3, trajectory: w*1, frames_per_second: 12.0}\n"
    )
    write_starts(table, tmp_path / "starts", renderer)
    with Image.open(tmp_path / "starts" / "town.png") as picture:
        said = picture.info[START_PROMPT]
    assert prompt_parts(said)[:2] == ("old town", "night") and len(prompt_parts(said)) == 3


def test_the_starts_and_held_out_clips_are_of_the_same_worlds(mix: WorldMix) -> None:
    starts = load(CONFIGS / "data" / "starts.yaml", Walks)
    assert starts.worlds == mix
    prompts = [make_world(start.world, mix=mix).prompt for start in starts.walks]
    assert len({prompt.partition(",")[0] for prompt in prompts}) == len(ALL_BIOMES)
    held_out = load(CONFIGS / "data" / "worlds-evaluation.yaml", RenderConfig)
    assert replace(held_out.worlds, changing=mix.changing) == mix
    seen = {held_out.seed + i for i in range(held_out.shards * held_out.worlds_per_shard)}
    for name, changing in (("worlds-judge", 0.0), ("worlds-changing", 1.0)):
        other = load(CONFIGS / "data" / f"{name}.yaml", RenderConfig)
        assert other.worlds == replace(mix, changing=changing)
        worlds = other.shards * other.worlds_per_shard
        assert not seen & set(range(other.seed, other.seed + worlds))


def test_what_a_model_of_these_worlds_reads_is_what_they_say(mix: WorldMix) -> None:
    model = load(CONFIGS / "model" / "pocket.yaml", ModelConfig)
    assert model.transformer.vocabulary == mix.vocabulary
    for seed in range(40):
        world = make_world(seed, mix=mix)
        assert sum(prompt_words(mix.vocabulary, world.prompt)) == len(world.attributes) >= 3


def test_a_mix_draws_all_its_places_hours_and_weathers(mix: WorldMix) -> None:
    worlds = [make_world(seed, mix=mix) for seed in range(80)]
    assert {world.biome.name for world in worlds} == {biome.name for biome in ALL_BIOMES}
    assert {world.time.name for world in worlds} == {time.name for time in ALL_TIMES}
    assert {world.weather.name for world in worlds} == {weather.name for weather in ALL_WEATHER}
    there = {word for world in worlds for word in world.landmarks}
    assert there == {"lighthouse", "windmill", "bridge", "campfire", "boats", "birds"}


def test_every_biome_has_dry_and_free_places_to_begin(mix: WorldMix) -> None:
    for seed, biome in enumerate(ALL_BIOMES):
        world = make_world(seed, biome.name, mix=mix)
        place = choose_placement(world, np.random.default_rng(seed))
        objects = world.objects
        assert world.terrain.height_at(np.array(place.x_m), np.array(place.z_m)) > 0.0
        away = np.hypot(objects.x_m - place.x_m, objects.z_m - place.z_m)
        solid = objects.footprint_m > 0.0
        assert (away[solid] > objects.footprint_m[solid] + CLEAR_M - 1e-3).all()


def test_biomes_differ_at_a_glance(renderer: Renderer, mix: WorldMix) -> None:
    """Mean colours over a few views of each: no two biomes are nearer than the eye would tell."""
    means = []
    for biome in ("ancient ruins", "old town", "rocky coast", "misty swamp", "snowfield"):
        views = [view(renderer, make_world(s, biome, "day", "clear", mix=mix)) for s in range(3)]
        means.append(np.mean([v.astype(float).mean((0, 1, 2)) for v in views], axis=0))
    for index, mean in enumerate(means):
        assert all(np.abs(mean - other).max() > 4.0 for other in means[:index])


@pytest.mark.parametrize("weather", ["fog", "rain", "snow"])
def test_weather_greys_the_sky_and_the_distance(
    renderer: Renderer, mix: WorldMix, weather: str
) -> None:
    clear = view(renderer, make_world(5, "alpine forest", "day", "clear", mix=mix))[0]
    other = view(renderer, make_world(5, "alpine forest", "day", weather, mix=mix))[0]
    top = slice(0, HEIGHT // 6)
    saturation = [np.ptp(frame[top].astype(float), axis=-1).mean() for frame in (clear, other)]
    assert saturation[1] < 0.6 * saturation[0]


def test_fog_hides_what_is_far_and_snow_whitens_the_ground(
    renderer: Renderer, mix: WorldMix
) -> None:
    low = slice(3 * HEIGHT // 4, HEIGHT)
    frames = {
        weather: view(renderer, make_world(5, "meadow village", "day", weather, mix=mix))[0]
        for weather in ("clear", "fog", "snow")
    }
    middle = slice(HEIGHT // 3, HEIGHT // 2)
    assert frames["fog"][middle].std() < 0.7 * frames["clear"][middle].std()
    colour = {name: np.ptp(frame[low].mean((0, 1))) for name, frame in frames.items()}
    assert colour["snow"] < 0.4 * colour["clear"]


def test_windows_and_lamps_are_lit_at_night_only(renderer: Renderer, mix: WorldMix) -> None:
    day = view(renderer, make_world(5002, "old town", "day", "clear", mix=mix))[0].astype(int)
    night = view(renderer, make_world(5002, "old town", "night", "clear", mix=mix))[0].astype(int)
    warm = (night[..., 0] > 150) & (night[..., 0] > night[..., 2] + 60)
    assert night.mean() < 0.5 * day.mean()
    assert warm.mean() > 0.002
    assert not ((day[..., 0] > 240) & (day[..., 0] > day[..., 2] + 60)).any()


def test_worlds_without_lamps_have_no_map_of_light(mix: WorldMix) -> None:
    dark = make_world(7, "desert canyon")
    assert lamp_map(dark.objects) is None
    lit = lamp_map(make_world(7, "old town", mix=mix).objects)
    assert lit is not None and lit.max() > 200 and np.median(lit) < 5


@pytest.mark.parametrize(
    ("biome", "weather"), [("islands", "clear"), ("lake shore", "rain"), ("islands", "snow")]
)
def test_time_passes_in_moving_worlds_only(
    renderer: Renderer, mix: WorldMix, biome: str, weather: str
) -> None:
    world = make_world(12, biome, "day", weather, mix=mix)
    frames = view(renderer, world, 3).astype(int)
    assert np.abs(np.diff(frames, axis=0)).max() > 20
    first, second = view(renderer, replace(world, moving=False), 2).astype(int)
    assert np.abs(first - second).mean() < 0.005  # where a frame lies in a batch rounds differently


def test_moving_worlds_are_reproducible_and_go_on_over_batches(
    renderer: Renderer, mix: WorldMix
) -> None:
    """Frame 33, the first of a second batch, is at second 33 and not at second 1."""
    world = make_world(12, "islands", "day", "snow", mix=mix)
    whole = view(renderer, world, 34)
    assert np.array_equal(whole, view(renderer, world, 34))
    assert not np.array_equal(whole[33], whole[1])


def test_flakes_hang_in_the_world_and_not_on_the_lens(renderer: Renderer, mix: WorldMix) -> None:
    """With time stopped, turning the camera and back gives the same flakes again."""
    world = replace(make_world(12, "islands", "day", "snow", mix=mix), moving=False)
    renderer.load(world)
    placement = choose_placement(world, np.random.default_rng((12, 0)))
    turned, still = Viewpoint(yaw_rad=0.12), Viewpoint()
    first, second, third = renderer.render(placement, [still, turned, still], LENS)
    assert np.abs(first.astype(int) - third).mean() < 0.005
    shift = round(WIDTH * LENS.fx * math.tan(0.12))
    rows, columns = slice(4, HEIGHT // 3), slice(WIDTH // 2 - 12, WIDTH // 2 + 12)
    moved = np.roll(first, -shift, axis=1)[rows, columns].astype(float)
    same = np.abs(moved - second[rows, columns]).mean()
    on_the_lens = np.abs(first[rows, columns].astype(float) - second[rows, columns]).mean()
    assert same < 0.6 * on_the_lens


def test_as_many_times_and_lights_as_frames_are_asked_for(renderer: Renderer) -> None:
    world = make_world(1)
    renderer.load(world)
    place = choose_placement(world, np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 viewpoints but 1 times"):
        renderer.render(place, [Viewpoint()] * 2, LENS, np.zeros(1))
    with pytest.raises(ValueError, match="2 viewpoints but 1 lights"):
        renderer.render(place, [Viewpoint()] * 2, LENS, None, [world.light])


def test_life_passes_by_the_frame_whatever_rate_the_controls_have(mix: WorldMix) -> None:
    """A model is told no rate: what moves by itself must move as far in every frame."""
    small = Renderer(WIDTH, HEIGHT, 1)
    slow, fast = (true_walk(small, 12, ".*3", rate, mix=mix)[0] for rate in (8.0, 40.0))
    small.release()
    assert np.array_equal(slow, fast)
    assert make_world(12, mix=mix).moving and not np.array_equal(slow[0], slow[2])


def test_sails_turn_about_the_hub_of_their_mill(mix: WorldMix) -> None:
    world = make_world(1, "meadow village", "day", "clear", mix=mix)
    mills = world.objects.data[world.objects.kind == kind_index("mill")]
    sails = world.objects.data[world.objects.kind == kind_index("sails")]
    assert len(mills) == len(sails) > 0
    assert not (world.objects.kind == kind_index("windmill")).any()
    assert np.allclose(sails[:, 1] - mills[:, 1], 6.75 * mills[:, 3], atol=1e-3)
    out = np.hypot(sails[:, 0] - mills[:, 0], sails[:, 2] - mills[:, 2])
    assert np.allclose(out, 2.4 * mills[:, 3], atol=1e-3)


def test_boats_drift_on_open_water_and_bridges_end_on_land(mix: WorldMix) -> None:
    boats = bridges = 0
    for seed in range(8):
        world = make_world(seed, "lake shore", mix=mix)
        names = np.array([kind.name for kind in kinds()])[world.objects.kind]
        for row in world.objects.data[np.isin(names, ("boat", "sailing_boat"))].astype(float):
            turn = np.linspace(0.0, math.tau, 24)
            x, z = row[0] + row[8] * np.cos(turn), row[2] + row[8] * np.sin(turn)
            assert world.terrain.height_at(x, z).max() < 0.0
            boats += 1
        for row in world.objects.data[names == "bridge"].astype(float):
            ends = np.array([-7.0, 7.0])
            x, z = row[0] + ends * math.sin(row[4]), row[2] + ends * math.cos(row[4])
            assert (world.terrain.height_at(x, z) > -0.1).all()
            bridges += 1
    assert boats > 3 and bridges > 0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown attribute 'moon'"):
        WorldMix(biomes=("moon",))
    with pytest.raises(ValueError, match="rain fall: worlds with them need moving: true"):
        WorldMix(weather={"clear": 0.5, "rain": 0.5})
    with pytest.raises(ValueError, match="must be positive and sum to 1"):
        WorldMix(times={"day": 0.5})
    with pytest.raises(ValueError, match="name at least one"):
        WorldMix(biomes=())


def tiny_config(moving: bool) -> RenderConfig:
    config = load(CONFIGS / "data" / "nano.yaml", RenderConfig)
    small = replace(config, shards=1, worlds_per_shard=1, clips_per_world=2, frames_per_clip=6)
    return replace(small, supersampling=1, worlds=WorldMix(moving=moving))


@pytest.mark.parametrize("moving", [False, True])
def test_clips_in_which_things_move_are_never_played_backwards(
    tmp_path: Path, moving: bool
) -> None:
    """Through rendering and encoding; clips of static worlds still are."""
    render_dataset(tiny_config(moving), tmp_path / "frames")
    autoencoder = Autoencoder(load(CONFIGS / "model" / "nano.yaml", ModelConfig).autoencoder)
    alone = Processes(0, 1, torch.device("cpu"))
    encode_clips(ClipSet(tmp_path / "frames"), autoencoder, tmp_path / "latents", alone)
    clips = ClipSet(tmp_path / "latents")
    assert [clips.one_way(clip) for clip in range(2)] == [moving, moving]
    batches = LatentBatches(
        clips,
        (),
        batch_size=2,
        frames=6,
        time_reversal=1.0,
        prompt_dropout=0.0,
        seed=0,
        rank=0,
        ranks=1,
    )
    shown = batches.at(0).latents.numpy()
    order = slice(None) if moving else slice(None, None, -1)
    for clip, latents in zip(batches.chosen(0), shown, strict=True):
        assert np.array_equal(latents, clips.array("latents", clip)[order])


def test_an_old_folder_goes_on_under_new_options(tmp_path: Path) -> None:
    """A record from before the options is one with their defaults."""
    config = tiny_config(False)
    render_dataset(config, tmp_path)
    record = tmp_path / "render.json"
    tree = json.loads(record.read_text())
    del tree["worlds"]
    record.write_text(json.dumps(tree))
    render_dataset(config, tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        render_dataset(tiny_config(True), tmp_path)


def test_a_coast_that_chance_put_under_the_sea_is_dry_somewhere(mix: WorldMix) -> None:
    world = make_world(2_000_472, mix=mix)
    place = choose_placement(world, np.random.default_rng(0))
    here = np.array([place.x_m]), np.array([place.z_m])
    assert world.biome.name == "rocky coast"
    assert world.terrain.height_at(*here)[0] > DRY_M
