"""Frames of any shape to frames of the model's: the middle is cut out, resized; the lens follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.importers.tracks import Array

Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels of the source


@dataclass(frozen=True, slots=True)
class Fit:
    """The frames that are wanted."""

    height_px: int
    width_px: int
    widest_deg: float | None = None  # cut wider lenses down to this horizontal field of view

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 8:
            raise ValueError(f"frames of {self.height_px}x{self.width_px} px are too small")
        if self.widest_deg is not None and not 10 <= self.widest_deg < 180:
            raise ValueError(f"a field of view of {self.widest_deg:g} degrees: give 10 to 180")

    def box(self, width_px: int, height_px: int, fx: float) -> Box:
        """What to keep of a frame whose focal length is `fx` of its width; as much as possible."""
        keep_x = keep_y = 1.0
        aspect = self.width_px / self.height_px
        if width_px > height_px * aspect:
            keep_x = height_px * aspect / width_px
        else:
            keep_y = width_px / aspect / height_px
        if self.widest_deg is not None:
            allowed = 2 * fx * math.tan(math.radians(self.widest_deg) / 2)
            shrink = min(1.0, allowed / keep_x)
            keep_x, keep_y = keep_x * shrink, keep_y * shrink
        width, height = max(1, round(keep_x * width_px)), max(1, round(keep_y * height_px))
        left, top = (width_px - width) // 2, (height_px - height) // 2
        return left, top, left + width, top + height

    def frame(self, frame: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        """(H, W, 3) -> (height_px, width_px, 3); pixels are averaged where many become one."""
        if box == (0, 0, self.width_px, self.height_px) == (0, 0, frame.shape[1], frame.shape[0]):
            return frame
        image = Image.fromarray(frame)
        size = (self.width_px, self.height_px)
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box))


def fit_intrinsics(intrinsics: Array, width_px: int, height_px: int, box: Box) -> Array:
    """Fractions [.. 4] of a frame of that size -> fractions of its cut; resizing changes none."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    scale = np.array([width_px / width, height_px / height, width_px / width, height_px / height])
    return intrinsics * scale - np.array([0.0, 0.0, left / width, top / height])
