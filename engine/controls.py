"""What the player does with keys, mouse and sticks becomes cameras: pure functions."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field, replace

from engine.pacing import cameras_per_second
from worldmodel.motion import KEY_LOOK_RAD_PER_S, Command, Viewpoint, advance, clamp_look, turn
from worldmodel.types import Camera, GeneratorSpec

HELD_ACTIONS = (  # what moves the player
    "forward",
    "back",
    "left",
    "right",
    "up",
    "down",
    "run",
    "look_left",
    "look_right",
    "look_up",
    "look_down",
)
REWIND = "rewind"  # held as well, and moves the world


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """How devices feel."""

    mouse_rad_per_px: float = 0.0025
    invert_mouse: bool = False
    stick_look_rad_per_s: float = 1.4
    invert_stick: bool = False
    stick_dead_zone: float = 0.15  # share of the stick's travel that counts as rest
    look_carry_s: float = 0.35  # how long a look faster than the model can turn goes on

    def __post_init__(self) -> None:
        if not 0.0 <= self.stick_dead_zone < 1.0:
            raise ValueError(f"stick_dead_zone must lie in [0, 1), got {self.stick_dead_zone}")
        if self.look_carry_s < 0.0:
            raise ValueError(f"look_carry_s must not be negative, got {self.look_carry_s}")


@dataclass(frozen=True, slots=True)
class InputSample:
    """Everything the player did since the sample before."""

    held: frozenset[str] = frozenset()  # HELD_ACTIONS held now or tapped since
    look_rad: tuple[float, float] = (0.0, 0.0)  # angle asked for by all devices: right, up positive
    move_stick: tuple[float, float] = (0.0, 0.0)  # right, forward in [-1, 1]
    lift: float = 0.0  # triggers: up is 1, down is -1
    oldest_s: float | None = None  # when the first event that is new in it arrived; None: nothing


@dataclass(frozen=True, slots=True)
class Player:
    """Where the player is, and the look that the model's limit has not let through yet."""

    viewpoint: Viewpoint = field(default_factory=Viewpoint)
    owed_yaw_rad: float = 0.0
    owed_pitch_rad: float = 0.0

    def camera(self, spec: GeneratorSpec) -> Camera:
        return Camera(self.viewpoint.camera_from_world(), spec.intrinsics)


def walk(
    player: Player, sample: InputSample, settings: ControlSettings, spec: GeneratorSpec
) -> tuple[Player, list[Camera]]:
    """Move through one step of the generator: one command, and so one camera, per pose it takes."""
    cameras = []
    share = 1.0 / spec.cameras_per_step
    look = (sample.look_rad[0] * share, sample.look_rad[1] * share)
    for _ in range(spec.cameras_per_step):
        player = _advance(player, sample, look, settings, spec)
        cameras.append(player.camera(spec))
    return player, cameras


def look_ahead(
    player: Player,
    asked_rad: tuple[float, float],
    settings: ControlSettings,
    spec: GeneratorSpec,
) -> Viewpoint:
    """Where the player looks at this instant: what `walk` will have turned to once all is paid.

    `asked_rad` is the look since the newest `walk`. Handing it to `walk` changes nothing here, so a
    picture re-projected to this viewpoint does not jump when a new frame arrives.
    """
    return turn(player.viewpoint, *_due(player, asked_rad, settings, spec))


def mouse_look(dx_px: float, dy_px: float, settings: ControlSettings) -> tuple[float, float]:
    """The look angle of mouse motion, right and up positive; dy is positive downwards."""
    down_is_up = 1.0 if settings.invert_mouse else -1.0
    scale = settings.mouse_rad_per_px
    return dx_px * scale, dy_px * scale * down_is_up


def look_speed(
    held: Set[str], stick: tuple[float, float], settings: ControlSettings
) -> tuple[float, float]:
    """Radians per second of keys and stick, right and up positive: real time, not world time."""
    right, up = apply_dead_zone(stick, settings.stick_dead_zone)
    return (
        _key(held, "look_right", "look_left") * KEY_LOOK_RAD_PER_S
        + right * settings.stick_look_rad_per_s,
        _key(held, "look_up", "look_down") * KEY_LOOK_RAD_PER_S
        + up * settings.stick_look_rad_per_s * (-1.0 if settings.invert_stick else 1.0),
    )


def command_of(sample: InputSample, settings: ControlSettings) -> Command:
    """The motion of keys and sticks; looking is not in it."""
    move_right, move_forward = apply_dead_zone(sample.move_stick, settings.stick_dead_zone)
    held = sample.held
    return Command(
        forward=_axis(held, "forward", "back", move_forward),
        right=_axis(held, "right", "left", move_right),
        up=_axis(held, "up", "down", sample.lift),
        run="run" in held,
    )


def apply_dead_zone(stick: tuple[float, float], dead_zone: float) -> tuple[float, float]:
    """Radial: directions are kept, and motion starts from zero at the zone's rim."""
    length = math.hypot(*stick)
    if length <= dead_zone:
        return 0.0, 0.0
    scale = min(1.0, (length - dead_zone) / (1.0 - dead_zone)) / length
    return stick[0] * scale, stick[1] * scale


def _advance(
    player: Player,
    sample: InputSample,
    look: tuple[float, float],
    settings: ControlSettings,
    spec: GeneratorSpec,
) -> Player:
    due = _due(player, look, settings, spec)
    paid = clamp_look(*due, spec.limits)
    command = replace(command_of(sample, settings), yaw_rad=paid[0], pitch_rad=paid[1])
    viewpoint = advance(player.viewpoint, command, cameras_per_second(spec), spec.limits)
    return Player(viewpoint, due[0] - paid[0], due[1] - paid[1])


def _due(
    player: Player,
    asked_rad: tuple[float, float],
    settings: ControlSettings,
    spec: GeneratorSpec,
) -> tuple[float, float]:
    """All look that is still to come, cut to what one step and the carry can ever give."""
    cameras = 1.0 + settings.look_carry_s * cameras_per_second(spec)
    due = (player.owed_yaw_rad + asked_rad[0], player.owed_pitch_rad + asked_rad[1])
    return _shorten(due, cameras * spec.limits.rotation_rad_per_frame)


def _shorten(vector: tuple[float, float], longest: float) -> tuple[float, float]:
    length = math.hypot(*vector)
    scale = min(1.0, longest / length) if length > 0.0 else 0.0
    return vector[0] * scale, vector[1] * scale


def _key(held: Set[str], positive: str, negative: str) -> float:
    return float(positive in held) - float(negative in held)


def _axis(held: Set[str], positive: str, negative: str, stick: float) -> float:
    return min(1.0, max(-1.0, _key(held, positive, negative) + stick))
