"""What a world starts from: a picture, a seed and a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from worldmodel.prompts import START_PROMPT
from worldmodel.types import GeneratorSpec, Start


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A `Start` whose picture has not been fitted to a model yet."""

    name: str
    seed: int
    image: NDArray[np.uint8] | None = None  # (any height, any width, 3)
    prompt: str = ""

    def start(self, spec: GeneratorSpec) -> Start:
        image = self.image
        if image is not None:
            larger = spec.drawn_larger
            image = fit_image(image, spec.width_px // larger, spec.height_px // larger)
        return Start(seed=self.seed, image=image, prompt=self.prompt)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Upright RGB, (height, width, 3).

    Raises:
        ValueError: if the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"image {path} does not exist") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        # Pillow reports a damaged PNG as SyntaxError and every other damage as OSError.
        raise ValueError(f"image {path} cannot be read: {' '.join(str(error).split())}") from None


def read_start(path: Path, seed: int, prompt: str | None = None) -> Scene:
    """A start picture of a model; `prompt`: instead of the one that the picture may carry.

    Raises:
        ValueError: if the file is missing or no picture.
    """
    image = read_image(path)
    if prompt is None:
        with Image.open(path) as picture:
            prompt = str(picture.info.get(START_PROMPT, ""))
    return Scene(path.stem, seed, image, prompt)


def fit_image(image: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Fill (height_px, width_px, 3), cutting the longer side evenly; nothing is stretched."""
    if image.shape == (height_px, width_px, 3):
        return image
    fitted = ImageOps.fit(Image.fromarray(image), (width_px, height_px), Image.Resampling.LANCZOS)
    return np.asarray(fitted)
