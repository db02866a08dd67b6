"""What the player does with keys, mouse and sticks becomes cameras: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.pacing import cameras_per_second
from worldmodel.motion import KEY_LOOK_RAD_PER_S, Command, Viewpoint, advance, clamp_look
from worldmodel.types import Camera, GeneratorSpec

HELD_ACTIONS = (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """How devices feel."""

    mouse_rad_per_px: float = 0.0025
    invert_mouse: bool = False
    stick_look_rad_per_s: float = 1.4
    stick_dead_zone: float = 0.15  # share of the stick's travel that counts as rest
    look_carry_s: float = 0.35  # how long a flick faster than the model can turn goes on

    def __post_init__(self) -> None:
        if not 0.0 <= self.stick_dead_zone < 1.0:
            raise ValueError(f"stick_dead_zone must lie in [0, 1), got {self.stick_dead_zone}")
        if self.look_carry_s < 0.0:
            raise ValueError(f"look_carry_s must not be negative, got {self.look_carry_s}")


@dataclass(frozen=True, slots=True)
class InputSample:
    """Everything the player did since the sample before."""

    held: frozenset[str] = frozenset()  # HELD_ACTIONS held now or tapped since
    mouse_dx_px: float = 0.0  # summed motion, right is positive
    mouse_dy_px: float = 0.0  # down is positive, as on the screen
    move_stick: tuple[float, float] = (0.0, 0.0)  # right, forward in [-1, 1]
    look_stick: tuple[float, float] = (0.0, 0.0)  # right, up in [-1, 1]
    lift: float = 0.0  # triggers: up is 1, down is -1


@dataclass(frozen=True, slots=True)
class Player:
    """Where the player is, and the mouse motion the model's limit has not let through yet."""

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
    mouse_yaw, mouse_pitch = mouse_look(sample, settings)
    share = 1.0 / spec.cameras_per_step
    for _ in range(spec.cameras_per_step):
        player = _advance(player, sample, (mouse_yaw * share, mouse_pitch * share), settings, spec)
        cameras.append(player.camera(spec))
    return player, cameras


def mouse_look(sample: InputSample, settings: ControlSettings) -> tuple[float, float]:
    """Look increments, right and up positive, in radians."""
    down_is_up = 1.0 if settings.invert_mouse else -1.0
    scale = settings.mouse_rad_per_px
    return sample.mouse_dx_px * scale, sample.mouse_dy_px * scale * down_is_up


def command_of(sample: InputSample, settings: ControlSettings, rate: float) -> Command:
    """The command of keys and sticks alone during one camera; `rate` is in cameras per second."""
    move_right, move_forward = apply_dead_zone(sample.move_stick, settings.stick_dead_zone)
    look_right, look_up = apply_dead_zone(sample.look_stick, settings.stick_dead_zone)
    key_look = KEY_LOOK_RAD_PER_S / rate
    stick_look = settings.stick_look_rad_per_s / rate
    held = sample.held
    return Command(
        forward=_axis(held, "forward", "back", move_forward),
        right=_axis(held, "right", "left", move_right),
        up=_axis(held, "up", "down", sample.lift),
        run="run" in held,
        yaw_rad=_key(held, "look_right", "look_left") * key_look + look_right * stick_look,
        pitch_rad=_key(held, "look_up", "look_down") * key_look + look_up * stick_look,
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
    mouse: tuple[float, float],
    settings: ControlSettings,
    spec: GeneratorSpec,
) -> Player:
    rate = cameras_per_second(spec)
    command = command_of(sample, settings, rate)
    # A mouse asks for an angle, keys and sticks for a speed: only the angle may arrive later.
    due = (player.owed_yaw_rad + mouse[0], player.owed_pitch_rad + mouse[1])
    given = clamp_look(due[0] + command.yaw_rad, due[1] + command.pitch_rad, spec.limits)
    paid = clamp_look(*due, spec.limits)
    owed = _shorten(
        (due[0] - paid[0], due[1] - paid[1]),
        settings.look_carry_s * rate * spec.limits.rotation_rad_per_frame,
    )
    turned = Command(
        command.forward,
        command.right,
        command.up,
        command.run,
        yaw_rad=given[0],
        pitch_rad=given[1],
    )
    return Player(advance(player.viewpoint, turned, rate, spec.limits), *owed)


def _shorten(vector: tuple[float, float], longest: float) -> tuple[float, float]:
    length = math.hypot(*vector)
    scale = min(1.0, longest / length) if length > 0.0 else 0.0
    return vector[0] * scale, vector[1] * scale


def _key(held: frozenset[str], positive: str, negative: str) -> float:
    return float(positive in held) - float(negative in held)


def _axis(held: frozenset[str], positive: str, negative: str, stick: float) -> float:
    return min(1.0, max(-1.0, _key(held, positive, negative) + stick))
