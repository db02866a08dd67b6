"""A world: everything that the renderer draws, a pure function of its seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from distill.scenes.additions import enrich
from distill.scenes.biomes import Biome, TimeOfDay
from distill.scenes.mix import WorldMix, named, shares
from distill.scenes.objects import Objects, scatter
from distill.scenes.places import ALL_BIOMES, ALL_TIMES, ALL_WEATHER, CLEAR, Weather
from distill.scenes.terrain import Terrain, linear, make_terrain

Vector = NDArray[np.float64]
_LATER = 1 << 40  # with a world's seed: the generator of what the first worlds did not have


@dataclass(frozen=True, slots=True)
class Placement:
    """Where in a world viewpoint zero stands, and which way it looks."""

    x_m: float
    z_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Sun, sky and air; linear light."""

    sun: Vector  # unit vector towards the sun: x, up, z
    sun_colour: Vector
    zenith: Vector
    horizon: Vector
    ambient: float
    glow: Vector
    bounce: Vector
    haze_per_m: float
    cloud_threshold: float
    cloud_softness: float
    cloud_offset: Vector
    daylight: float = 1.0
    dark: float = 0.0
    stars: float = 0.0
    overcast: float = 0.0
    wet: float = 0.0
    white: float = 0.0
    rain: float = 0.0
    snow: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class World:
    seed: int
    biome: Biome
    time: TimeOfDay
    terrain: Terrain
    objects: Objects
    light: Light
    weather: Weather = CLEAR
    landmarks: tuple[str, ...] = ()
    moving: bool = False
    weather_named: bool = False  # in the prompt; worlds where it is always clear do not
    bare: Light | None = (
        None  # the light of the hour without the weather; none: there is no weather
    )

    @property
    def attributes(self) -> tuple[str, ...]:
        weather = (self.weather.name,) if self.weather_named else ()
        return (self.biome.name, self.time.name, *weather, *self.landmarks)

    @property
    def prompt(self) -> str:
        return ", ".join(self.attributes)


def make_world(
    seed: int,
    biome: str | None = None,
    time: str | None = None,
    weather: str | None = None,
    mix: WorldMix | None = None,
) -> World:
    """The world of a seed; what is not named is drawn from it by the shares of `mix`.

    Raises:
        ValueError: if the seed is negative or a name is not known.
    """
    if seed < 0:
        raise ValueError(f"a world's seed must not be negative, got {seed}")
    mix = mix or WorldMix()
    rng, later = np.random.default_rng(seed), np.random.default_rng((seed, _LATER))
    drawn_biome = mix.biomes[int(rng.integers(len(mix.biomes)))]
    drawn_time, drawn_weather = _drawn(mix.times, rng), _drawn(mix.weather, later)
    chosen_biome = named(ALL_BIOMES, biome or drawn_biome)
    chosen_time = named(ALL_TIMES, time or drawn_time)
    chosen_weather = named(ALL_WEATHER, weather or drawn_weather)
    terrain = make_terrain(chosen_biome, rng)
    objects = scatter(chosen_biome, terrain, rng)
    light = _light(chosen_biome, chosen_time, rng)
    objects, words = enrich(chosen_biome, terrain, objects, mix.landmarks, mix.moving, later)
    return World(
        seed=seed,
        biome=chosen_biome,
        time=chosen_time,
        terrain=terrain,
        objects=objects,
        light=_under(light, chosen_weather, later),
        weather=chosen_weather,
        landmarks=words,
        moving=mix.moving,
        weather_named=len(mix.weather) > 1,
        bare=light,
    )


def relit(world: World, time: TimeOfDay, weather: Weather) -> World:
    """The same world at another hour or in other weather; sun and clouds keep their direction."""
    rng = np.random.default_rng((world.seed, _LATER, ALL_TIMES.index(time)))
    bare = world.bare or world.light
    if time != world.time:
        new = _light(world.biome, time, rng)
        level, up = math.hypot(new.sun[0], new.sun[2]), float(new.sun[1])
        east, north = bare.sun[[0, 2]] / math.hypot(bare.sun[0], bare.sun[2])
        bare = replace(
            new,
            sun=np.array([level * east, up, level * north]),
            cloud_threshold=bare.cloud_threshold,
            cloud_softness=bare.cloud_softness,
            cloud_offset=bare.cloud_offset,
        )
    light = _under(bare, weather, rng)
    return replace(world, time=time, weather=weather, light=light, bare=bare)


def between(first: Light, second: Light, share: float) -> Light:
    """The light on the way from one to the other."""
    mixed = {
        field.name: (1.0 - share) * getattr(first, field.name) + share * getattr(second, field.name)
        for field in fields(Light)
    }
    light = Light(**mixed)
    return replace(light, sun=light.sun / np.linalg.norm(light.sun))


def _drawn(choices: dict[str, float], rng: np.random.Generator) -> str:
    names, weights = shares(choices)
    return names[int(rng.choice(len(names), p=weights))]


def _under(light: Light, weather: Weather, rng: np.random.Generator) -> Light:
    """The light when clouds or fog come between; the sky greys, as bright as it was."""
    if weather == CLEAR:
        return light
    brightness = weather.grey + 0.8 * (1.0 - weather.grey) * light.dark  # lamps light low clouds
    neutral = float(light.horizon.mean()) * np.array([0.95, 1.0, 1.07])
    grey = brightness * (0.65 * neutral + 0.35 * light.horizon)
    hidden = weather.overcast
    return replace(
        light,
        sun_colour=light.sun_colour * weather.sun,
        zenith=(1.0 - hidden) * light.zenith + hidden * 0.88 * grey,
        horizon=(1.0 - hidden) * light.horizon + hidden * grey,
        ambient=light.ambient * weather.ambient,
        glow=light.glow * (1.0 - hidden),
        haze_per_m=light.haze_per_m + rng.uniform(*weather.haze_per_m),
        cloud_threshold=0.30 if weather.clouded else 1.2,
        cloud_softness=0.35,
        stars=light.stars * (1.0 - hidden),
        overcast=hidden,
        wet=weather.wet,
        white=weather.white,
        rain=weather.rain,
        snow=weather.snow,
    )


def _light(biome: Biome, time: TimeOfDay, rng: np.random.Generator) -> Light:
    elevation = math.radians(rng.uniform(*time.elevation_deg))
    azimuth = rng.uniform(0.0, math.tau)
    level = math.cos(elevation)
    sun = np.array([level * math.cos(azimuth), math.sin(elevation), level * math.sin(azimuth)])
    tint = rng.uniform(0.96, 1.04, 3)
    share = time.sky_share
    zenith = (1.0 - share) * linear(biome.zenith) + share * linear(time.zenith)
    horizon = ((1.0 - share) * linear(biome.horizon) + share * linear(time.horizon)) * tint
    ground = linear(biome.grass)
    return Light(
        sun=sun,
        sun_colour=np.array(time.sun) * rng.uniform(0.92, 1.06),
        zenith=zenith * tint,
        horizon=horizon,
        ambient=time.ambient,
        glow=np.array(time.glow) * rng.uniform(0.8, 1.1),
        bounce=(ground * (0.36 + 0.36 * math.sin(elevation)) + 0.06) * time.daylight,
        haze_per_m=rng.uniform(*time.haze_per_m) * biome.haze,
        cloud_threshold=rng.uniform(0.42, 0.64),
        cloud_softness=rng.uniform(0.16, 0.30),
        cloud_offset=rng.random(2),
        daylight=time.daylight,
        dark=time.dark,
        stars=time.stars,
    )
