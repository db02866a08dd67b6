"""Trajectories written as text: `w*20,l*10,wd*8` holds W for 20 frames, turns right for 10, ...

Keys (those of minWM, combinable): w s forward/back · d a right/left · u dn up/down · l j look
right/left · i k look up/down · r run · . stand still. The count is in frames.
"""

from __future__ import annotations

from worldmodel.motion import KEY_LOOK_RAD_PER_S, Command

# longest first: "dn" before "d"
KEYS = ("dn", "w", "s", "a", "d", "u", "l", "j", "i", "k", "r", ".")
MAX_FRAMES = 1_000_000


def parse(text: str, frames_per_second: float) -> list[Command]:
    """One command per frame.

    Raises:
        ValueError: naming the segment and the column where the text stops making sense.
    """
    commands: list[Command] = []
    column = 1
    for segment in text.split(","):
        keys, count = _parse_segment(segment, column, text)
        commands += [command_for_keys(keys, frames_per_second)] * count
        if len(commands) > MAX_FRAMES:
            raise ValueError(f"trajectory {text!r}: more than {MAX_FRAMES:,} frames")
        column += len(segment) + 1
    return commands


def command_for_keys(keys: set[str], frames_per_second: float) -> Command:
    """The command of holding `keys` for one frame; opposite keys cancel."""

    def axis(positive: str, negative: str) -> float:
        return float(positive in keys) - float(negative in keys)

    look_rad = KEY_LOOK_RAD_PER_S / frames_per_second
    return Command(
        forward=axis("w", "s"),
        right=axis("d", "a"),
        up=axis("u", "dn"),
        run="r" in keys,
        yaw_rad=look_rad * axis("l", "j"),
        pitch_rad=look_rad * axis("i", "k"),
    )


def _parse_segment(segment: str, column: int, text: str) -> tuple[set[str], int]:
    where = f"trajectory {text!r}: segment {segment!r} at column {column}"
    names, star, count = segment.strip().partition("*")
    if not names:
        raise ValueError(f"{where}: expected keys and a count such as w*20")
    if star and not (count.strip().isascii() and count.strip().isdigit() and int(count) > 0):
        wanted = "a number of frames of at least 1 after '*'"
        raise ValueError(f"{where}: expected {wanted}, got {count!r}")
    return _split_keys(names.strip(), where), int(count) if star else 1


def _split_keys(names: str, where: str) -> set[str]:
    keys: set[str] = set()
    rest = names
    while rest:
        key = next((candidate for candidate in KEYS if rest.startswith(candidate)), None)
        if key is None:
            known = " ".join(sorted(KEYS))
            raise ValueError(f"{where}: unknown key {rest[0]!r}; known keys: {known}")
        keys.add(key)
        rest = rest[len(key) :]
    return keys
