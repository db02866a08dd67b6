"""Frames to files: a video or a folder of PNGs, complete under its name or not there at all."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
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
from engine.replay import Replayed

BT709 = 1  # the code of primaries, transfer and matrix in H.264
GAP_PX = 4
FRAME_NAME = "frame_{:06d}.png"
FAST = 1  # of a PNG: a quarter of the usual time, for a sixth more bytes


def open_stream(
    container: av.container.OutputContainer,
    rate: Fraction,
    size: tuple[float, float],
    options: dict[str, str],
) -> av.VideoStream:
    """H.264, 4:2:0, BT.709; `size` is width and height before they are rounded."""
    stream = container.add_stream("libx264", rate=rate)
    # 4:2:0 halves the colour planes, so both sides must be even.
    stream.width, stream.height = (max(2, 2 * round(side / 2)) for side in size)
    stream.pix_fmt = "yuv420p"
    stream.options = dict(options)
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = ColorRange.MPEG
    return stream


def encode_frame(frame: NDArray[np.uint8], stream: av.VideoStream) -> av.VideoFrame:
    """(H, W, 3) RGB as the stream wants it: its size, its colours."""
    return av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        width=stream.width,
        height=stream.height,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.LANCZOS,
    )


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
            self._container = av.open(self._partial, "w")
            size = (self._scale * frame.shape[1], self._scale * frame.shape[0])
            options = {"crf": "16", "preset": "medium"}
            self._stream = open_stream(self._container, self._rate, size, options)
        assert self._container is not None
        self._container.mux(self._stream.encode(encode_frame(frame, self._stream)))

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
        path = self._partial / FRAME_NAME.format(self._written)
        image.save(path, compress_level=FAST)
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


def read_video(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every frame (H, W, 3) with its number in time: a recorder under load leaves frames out.

    Raises:
        ValueError: if it is no video.
    """
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            rate, unit = stream.average_rate, stream.time_base
            for frame in container.decode(stream):
                assert rate is not None and unit is not None and frame.pts is not None
                pixels = frame.to_ndarray(format="rgb24")
                yield round(frame.pts * unit * rate), np.asarray(pixels, np.uint8)
    except (OSError, av.FFmpegError, IndexError) as error:
        raise ValueError(f"video {path} cannot be read ({error})") from None


def side_by_side(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both at the height of the right one, with a dark gap between."""
    height = right.shape[0]
    if left.shape[0] != height:
        width = round(left.shape[1] * height / left.shape[0])
        scaled = Image.fromarray(left).resize((width, height), Image.Resampling.LANCZOS)
        left = np.asarray(scaled)
    gap = np.zeros((height, GAP_PX, 3), np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def write_replay(
    shown: Iterable[Replayed], sink: FrameSink | None, beside: Path | None
) -> Iterator[Replayed]:
    """Pass `shown` through, and write it: right of the video `beside`, where there is one.

    Raises:
        ValueError: if that video is no video.
    """
    if sink is None:
        yield from shown
        return
    recorded = None if beside is None else FramesInTime(beside)
    written = 0
    with sink:
        for event in shown:
            for frame in event.frames:
                left = None if recorded is None else recorded.at(written)
                sink.write(frame if left is None else side_by_side(left, frame))
                written += 1
            yield event


class FramesInTime:
    """A video's frame on show at a time; where frames were left out, the one before."""

    def __init__(self, path: Path) -> None:
        self._frames = read_video(path)
        self._now = self._next = next(self._frames)

    def at(self, number: int) -> NDArray[np.uint8]:
        """`number` must not be smaller than in the call before."""
        while self._next[0] <= number:
            self._now = self._next
            following = next(self._frames, None)
            if following is None:
                break
            self._next = following
        return self._now[1]


def save_poses(path: Path, poses: NDArray[np.float64]) -> None:
    """Write (T, 4, 4) as .npy, through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.npy")
    np.save(partial, poses, allow_pickle=False)
    partial.replace(path)
