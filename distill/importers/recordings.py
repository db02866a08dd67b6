"""Format `recording`: walks that were recorded with `play.py --record`, with the frames of the video.

Who reads the recording's lines is `engine/replay.py`; here its ways become tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.importers.pictures import video_reader, video_times
from distill.importers.tracks import Array, Frames, Track


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One walk of a recording; a recorder under load may have left frames out of the video."""

    name: str
    video: Path
    frames_per_second: float
    numbers: Sequence[int]  # [t] of its frames in the video's time
    cameras: Array  # [t 4 4]
    intrinsics: Array  # [t 4]
    prompt: str = ""


def track_of(way: Way) -> Track:
    """Raises ValueError if the video is missing or damaged, or has no frame of the way."""
    shown = np.rint(video_times(way.video) * way.frames_per_second).astype(int)
    place_of = {int(number): place for place, number in enumerate(shown)}
    kept = [index for index, number in enumerate(way.numbers) if number in place_of]
    if not kept:
        raise ValueError(f"{way.video}: a video shorter than its poses: none of them is in it")
    places = [place_of[way.numbers[index]] for index in kept]
    read = video_reader(way.video)

    def read_chosen(indices: Sequence[int]) -> Frames:
        return read([places[index] for index in indices])

    return Track(
        name=way.name,
        times_s=np.array(kept) / way.frames_per_second,
        cameras=way.cameras[kept],
        intrinsics=way.intrinsics[kept],
        read=read_chosen,
        prompt=way.prompt,
    )
