"""A world without a network: it paints the pose as colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.types import Camera, GeneratorSpec, Intrinsics, MotionLimits, Start, StepTimes

SPEC = GeneratorSpec(
    name="fake",
    height_px=32,
    width_px=56,
    intrinsics=Intrinsics(fx=0.5, fy=0.875),
    limits=MotionLimits(0.6, 0.2, height_m=(-1.0, 2.0)),
    cameras_per_step=1,
    frames_per_step=1,
    frames_per_second=12.0,
    runtime="fake arithmetic",
)


class FakeWorld:
    """Red at the top left, green at the top right; the lower half paints the position."""

    def __init__(self, **changes: Any) -> None:
        self.spec = replace(SPEC, **changes)
        self.cameras: list[Camera] = []  # every camera it was given since the newest reset
        self.starts: list[Start] = []
        self.prompts: list[str] = []  # those that were changed to
        self.settled = 0  # calls of `settle`

    def set_steps(self, steps: int) -> None:
        self.spec = replace(self.spec, steps=steps)

    def set_window(self, frames: int) -> None:
        self.spec = replace(self.spec, window_frames=frames)

    def reset(self, start: Start, camera: Camera) -> NDArray[np.uint8]:
        self.starts.append(start)
        self.cameras = [camera]
        return self._paint(camera)

    def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
        assert len(cameras) == self.spec.cameras_per_step
        self.cameras += cameras
        repeats = self.spec.frames_per_step // self.spec.cameras_per_step
        return np.stack([self._paint(camera) for camera in cameras for _ in range(repeats)])

    def settle(self) -> None:
        self.settled += 1

    def set_prompt(self, prompt: str) -> None:
        self.prompts.append(prompt)

    def times(self) -> StepTimes | None:
        return StepTimes(denoise_s=0.010, decode_s=0.004, copy_s=0.001)

    def set_rate(self, frames_per_second: float) -> None:
        self.spec = replace(self.spec, frames_per_second=frames_per_second)

    def snapshot(self) -> dict[str, Any]:
        return {"frames": len(self.cameras)}

    def restore(self, state: dict[str, Any]) -> None:
        del self.cameras[state["frames"] :]

    def _paint(self, camera: Camera) -> NDArray[np.uint8]:
        height, width = self.spec.height_px, self.spec.width_px
        frame = np.zeros((height, width, 3), np.uint8)
        frame[: height // 2, : width // 2, 0] = 220
        frame[: height // 2, width // 2 :, 1] = 220
        world_from_camera = np.linalg.inv(camera.camera_from_world)
        frame[height // 2 :] = np.clip(128 + 20 * world_from_camera[:3, 3], 0, 255)
        return frame
