"""Clips as pictures: a contact sheet with the pose under every frame, and the ways seen from above."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from distill import motions
from distill.clips import ClipSet
from distill.plots import COLOURS
from distill.result import write_atomically
from distill.viewpoints import viewpoint_of

LABEL_PX = 24  # height of the two lines under a frame
MOST_WAYS = 200
SIDE, MARGIN = 640, 40  # of the plan, px


def view(folder: Path, out: Path, clips: int = 8, columns: int = 6) -> Path:
    """Write the sheet to `out` (a picture) and the plan beside it; return the plan's path.

    Raises:
        ValueError: if the folder holds no frames, or `out` is no PNG or JPEG.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {out}: must end in .png or .jpg; a plan is written beside it")
    found = ClipSet(folder)
    sheet = contact_sheet(found, clips, columns)
    plan = out.with_suffix(".svg")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.partial{out.suffix}")
    Image.fromarray(sheet).save(partial)
    partial.replace(out)
    write_atomically(plan_of(found), plan)
    return plan


def contact_sheet(clips: ClipSet, count: int, columns: int) -> NDArray[np.uint8]:
    """A row per clip, spread over the folder: frames, and under each what its pose says."""
    chosen = np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int)
    places = np.unique(np.linspace(0, clips.frames_per_clip - 1, columns).astype(int))
    rows = []
    for clip in map(int, chosen):
        frames, cameras = clips.array("frames", clip), clips.array("cameras", clip)
        cells = [_cell(frames[k], cameras[k], f"{clip}:{k}") for k in places]
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def pose_lines(camera_from_world: NDArray[np.float64]) -> tuple[str, str]:
    """Where the camera is and where it looks: x, height, z in metres; yaw, pitch in degrees."""
    v = viewpoint_of(camera_from_world)
    yaw, pitch = math.degrees(v.yaw_rad), math.degrees(v.pitch_rad)
    x, height, z = (round(value, 2) + 0.0 for value in (v.x_m, -v.y_m, v.z_m))  # no -0.00
    return f"{x:.2f} {height:.2f} {z:.2f}", f"{round(yaw)} {round(pitch):+d}"


def _cell(frame: NDArray[np.uint8], camera: NDArray[np.float64], name: str) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    image = Image.new("RGB", (width, height + LABEL_PX), "white")
    image.paste(Image.fromarray(np.ascontiguousarray(frame)), (0, 0))
    draw = ImageDraw.Draw(image)
    where, looks = pose_lines(camera)
    draw.text((2, height), where, fill="black")
    draw.text((2, height + LABEL_PX // 2 - 1), f"{looks}  {name}", fill="gray")
    return np.asarray(image)


def plan_of(clips: ClipSet) -> str:
    """SVG of the ways from above, x to the right and z up: each begins at the same place."""
    chosen = np.linspace(0, len(clips) - 1, min(MOST_WAYS, len(clips))).astype(int)
    ways = []
    for clip in map(int, chosen):
        there = motions.positions(clips.array("cameras", clip))[:, [0, 2]]
        ways.append(there - there[0])
    reach = max(float(np.abs(np.concatenate(ways)).max()), 1e-6)
    middle, per_metre = SIDE / 2, (SIDE / 2 - MARGIN) / reach
    parts = []
    for nth, way in enumerate(ways):
        points = " ".join(
            f"{middle + x * per_metre:.1f},{middle - z * per_metre:.1f}" for x, z in way
        )
        colour = COLOURS[nth % len(COLOURS)]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity="0.6"/>'
        )
    title = f"{len(ways)} ways from above, from the middle; the edge is {reach:.3g} m away"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}"'
        f' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{MARGIN}" y="20">{title}</text>'
        f'<circle cx="{middle}" cy="{middle}" r="3"/>' + "".join(parts) + "</svg>\n"
    )
