"""What makes a landscape look like itself: palettes, the lie of the land, what grows, the light.

Colours are sRGB in [0, 1], muted on purpose: sun, sky and tone curve add saturation.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Ground:
    """The shape of a terrain, metres."""

    rolling_m: float  # gentle hills where people walk
    mountain_m: float  # what rises around them
    mountain_from: float  # share of the half size at which the mountains begin
    level_m: float  # mean height above the water; low worlds have lakes
    mesa_m: float = 0.0  # height of table mountains with steep walls
    island: bool = False  # the land sinks into the sea towards the edge


@dataclass(frozen=True, slots=True)
class Biome:
    name: str
    ground: Ground
    grass: Colour
    dry: Colour  # the second ground colour, in patches
    rock: Colour
    peak: Colour  # above the snow line
    sand: Colour  # at the water
    trail: Colour  # trodden paths
    snow_line_m: float
    snow: float  # 0..1: how much snow lies on trees, rocks and roofs
    leaves: tuple[Colour, ...]  # tints of foliage
    blossoms: tuple[Colour, ...]  # tints of flowers
    stone: Colour
    # (kind, how many per hectare); kinds are the names of `meshes.KINDS`
    trees: tuple[tuple[str, float], ...]
    litter: tuple[tuple[str, float], ...]  # small things underfoot
    houses: tuple[tuple[str, int], ...]  # (kind, how many at most)
    zenith: Colour
    horizon: Colour
    ridge: Colour  # far mountains, part of the sky
    ridge_height: float  # tangent of their elevation; 0 has none
    ridge_snow: float
    shallow: Colour = (0.42, 0.70, 0.68)
    deep: Colour = (0.14, 0.34, 0.46)
    needles: tuple[Colour, ...] = ((0.31, 0.46, 0.32), (0.36, 0.52, 0.33), (0.28, 0.41, 0.33))
    haze: float = 1.0  # times the haze of the hour
    village_m: float | None = None  # houses crowd this near, turned along common streets
    shore: tuple[tuple[str, float], ...] = ()  # (kind, per hectare) of what stands at the water
    afloat: tuple[tuple[str, int], ...] = ()  # (kind, how many)
    over_water: tuple[tuple[str, int], ...] = ()  # bridges and jetties: (kind, how many at most)


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    name: str
    elevation_deg: tuple[float, float]
    sun: Colour  # linear, may exceed 1
    ambient: float
    zenith: Colour  # the biome's sky is drawn towards these colours ...
    horizon: Colour
    sky_share: float  # ... by this much
    glow: Colour  # added to the sky around a low sun
    haze_per_m: tuple[float, float]
    daylight: float = 1.0  # of what the sky's pictures, the water and the ground throw back
    dark: float = 0.0  # 0..1: lamps and windows are lit
    stars: float = 0.0


ALPINE = Biome(
    name="alpine forest",
    ground=Ground(rolling_m=5.0, mountain_m=62.0, mountain_from=0.40, level_m=3.2),
    grass=(0.38, 0.48, 0.28),
    dry=(0.48, 0.51, 0.33),
    rock=(0.52, 0.50, 0.49),
    peak=(0.95, 0.96, 0.99),
    sand=(0.72, 0.69, 0.58),
    trail=(0.62, 0.55, 0.43),
    snow_line_m=33.0,
    snow=0.0,
    leaves=((0.40, 0.55, 0.30), (0.48, 0.60, 0.31), (0.56, 0.62, 0.34)),
    blossoms=((0.93, 0.92, 0.86), (0.80, 0.76, 0.93)),
    stone=(0.58, 0.57, 0.57),
    trees=(
        ("conifer", 42.0),
        ("tall_conifer", 26.0),
        ("broadleaf", 4.0),
        ("rock", 16.0),
        ("bush", 12.0),
    ),
    litter=(("tuft", 1500.0), ("pebble", 140.0), ("flower", 60.0), ("fern", 60.0)),
    houses=(("cabin", 2),),
    zenith=(0.30, 0.53, 0.84),
    horizon=(0.78, 0.86, 0.93),
    ridge=(0.46, 0.54, 0.63),
    ridge_height=0.26,
    ridge_snow=1.0,
)
AUTUMN = Biome(
    name="autumn wood",
    ground=Ground(rolling_m=6.0, mountain_m=26.0, mountain_from=0.45, level_m=2.6),
    grass=(0.45, 0.46, 0.28),
    dry=(0.51, 0.43, 0.29),
    rock=(0.50, 0.46, 0.43),
    peak=(0.80, 0.76, 0.70),
    sand=(0.70, 0.63, 0.50),
    trail=(0.60, 0.49, 0.38),
    snow_line_m=90.0,
    snow=0.0,
    leaves=(
        (0.87, 0.52, 0.23),
        (0.91, 0.70, 0.30),
        (0.77, 0.36, 0.24),
        (0.66, 0.62, 0.32),
        (0.89, 0.60, 0.25),
    ),
    blossoms=((0.84, 0.45, 0.25), (0.90, 0.70, 0.33)),
    stone=(0.57, 0.54, 0.51),
    trees=(("broadleaf", 46.0), ("birch", 32.0), ("conifer", 5.0), ("rock", 12.0), ("bush", 18.0)),
    litter=(("tuft", 1200.0), ("pebble", 130.0), ("leaf_pile", 420.0), ("fern", 60.0)),
    houses=(("cabin", 1),),
    zenith=(0.40, 0.56, 0.78),
    horizon=(0.88, 0.86, 0.82),
    ridge=(0.58, 0.52, 0.54),
    ridge_height=0.13,
    ridge_snow=0.0,
)
DESERT = Biome(
    name="desert canyon",
    ground=Ground(rolling_m=4.0, mountain_m=12.0, mountain_from=0.6, level_m=5.5, mesa_m=30.0),
    grass=(0.74, 0.56, 0.40),
    dry=(0.69, 0.47, 0.34),
    rock=(0.66, 0.38, 0.28),
    peak=(0.73, 0.48, 0.35),
    sand=(0.80, 0.68, 0.50),
    trail=(0.80, 0.66, 0.49),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.45, 0.56, 0.38), (0.52, 0.58, 0.37), (0.60, 0.60, 0.40)),
    blossoms=((0.88, 0.50, 0.45),),
    stone=(0.73, 0.50, 0.38),
    trees=(("cactus", 24.0), ("rock", 26.0), ("spire", 2.4), ("dry_bush", 34.0)),
    litter=(("pebble", 420.0), ("dry_tuft", 520.0), ("small_cactus", 90.0)),
    houses=(),
    zenith=(0.32, 0.56, 0.80),
    horizon=(0.92, 0.86, 0.76),
    ridge=(0.74, 0.55, 0.47),
    ridge_height=0.10,
    ridge_snow=0.0,
)
SNOW = Biome(
    name="snowfield",
    ground=Ground(rolling_m=6.0, mountain_m=48.0, mountain_from=0.48, level_m=3.4),
    grass=(0.76, 0.80, 0.88),
    dry=(0.65, 0.72, 0.84),
    rock=(0.50, 0.52, 0.57),
    peak=(0.96, 0.97, 1.0),
    sand=(0.74, 0.79, 0.84),
    trail=(0.74, 0.77, 0.84),
    snow_line_m=20.0,
    snow=1.0,
    leaves=((0.27, 0.42, 0.40), (0.32, 0.46, 0.42), (0.24, 0.37, 0.38)),
    blossoms=((0.75, 0.25, 0.25),),
    stone=(0.52, 0.54, 0.60),
    trees=(("conifer", 30.0), ("tall_conifer", 15.0), ("bare_tree", 7.0), ("rock", 20.0)),
    litter=(("pebble", 130.0), ("drift", 260.0), ("dry_tuft", 330.0)),
    houses=(("cabin", 2),),
    zenith=(0.38, 0.56, 0.80),
    horizon=(0.86, 0.90, 0.95),
    ridge=(0.62, 0.69, 0.79),
    ridge_height=0.22,
    ridge_snow=1.0,
    shallow=(0.55, 0.74, 0.78),
    deep=(0.24, 0.42, 0.54),
    needles=((0.27, 0.42, 0.40), (0.32, 0.46, 0.42), (0.24, 0.37, 0.38)),
)
ISLANDS = Biome(
    name="islands",
    ground=Ground(rolling_m=10.0, mountain_m=20.0, mountain_from=0.1, level_m=0.5, island=True),
    grass=(0.43, 0.54, 0.30),
    dry=(0.57, 0.58, 0.35),
    rock=(0.58, 0.54, 0.48),
    peak=(0.62, 0.66, 0.45),
    sand=(0.84, 0.76, 0.60),
    trail=(0.88, 0.80, 0.62),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.42, 0.62, 0.32), (0.50, 0.66, 0.34), (0.36, 0.56, 0.33)),
    blossoms=((0.92, 0.48, 0.50), (0.95, 0.80, 0.42)),
    stone=(0.64, 0.61, 0.56),
    trees=(("palm", 56.0), ("broadleaf", 10.0), ("rock", 18.0), ("bush", 40.0)),
    litter=(("tuft", 1300.0), ("pebble", 200.0), ("flower", 60.0), ("fern", 70.0)),
    houses=(("hut", 3),),
    zenith=(0.24, 0.54, 0.86),
    horizon=(0.80, 0.91, 0.95),
    ridge=(0.60, 0.70, 0.78),
    ridge_height=0.05,
    ridge_snow=0.0,
    shallow=(0.45, 0.82, 0.78),
    deep=(0.10, 0.42, 0.58),
)
MEADOW = Biome(
    name="meadow village",
    ground=Ground(rolling_m=4.5, mountain_m=16.0, mountain_from=0.5, level_m=3.0),
    grass=(0.42, 0.54, 0.29),
    dry=(0.49, 0.55, 0.33),
    rock=(0.56, 0.54, 0.50),
    peak=(0.70, 0.70, 0.55),
    sand=(0.76, 0.71, 0.55),
    trail=(0.74, 0.65, 0.49),
    snow_line_m=90.0,
    snow=0.0,
    leaves=((0.44, 0.61, 0.32), (0.53, 0.66, 0.35), (0.38, 0.54, 0.32)),
    blossoms=((0.93, 0.42, 0.40), (0.96, 0.84, 0.40), (0.74, 0.60, 0.90), (0.97, 0.95, 0.92)),
    stone=(0.66, 0.64, 0.60),
    trees=(("broadleaf", 20.0), ("poplar", 9.0), ("bush", 26.0), ("rock", 7.0)),
    litter=(("tuft", 1500.0), ("flower", 620.0), ("pebble", 90.0)),
    houses=(("house", 9), ("windmill", 2), ("tower", 1)),
    zenith=(0.28, 0.55, 0.86),
    horizon=(0.82, 0.90, 0.94),
    ridge=(0.50, 0.60, 0.64),
    ridge_height=0.10,
    ridge_snow=0.0,
)
BLOSSOM = Biome(
    name="blossom valley",
    ground=Ground(rolling_m=5.5, mountain_m=36.0, mountain_from=0.46, level_m=2.6),
    grass=(0.44, 0.53, 0.35),
    dry=(0.50, 0.53, 0.38),
    rock=(0.56, 0.54, 0.56),
    peak=(0.92, 0.93, 0.97),
    sand=(0.78, 0.74, 0.66),
    trail=(0.72, 0.66, 0.58),
    snow_line_m=38.0,
    snow=0.0,
    leaves=((0.95, 0.70, 0.77), (0.97, 0.80, 0.84), (0.90, 0.60, 0.72), (0.96, 0.88, 0.88)),
    blossoms=((0.95, 0.70, 0.80), (0.98, 0.95, 0.95)),
    stone=(0.62, 0.61, 0.62),
    trees=(("broadleaf", 38.0), ("bush", 12.0), ("rock", 14.0), ("birch", 6.0)),
    litter=(("tuft", 1200.0), ("flower", 320.0), ("pebble", 120.0), ("leaf_pile", 260.0)),
    houses=(("tower", 2), ("cabin", 2)),
    zenith=(0.40, 0.58, 0.86),
    horizon=(0.90, 0.88, 0.92),
    ridge=(0.56, 0.58, 0.70),
    ridge_height=0.20,
    ridge_snow=0.7,
)
BIOMES = (ALPINE, AUTUMN, DESERT, SNOW, ISLANDS, MEADOW, BLOSSOM)

DAY = TimeOfDay(
    name="day",
    elevation_deg=(36.0, 58.0),
    sun=(2.28, 2.10, 1.82),
    ambient=0.95,
    zenith=(0.28, 0.54, 0.86),
    horizon=(0.80, 0.89, 0.95),
    sky_share=0.0,
    glow=(0.05, 0.04, 0.02),
    haze_per_m=(0.0026, 0.0046),
)
MORNING = TimeOfDay(
    name="morning",
    elevation_deg=(17.0, 27.0),
    sun=(2.65, 2.12, 1.62),
    ambient=0.92,
    zenith=(0.45, 0.63, 0.86),
    horizon=(0.97, 0.92, 0.87),
    sky_share=0.5,
    glow=(0.26, 0.17, 0.10),
    haze_per_m=(0.0052, 0.0085),
)
GOLDEN = TimeOfDay(
    name="golden hour",
    elevation_deg=(8.0, 14.0),
    sun=(3.7, 2.05, 0.95),
    ambient=0.78,
    zenith=(0.40, 0.52, 0.74),
    horizon=(0.98, 0.80, 0.62),
    sky_share=0.75,
    glow=(0.60, 0.27, 0.06),
    haze_per_m=(0.0036, 0.0060),
)
TIMES = (DAY, MORNING, GOLDEN)

VOCABULARY: tuple[str, ...] = tuple(biome.name for biome in BIOMES) + tuple(
    time.name for time in TIMES
)
