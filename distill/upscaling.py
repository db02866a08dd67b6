"""How close frames that were drawn twice as large are to true large ones, beside a filter's.

Every way begins with what the decoder makes of the true frames at half the size, as in play.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from distill.clips import ClipSet
from distill.metrics import checkerboard_ratio, gradient_energy, psnr_db, ssim
from distill.result import setting, write_result
from worldmodel.autoencoder import frames_to_float, frames_to_uint8
from worldmodel.runtime import fastest_dtype, prepare
from worldmodel.upscaler import FACTOR, UpscaledAutoencoder

BATCH = 16
SHOWN = 4  # frames in the picture
UPSCALER, BICUBIC, REPEATED = "upscaler", "bicubic", "repeated pixels"


@dataclass(frozen=True)
class Extent:
    clips: int = 40
    every: int = 4  # frames of a clip, of which one is measured

    def __post_init__(self) -> None:
        if min(self.clips, self.every) < 1:
            raise ValueError(f"clips and every must be at least 1, got {self.clips}, {self.every}")


@torch.inference_mode()
def write_upscaling(
    model: UpscaledAutoencoder, clips: ClipSet, extent: Extent, device: torch.device, out: Path
) -> dict[str, Any]:
    """Measure on frames of `clips`; JSON into `out`, a picture beside it.

    Raises:
        ValueError: if the clips are not of the size that the model draws.
    """
    dtype = fastest_dtype(device)
    network = prepare(model, device, dtype)
    found, kept = _Sums(), list[Tensor]()
    for clip in range(min(extent.clips, len(clips))):
        frames = np.array(clips.array("frames", clip)[:: extent.every])
        _check_size(model, frames, clips)
        for part in torch.from_numpy(frames).split(BATCH):
            truth = frames_to_float(part.to(device))
            ways = _drawn(network, truth)
            found.add(truth, ways)
        if clip < SHOWN:
            shown = [truth[:1], ways[BICUBIC][:1], ways[UPSCALER][:1]]
            kept.append(torch.cat(shown).cpu())
    result = {**setting(device, dtype), "data": str(clips.folder)}
    result |= {"frames": found.count, "ways": found.means()}
    write_result(result, out)
    Image.fromarray(_sheet(kept)).save(out.with_suffix(".png"))
    return result


def _check_size(model: UpscaledAutoencoder, frames: NDArray[np.uint8], clips: ClipSet) -> None:
    wanted = model.config.height_px, model.config.width_px
    if frames.shape[1:3] != wanted:
        found = "x".join(map(str, frames.shape[1:3]))
        raise ValueError(
            f"{clips.folder}: frames of {found} px; this model draws {wanted[0]}x{wanted[1]}"
        )


def _drawn(network: UpscaledAutoencoder, truth: Tensor) -> dict[str, Tensor]:
    decoded = network.autoencoder.decode(network.encode(truth))
    return {
        UPSCALER: network.draw(decoded),
        BICUBIC: functional.interpolate(decoded, scale_factor=FACTOR, mode="bicubic"),
        REPEATED: functional.interpolate(decoded, scale_factor=FACTOR),
    }


class _Sums:
    """Means over all frames, way by way."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._boards: dict[str, list[float]] = {}

    def add(self, truth: Tensor, ways: dict[str, Tensor]) -> None:
        self.count += len(truth)
        energy = gradient_energy(truth)
        for name, made in ways.items():
            row = psnr_db(made, truth), ssim(made, truth), gradient_energy(made) / energy
            self._rows.setdefault(name, []).append(row)
            self._boards.setdefault(name, []).append(checkerboard_ratio(made, truth))

    def means(self) -> dict[str, dict[str, float]]:
        names = "psnr_db", "ssim", "gradient_energy_ratio"
        return {
            way: {
                name: round(float(torch.cat([row[i] for row in rows]).mean()), 4)
                for i, name in enumerate(names)
            }
            | {"checkerboard_ratio": round(float(np.mean(self._boards[way])), 4)}
            for way, rows in self._rows.items()
        }


def _sheet(kept: list[Tensor]) -> NDArray[np.uint8]:
    """For every clip truth, bicubic and upscaled side by side."""
    pixels = frames_to_uint8(torch.cat(kept))
    sheet: NDArray[np.uint8] = rearrange(pixels, "(r k) h w c -> (r h) (k w) c", k=3).numpy()
    return sheet
