"""When things happen: pure functions and small values of time, no clock and no sleeping."""

from __future__ import annotations

from collections import deque

from worldmodel.types import GeneratorSpec

WORLD_RATES = (6, 8, 10, 12, 15, 20, 24, 30)
MOST_SOFTWARE_HZ = 32.0  # pictures a second where drawing takes the processor from the model
DRAWING_SHARE = 0.5  # of the time at most, where drawing takes the processor from the model
VSYNC_SLACK = 0.9  # of a display frame: a flip that waits ends later than this anyhow
MARGIN = 1.1  # a rate is held when the machine could do a tenth more


def choose_world_rate(measured_fps: float) -> float:
    """The fastest world clock the machine holds; the slowest one where it holds none."""
    held = [rate for rate in WORLD_RATES if rate * MARGIN <= measured_fps]
    return float(max(held, default=WORLD_RATES[0]))


def cameras_per_second(spec: GeneratorSpec) -> float:
    return spec.frames_per_second * spec.cameras_per_step / spec.frames_per_step


def step_period_s(spec: GeneratorSpec) -> float:
    """How much world time one step of the generator covers."""
    return spec.frames_per_step / spec.frames_per_second


def next_step_s(due_s: float, began_s: float, period_s: float) -> float:
    """When the step after this one is due.

    On the beat, so that small delays do not add up; a step later than a whole period begins a new
    beat, so that the world never hurries to catch up.
    """
    late = began_s - due_s >= period_s
    return (began_s if late else due_s) + period_s


def frame_due(ready_s: float, now_s: float, frames: int, frames_per_second: float) -> int:
    """Which frame of a step is on show: its first at once, the others in world time."""
    elapsed = int((now_s - ready_s) * frames_per_second + 1e-6)
    return min(max(elapsed, 0), frames - 1)


def draw_period_s(refresh_hz: float, took_s: float, *, vsync: bool, software: bool) -> float:
    """From the beginning of one drawing, which took `took_s`, to that of the next.

    With `vsync` the flip should keep the pace. Where a driver only promises that, this keeps it.
    """
    period_s = 1 / refresh_hz
    if software:
        return max(period_s, 1 / MOST_SOFTWARE_HZ, took_s / DRAWING_SHARE)
    return VSYNC_SLACK * period_s if vsync else period_s


def rewind_stride(held_s: float) -> int:
    """How many moments the world runs back per beat: the longer the key is held, the more."""
    return 1 + min(3, int(held_s / 2.0))


class RateMeter:
    """Events per second over the last `window_s` seconds."""

    def __init__(self, window_s: float = 2.0) -> None:
        self._window_s = window_s
        self._events: deque[tuple[float, int]] = deque()
        self.total = 0  # events ever

    def add(self, now_s: float, count: int = 1) -> None:
        self.total += count
        self._events.append((now_s, count))
        while self._events[0][0] < now_s - self._window_s:
            self._events.popleft()

    def rate(self, now_s: float) -> float:
        """0 until two events lie in the window, and again once they have left it."""
        events = [event for event in self._events if event[0] >= now_s - self._window_s]
        if len(events) < 2:
            return 0.0
        return sum(count for _, count in events[1:]) / (events[-1][0] - events[0][0])

    def clear(self) -> None:
        self._events.clear()
