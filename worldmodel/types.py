"""The plain types that the engine and the generator share: numpy and the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Runtime = Literal["torch", "openvino"]  # what computes a network
RuntimeChoice = Literal["auto", "torch", "openvino"]  # "auto": the fastest that is installed


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera in fractions of the image: fx, cx of its width and fy, cy of its height."""

    fx: float
    fy: float
    cx: float = 0.5
    cy: float = 0.5

    @staticmethod
    def from_field_of_view(horizontal_rad: float, width_px: int, height_px: int) -> Intrinsics:
        """Square pixels, principal point in the middle.

        Raises:
            ValueError: if the angle is not between 0 and pi.
        """
        if not 0.0 < horizontal_rad < math.pi:
            raise ValueError(f"field of view must lie between 0 and pi, got {horizontal_rad} rad")
        fx = 0.5 / math.tan(0.5 * horizontal_rad)
        return Intrinsics(fx=fx, fy=fx * width_px / height_px)


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Where a frame is seen from."""

    camera_from_world: NDArray[np.float64]  # (4, 4), rigid, OpenCV axes, metres
    intrinsics: Intrinsics

    def __post_init__(self) -> None:
        check_rigid(self.camera_from_world)


def check_rigid(transform: NDArray[np.float64], tolerance: float = 1e-4) -> None:
    """Refuse a matrix that is no rigid motion.

    Raises:
        ValueError: if the shape is not (4, 4), a value is not finite, the rotation is not a
            rotation within `tolerance`, or the last row is not 0 0 0 1.
    """
    if transform.shape != (4, 4):
        raise ValueError(f"a pose is a 4x4 matrix, got shape {transform.shape}")
    if not np.isfinite(transform).all():
        raise ValueError("a pose holds NaN or infinity")
    rotation = transform[:3, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if off > tolerance or np.linalg.det(rotation) < 0:
        raise ValueError(f"a pose is not rigid: its 3x3 part is no rotation (off by {off:.2g})")
    if np.abs(transform[3] - (0, 0, 0, 1)).max() > tolerance:
        raise ValueError("a pose is not rigid: its last row must be 0 0 0 1")


@dataclass(frozen=True, slots=True)
class MotionLimits:
    """The motion a model was trained on; controls keep to it, so play stays in distribution."""

    translation_m_per_frame: float
    rotation_rad_per_frame: float
    height_m: tuple[float, float]  # how far the viewpoint may rise above (and sink below) its start


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """What the engine must know about a generator before the first frame."""

    name: str
    height_px: int
    width_px: int
    intrinsics: Intrinsics  # those the model was trained around; the default lens of the player
    limits: MotionLimits
    cameras_per_step: int  # poses one `step` takes ...
    frames_per_step: int  # ... and frames it returns
    frames_per_second: float  # rate of the world's clock, not a promise of speed
    weights: str = ""  # a digest: models with the same one can go on from each other's states
    steps: int = 0  # denoising steps per frame; 0 where that means nothing
    most_steps: int = 0  # those it was opened with; `set_steps` may have lowered them
    window_frames: int = 0  # newest frames it remembers now; 0 where that means nothing
    windows: tuple[int, ...] = ()  # those `set_window` takes, the longest first
    vocabulary: tuple[str, ...] = ()  # the words a prompt may hold
    packs: bool = False  # a step commits the frame before, so nobody settles after showing it
    runtime: str = ""  # what computes, and in which numbers: others round otherwise
    drawn_larger: int = 1  # than start pictures frames are, on each side


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a world begins with."""

    seed: int = 0
    image: NDArray[np.uint8] | None = None  # (height, width, 3) as `GeneratorSpec` asks; None: invented
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long the parts of one step took, on the device itself."""

    denoise_s: float
    decode_s: float  # latent to pixels
    copy_s: float  # pixels to numpy


class WorldGenerator(Protocol):
    """The only thing the engine knows of a world model."""

    @property
    def spec(self) -> GeneratorSpec: ...

    def reset(self, start: Start, camera: Camera) -> NDArray[np.uint8]:
        """Begin a world seen from `camera`; return its first frame, (H, W, 3)."""
        ...

    def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
        """Generate the frames seen from `cameras`: (frames_per_step, H, W, 3)."""
        ...

    def settle(self) -> None:
        """Do the work that may wait until the frame is on the screen: committing it to memory.

        The engine calls it after showing a frame and before it reads the next input, unless
        `spec.packs`; `step` does it itself where that did not happen.
        """
        ...

    def set_rate(self, frames_per_second: float) -> None:
        """Change the rate of the world's clock: how far one frame of walking carries."""
        ...

    def set_steps(self, steps: int) -> None:
        """Change the denoising steps of a frame from the next one on: fewer are faster and worse.

        Raises:
            ValueError: if there is not at least one.
        """
        ...

    def set_window(self, frames: int) -> None:
        """Change how many of the newest frames are remembered: fewer are faster, and forget sooner.

        Raises:
            ValueError: if it is none of `spec.windows`.
        """
        ...

    def set_prompt(self, prompt: str) -> None:
        """Change what the world is like from the next frame on; the walk goes on.

        Raises:
            ValueError: naming the words that the model does not know.
        """
        ...

    def times(self) -> StepTimes | None:
        """Of the newest `reset` or `step`; None if it only gave back a frame that was there."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Everything `restore` needs to go on bit for bit: arrays, numbers and strings only."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `snapshot` of the same model."""
        ...
