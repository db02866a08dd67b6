"""Biomes, times of day and weather beyond those of the first shipped world.

They are chosen by the names in a `WorldMix`; the order of what `biomes.py` lists never changes, for
seeds draw from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from distill.scenes.biomes import BIOMES, TIMES, Biome, Ground, TimeOfDay

RUINS = Biome(
    name="ancient ruins",
    ground=Ground(rolling_m=4.5, mountain_m=30.0, mountain_from=0.46, level_m=3.4),
    grass=(0.52, 0.51, 0.30),
    dry=(0.66, 0.59, 0.40),
    rock=(0.68, 0.62, 0.54),
    peak=(0.78, 0.74, 0.64),
    sand=(0.80, 0.74, 0.60),
    trail=(0.83, 0.76, 0.62),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.30, 0.42, 0.27), (0.37, 0.47, 0.30), (0.45, 0.50, 0.34)),
    blossoms=((0.86, 0.42, 0.36), (0.94, 0.86, 0.60)),
    stone=(0.87, 0.82, 0.72),
    trees=(
        ("poplar", 9.0),
        ("broadleaf", 4.0),
        ("bush", 16.0),
        ("broken_pillar", 5.0),
        ("pillar", 1.6),
        ("ruined_wall", 2.6),
        ("arch", 0.6),
        ("rock", 9.0),
    ),
    litter=(("tuft", 900.0), ("dry_tuft", 300.0), ("pebble", 320.0), ("flower", 90.0)),
    houses=(("temple", 2), ("arch", 4), ("pillar", 16), ("ruined_wall", 8), ("broken_pillar", 12)),
    zenith=(0.26, 0.53, 0.84),
    horizon=(0.88, 0.88, 0.84),
    ridge=(0.60, 0.58, 0.60),
    ridge_height=0.14,
    ridge_snow=0.0,
    shallow=(0.44, 0.76, 0.74),
    deep=(0.10, 0.36, 0.50),
    village_m=30.0,
)
TOWN = Biome(
    name="old town",
    ground=Ground(rolling_m=2.0, mountain_m=20.0, mountain_from=0.52, level_m=3.0),
    grass=(0.55, 0.53, 0.50),  # cobbles
    dry=(0.42, 0.49, 0.31),
    rock=(0.54, 0.52, 0.50),
    peak=(0.70, 0.68, 0.62),
    sand=(0.68, 0.63, 0.54),
    trail=(0.60, 0.56, 0.52),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.42, 0.56, 0.30), (0.50, 0.60, 0.32), (0.36, 0.50, 0.31)),
    blossoms=((0.90, 0.36, 0.34), (0.96, 0.80, 0.40), (0.90, 0.88, 0.92)),
    stone=(0.62, 0.61, 0.59),
    trees=(("broadleaf", 9.0), ("poplar", 5.0), ("bush", 14.0), ("rock", 3.0)),
    litter=(("tuft", 450.0), ("flower", 200.0), ("pebble", 260.0)),
    houses=(
        ("tower", 1),
        ("town_house", 14),
        ("slate_house", 12),
        ("house", 4),
        ("well", 1),
        ("lamp", 44),
    ),
    zenith=(0.30, 0.53, 0.82),
    horizon=(0.84, 0.88, 0.92),
    ridge=(0.50, 0.56, 0.62),
    ridge_height=0.09,
    ridge_snow=0.0,
    village_m=34.0,
)
LAKE = Biome(
    name="lake shore",
    ground=Ground(rolling_m=5.0, mountain_m=44.0, mountain_from=0.52, level_m=0.9),
    grass=(0.40, 0.50, 0.28),
    dry=(0.50, 0.53, 0.32),
    rock=(0.52, 0.50, 0.48),
    peak=(0.86, 0.88, 0.92),
    sand=(0.66, 0.60, 0.46),
    trail=(0.66, 0.58, 0.44),
    snow_line_m=36.0,
    snow=0.0,
    leaves=((0.46, 0.60, 0.32), (0.56, 0.66, 0.36), (0.40, 0.54, 0.34)),
    blossoms=((0.95, 0.90, 0.60), (0.85, 0.70, 0.90)),
    stone=(0.60, 0.59, 0.56),
    trees=(("willow", 18.0), ("birch", 12.0), ("broadleaf", 8.0), ("bush", 20.0), ("rock", 9.0)),
    litter=(("tuft", 1500.0), ("flower", 160.0), ("pebble", 110.0), ("fern", 80.0)),
    houses=(("cabin", 3), ("hut", 2)),
    zenith=(0.30, 0.54, 0.82),
    horizon=(0.84, 0.90, 0.94),
    ridge=(0.46, 0.55, 0.64),
    ridge_height=0.20,
    ridge_snow=0.6,
    shallow=(0.40, 0.62, 0.56),
    deep=(0.10, 0.30, 0.42),
    shore=(("reeds", 700.0),),
    afloat=(("lilies", 40), ("boat", 3), ("sailing_boat", 2)),
    over_water=(("jetty", 4), ("bridge", 2)),
)
COAST = Biome(
    name="rocky coast",
    ground=Ground(rolling_m=12.0, mountain_m=34.0, mountain_from=0.1, level_m=1.2, island=True),
    grass=(0.42, 0.50, 0.33),
    dry=(0.53, 0.43, 0.49),  # heather
    rock=(0.46, 0.46, 0.48),
    peak=(0.52, 0.54, 0.44),
    sand=(0.58, 0.57, 0.55),
    trail=(0.72, 0.66, 0.56),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.36, 0.48, 0.33), (0.44, 0.52, 0.34)),
    blossoms=((0.76, 0.48, 0.72), (0.90, 0.84, 0.90), (0.96, 0.84, 0.36)),
    stone=(0.50, 0.50, 0.53),
    trees=(("conifer", 5.0), ("bush", 22.0), ("rock", 60.0), ("spire", 2.0)),
    litter=(("tuft", 1400.0), ("flower", 420.0), ("pebble", 380.0)),
    houses=(("lighthouse", 1), ("house", 3), ("cabin", 2)),
    zenith=(0.30, 0.52, 0.78),
    horizon=(0.82, 0.88, 0.92),
    ridge=(0.56, 0.62, 0.70),
    ridge_height=0.04,
    ridge_snow=0.0,
    shallow=(0.34, 0.60, 0.62),
    deep=(0.08, 0.26, 0.38),
    afloat=(("boat", 2), ("sailing_boat", 5)),
    over_water=(("jetty", 3),),
)
SWAMP = Biome(
    name="misty swamp",
    ground=Ground(rolling_m=2.4, mountain_m=9.0, mountain_from=0.5, level_m=0.55),
    grass=(0.30, 0.36, 0.20),
    dry=(0.37, 0.34, 0.21),
    rock=(0.36, 0.35, 0.31),
    peak=(0.44, 0.44, 0.38),
    sand=(0.30, 0.27, 0.19),
    trail=(0.45, 0.38, 0.28),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.34, 0.42, 0.24), (0.40, 0.45, 0.26), (0.29, 0.38, 0.25)),
    blossoms=((0.86, 0.80, 0.40), (0.70, 0.55, 0.80)),
    stone=(0.42, 0.43, 0.38),
    trees=(("bare_tree", 22.0), ("willow", 16.0), ("bush", 22.0), ("rock", 5.0)),
    litter=(("tuft", 1300.0), ("fern", 420.0), ("mushrooms", 90.0), ("leaf_pile", 120.0)),
    houses=(("hut", 2),),
    zenith=(0.46, 0.56, 0.56),
    horizon=(0.74, 0.78, 0.68),
    ridge=(0.44, 0.48, 0.44),
    ridge_height=0.05,
    ridge_snow=0.0,
    shallow=(0.26, 0.32, 0.17),
    deep=(0.09, 0.13, 0.08),
    haze=2.6,
    shore=(("reeds", 420.0), ("bare_tree", 30.0)),
    afloat=(("lilies", 90), ("boat", 1)),
    over_water=(("bridge", 3), ("jetty", 2)),
)

DUSK = TimeOfDay(
    name="dusk",
    elevation_deg=(4.0, 7.0),
    sun=(1.20, 0.62, 0.42),
    ambient=0.74,
    zenith=(0.24, 0.27, 0.50),
    horizon=(0.80, 0.54, 0.56),
    sky_share=0.92,
    glow=(0.50, 0.16, 0.07),
    haze_per_m=(0.0040, 0.0065),
    daylight=0.45,
    dark=0.75,
    stars=0.15,
)
NIGHT = TimeOfDay(
    name="night",
    elevation_deg=(28.0, 50.0),
    sun=(0.16, 0.21, 0.34),  # the moon
    ambient=1.25,
    zenith=(0.10, 0.14, 0.27),
    horizon=(0.21, 0.28, 0.42),
    sky_share=0.97,
    glow=(0.0, 0.0, 0.0),
    haze_per_m=(0.0030, 0.0050),
    daylight=0.10,
    dark=1.0,
    stars=1.0,
)


@dataclass(frozen=True, slots=True)
class Weather:
    """What the air does to the light of a time of day."""

    name: str
    sun: float = 1.0  # share of the sunlight that comes through
    overcast: float = 0.0  # how much of the sky, the far mountains and the sun's disc is hidden
    grey: float = 1.0  # brightness of the clouds, of that of the sky before
    clouded: bool = False  # clouds show their shapes
    ambient: float = 1.0
    haze_per_m: tuple[float, float] = (0.0, 0.0)  # added
    wet: float = 0.0  # 0..1: dark, gleaming ground
    white: float = 0.0  # 0..1: snow on the ground and on things
    rain: float = 0.0  # 0..1: share of the drops and flakes that fall
    snow: float = 0.0


CLEAR = Weather("clear")
FOG = Weather("fog", sun=0.30, overcast=0.90, ambient=1.12, grey=0.9, haze_per_m=(0.014, 0.024))
RAIN = Weather(
    "rain",
    sun=0.12,
    overcast=0.86,
    ambient=1.2,
    grey=0.52,
    clouded=True,
    haze_per_m=(0.005, 0.009),
    wet=1.0,
    rain=1.0,
)
SNOWFALL = Weather(
    "snow",
    sun=0.20,
    overcast=0.90,
    ambient=0.95,
    grey=0.56,
    clouded=True,
    haze_per_m=(0.006, 0.010),
    white=1.0,
    snow=1.0,
)

ALL_BIOMES: tuple[Biome, ...] = (*BIOMES, RUINS, TOWN, LAKE, COAST, SWAMP)
ALL_TIMES: tuple[TimeOfDay, ...] = (*TIMES, DUSK, NIGHT)
ALL_WEATHER: tuple[Weather, ...] = (CLEAR, FOG, RAIN, SNOWFALL)
