"""Frames to files: a video or a folder of PNGs, complete under its name or not there at all."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from engine.output import VIDEO_SUFFIXES, is_frame

BT709 = 1  # the code of primaries, transfer and matrix in H.264
FRAME_NAME = "frame_{:06d}.png"


class FrameSink(ABC):
    """Takes frames between `with` and its end; an error inside leaves no trace on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")

    @abstractmethod
    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add one (H, W, 3) RGB frame."""

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish()
        else:
            self._discard()

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None: ...


class VideoSink(FrameSink):
    """H.264, 4:2:0, BT.709, near-lossless to the eye."""

    def __init__(self, path: Path, frames_per_second: float, scale: float = 1.0) -> None:
        super().__init__(path)
        self._rate = Fraction(frames_per_second).limit_denominator(1000)
        self._scale = scale
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        if self._stream is None:
            self._open(frame)
        assert self._stream is not None and self._container is not None
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            width=self._stream.width,
            height=self._stream.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.LANCZOS,
        )
        self._container.mux(self._stream.encode(picture))

    def _open(self, frame: NDArray[np.uint8]) -> None:
        self._container = av.open(self._partial, "w")
        stream = self._container.add_stream("libx264", rate=self._rate)
        # 4:2:0 halves the colour planes, so both sides must be even.
        stream.width = max(2, 2 * round(frame.shape[1] * self._scale / 2))
        stream.height = max(2, 2 * round(frame.shape[0] * self._scale / 2))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "medium"}
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        self._stream = stream

    def _finish(self) -> None:
        assert self._stream is not None and self._container is not None, "a video has frames"
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._partial.replace(self.path)

    def _discard(self) -> None:
        if self._container is not None:
            self._container.close()
        self._partial.unlink(missing_ok=True)


class FolderSink(FrameSink):
    """frame_000000.png, frame_000001.png, ... at their exact values, or scaled."""

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        super().__init__(path)
        self._scale = scale
        self._written = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self._partial.mkdir()
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        image = Image.fromarray(frame)
        if self._scale != 1.0:
            size = (round(image.width * self._scale), round(image.height * self._scale))
            image = image.resize(size, Image.Resampling.LANCZOS)
        image.save(self._partial / FRAME_NAME.format(self._written))
        self._written += 1

    def _finish(self) -> None:
        if self.path.is_dir():
            for entry in self.path.iterdir():
                if is_frame(entry):
                    entry.unlink()
            self.path.rmdir()
        self._partial.rename(self.path)

    def _discard(self) -> None:
        shutil.rmtree(self._partial)


def open_sink(path: Path, frames_per_second: float, scale: float = 1.0) -> FrameSink:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSink(path, frames_per_second, scale)
    return FolderSink(path, scale)


def save_poses(path: Path, poses: NDArray[np.float64]) -> None:
    """Write (T, 4, 4) as .npy, through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.npy")
    np.save(partial, poses, allow_pickle=False)
    partial.replace(path)
