"""What an evaluation saw: contact sheets and videos beside its numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.evaluate import BATCH_FRAMES, Extent, Model, Truth, contact_sheet, decode_clips
from distill.long_play import SHOWN, Played
from distill.result import Evaluation

ROWS = 8
RESTED = (1, 10, 50, 100, 200)
ASKED = (0, 1, 3, 5, 10, 20, 30)  # frames since the last one before a change of the prompt
BT709 = 1  # the code of primaries, transfer and matrix in H.264


def write_pictures(
    model: Model, truth: Truth, evaluation: Evaluation, extent: Extent, page: Path
) -> dict[str, str]:
    """Sheets beside `page`, named after it: their titles by file name."""
    made, played = evaluation.made, evaluation.played
    columns = [extent.known - 1 + h for h in (0, *extent.horizons)]
    sheets = {
        "frames": contact_sheet(truth.frames[:ROWS, columns], made[:ROWS, columns]),
        "walks": _sheet(model, played.walked.moments, range(len(SHOWN))),
        "still": _sheet(model, played.still, RESTED),
        "ahead": _rows(evaluation.ahead.moments[:ROWS].cpu()),
    }
    titles = {
        "frames": "Truth above, generated below: the last true frame, then frames "
        + ", ".join(map(str, extent.horizons))
        + " after it",
        "walks": "Self-generated walks, frames " + _up_to(SHOWN, played.numbers["frames"]),
        "still": "A camera at rest, frames " + _up_to(RESTED, played.still.shape[1] - 1),
        "ahead": "Straight ahead: the last true frame, then frames "
        + ", ".join(evaluation.ahead.numbers["gradient_energy_ratio"]),
    }
    for asked in evaluation.asked:
        sheets[asked.head] = _rows(asked.frames[:ROWS, list(ASKED)])
        told = "; ".join(asked.prompts[:ROWS])
        titles[asked.head] = (
            f"The {asked.head} in the prompt changes: the last frame before, then frames"
            f" {', '.join(map(str, ASKED[1:]))} after. Row by row it becomes: {told}"
        )
    for name, pixels in sheets.items():
        save_picture(pixels, _beside(page, f"{name}.jpg"))
    return {_beside(page, f"{name}.jpg").name: title for name, title in titles.items()}


def write_videos(model: Model, played: Played, count: int, page: Path) -> list[str]:
    """The beginning of the first walks as videos beside `page`; their file names."""
    names = []
    for nth, walk in enumerate(played.walked.start[:count], 1):
        path = _beside(page, f"walk-{nth}.mp4")
        write_video(model, walk, model.playable.frames_per_second, path)
        names.append(path.name)
    return names


def _beside(page: Path, name: str) -> Path:
    return page.with_name(f"{page.stem}-{name}")


def _up_to(numbers: tuple[int, ...], last: int) -> str:
    return ", ".join(str(n) for n in numbers if n <= last)


def _sheet(model: Model, latents: Tensor, columns: Sequence[int]) -> NDArray[np.uint8]:
    """One row for each of the first clips of latents [b f p c], of those columns that exist."""
    chosen = [column for column in columns if column < latents.shape[1]]
    return _rows(decode_clips(model, latents[:ROWS, chosen]).cpu())


def _rows(frames: Tensor) -> NDArray[np.uint8]:
    """Frames uint8 [b n H W 3] as one picture."""
    return rearrange(frames, "b n h w c -> (b h) (n w) c").numpy()


def save_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    Image.fromarray(pixels).save(partial, quality=90)
    partial.replace(path)


def write_video(model: Model, latents: Tensor, frames_per_second: float, path: Path) -> None:
    """H.264 of latents [f p c], decoded a few at a time; complete under its name or not there."""
    import av  # only for videos: machines that train need not have it
    from av.video.reformatter import ColorRange, Colorspace

    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    config = model.autoencoder.config
    with av.open(partial, "w") as container:
        rate = Fraction(frames_per_second).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = config.width_px, config.height_px, "yuv420p"
        stream.options = {"crf": "18"}
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        for part in latents.split(BATCH_FRAMES):
            for frame in decode_clips(model, part[None])[0].cpu().numpy():
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    partial.replace(path)
