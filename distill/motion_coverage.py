"""How the cameras of training move, beside those of recorded play: is all that play does trained?

Everything is counted per frame, for that is what a model sees: it knows no seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.clips import ClipSet
from distill.plots import line_plot
from distill.result import write_atomically

Numbers = NDArray[np.float64]
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
CURVE_POINTS = 101
REST_M, REST_DEG = 1e-6, 1e-4  # less is no motion but rounding

# title and unit of each measure, and the field of `Motion` that holds it
MEASURES: tuple[tuple[str, str, str], ...] = (
    ("step", "metres per frame", "step_m"),
    ("yaw", "degrees per frame, either way", "yaw_deg"),
    ("pitch", "degrees per frame, either way", "pitch_deg"),
    ("gaze", "degrees above the horizon", "gaze_deg"),
    ("height", "metres above the ground", "height_m"),
    ("view", "degrees, horizontal field of view", "view_deg"),
    ("zoom", "degrees of field of view per frame, either way", "zoom_deg"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Numbers per frame, or per pair of frames that follow each other."""

    step_m: Numbers
    yaw_deg: Numbers
    pitch_deg: Numbers
    gaze_deg: Numbers
    height_m: Numbers
    view_deg: Numbers
    zoom_deg: Numbers

    @property
    def rest_share(self) -> float:
        """Of the pairs of frames: neither moved nor turned."""
        still = (self.step_m < REST_M) & (self.yaw_deg < REST_DEG) & (self.pitch_deg < REST_DEG)
        return float(still.mean())


def motion_of(cameras: Numbers, intrinsics: Numbers) -> Motion:
    """Of paths: camera_from_world [n f 4 4] and fx fy cx cy [n f 4], f at least 2."""
    rotation = cameras[..., :3, :3]
    place = -np.einsum("nfij,nfi->nfj", rotation, cameras[..., :3, 3])
    forward = rotation[..., 2, :]
    yaw = np.degrees(np.arctan2(forward[..., 0], forward[..., 2]))
    gaze = np.degrees(np.arcsin(np.clip(-forward[..., 1], -1.0, 1.0)))
    turn = np.abs(np.remainder(np.diff(yaw, axis=1) + 180.0, 360.0) - 180.0)
    view = 2.0 * np.degrees(np.arctan(0.5 / intrinsics[..., 0]))
    return Motion(
        step_m=np.linalg.norm(np.diff(place, axis=1), axis=-1).ravel(),
        yaw_deg=turn.ravel(),
        pitch_deg=np.abs(np.diff(gaze, axis=1)).ravel(),
        gaze_deg=gaze.ravel(),
        height_m=-place[..., 1].ravel(),
        view_deg=view.ravel(),
        zoom_deg=np.abs(np.diff(view, axis=1)).ravel(),
    )


def motion_of_clips(clips: ClipSet, most: int = 4096) -> Motion:
    """Of at most so many clips, spread over the data set."""
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).astype(int))
    cameras = np.stack([clips.array("cameras", int(clip)) for clip in chosen])
    lenses = np.stack([clips.array("intrinsics", int(clip)) for clip in chosen])
    return motion_of(cameras, lenses.astype(np.float64))


def motion_of_play(folder: Path) -> Motion:
    """Of an exported recording: its poses.npy [f 4 4] and intrinsics.npy [f 4].

    Raises:
        FileNotFoundError: if one of them is not there.
        ValueError: if they are not of one path of at least two frames.
    """
    poses, lenses = (_read(folder / name) for name in ("poses.npy", "intrinsics.npy"))
    count = len(poses)
    if count < 2 or poses.shape != (count, 4, 4) or lenses.shape != (count, 4):
        raise ValueError(
            f"{folder}: poses.npy {poses.shape} and intrinsics.npy {lenses.shape} are not of one path"
            " of at least two frames"
        )
    return motion_of(poses[None], lenses[None])


def _read(path: Path) -> Numbers:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; export a recording to this folder first")
    values: Numbers = np.load(path, allow_pickle=False).astype(np.float64)
    return values


def write_motion(motions: Mapping[str, Motion], out: Path) -> str:
    """A Markdown page with a table and, beside it, one plot per measure. Returns the page."""
    lines = ["# How the cameras move", "", *_rest_table(motions)]
    for title, unit, field in MEASURES:
        values = {name: getattr(motion, field) for name, motion in motions.items()}
        picture = out.with_name(f"{out.stem}-{title}.svg")
        write_atomically(_plot(title, unit, values), picture)
        lines += ["", f"## {title}: {unit}", "", *_table(values), "", f"![{title}]({picture.name})"]
    page = "\n".join(lines) + "\n"
    write_atomically(page, out)
    return page


def _rest_table(motions: Mapping[str, Motion]) -> list[str]:
    rows = ["| | frames | at rest |", "|---|--:|--:|"]
    for name, motion in motions.items():
        rows.append(f"| {name} | {len(motion.height_m):,} | {100 * motion.rest_share:.1f} % |")
    return rows


def _table(values: Mapping[str, Numbers]) -> list[str]:
    """Quantiles of each; and of all but the first how much lies outside the range of the first."""
    head = [f"{100 * q:g} %" for q in QUANTILES]
    rows = [
        "| | " + " | ".join(head) + " | never trained |",
        "|---|" + "--:|" * (len(head) + 1),
    ]
    trained = next(iter(values.values()))
    for name, numbers in values.items():
        cells = [f"{value:.3g}" for value in np.quantile(numbers, QUANTILES)]
        slack = 1e-6 + 1e-3 * float(np.ptp(trained))
        outside = (numbers < trained.min() - slack) | (numbers > trained.max() + slack)
        share = "" if numbers is trained else f"{100 * outside.mean():.1f} %"
        rows.append(f"| {name} | " + " | ".join([*cells, share]) + " |")
    return rows


def _plot(title: str, unit: str, values: Mapping[str, Numbers]) -> str:
    """The share of frames (percent) that have at most so much."""
    shares = np.linspace(0.0, 1.0, CURVE_POINTS)
    curves = {
        name: [
            (float(x), float(100 * share))
            for x, share in zip(np.quantile(numbers, shares), shares, strict=True)
        ]
        for name, numbers in values.items()
    }
    return line_plot(f"{title}: frames with at most so much, %", unit, curves)
