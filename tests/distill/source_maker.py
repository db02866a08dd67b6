"""Small samples of foreign formats: pictures whose colours tell which frame they are."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.importers.axes import inverse
from worldmodel.motion import Viewpoint

SIZE = (96, 64)  # width, height
LENS = (60.0, 60.0, 48.0, 32.0)  # fx fy cx cy, pixels
LEVEL_PER_FRAME = 4  # of grey: what `number_of` reads back


def picture(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Grey that rises with the number; a little texture, so that it is a picture."""
    width, height = size
    frame = np.full((height, width, 3), LEVEL_PER_FRAME * number + 2, np.uint8)
    frame[:2] = 0
    return frame


def number_of(frame: NDArray[np.uint8]) -> int:
    """Which `picture` a frame shows, after a codec and resizing."""
    return round((float(np.median(frame)) - 2) / LEVEL_PER_FRAME)


def write_video(path: Path, frames: int, fps: float = 12.0) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        stream.options = {"crf": "4", "bf": "2"}
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_images(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number)).save(path)
    return paths


def curve(frames: int, step: float = 0.2) -> list[Viewpoint]:
    """A walk to the right and ahead, turning right: nothing about it is symmetric."""
    return [Viewpoint(0.3 * step * k, 0.0, step * k, 0.02 * k, 0.05) for k in range(frames)]


def world_from_camera(frames: int, step: float = 0.2) -> NDArray[np.float64]:
    return inverse(np.stack([view.camera_from_world() for view in curve(frames, step)]))


def write_poses(folder: Path, frames: int = 40, fps: float = 12.0) -> Path:
    folder.mkdir(parents=True)
    write_video(folder / "video.mp4", frames, fps)
    np.save(folder / "poses.npy", world_from_camera(frames))
    np.save(folder / "intrinsics.npy", np.array(LENS))
    return folder


def write_nerfstudio(folder: Path, frames: int = 40) -> Path:
    names = [f"frame_{number:05d}.png" for number in range(frames)]
    write_images(folder / "images", names)
    opengl = world_from_camera(frames) @ np.diag([1.0, -1.0, -1.0, 1.0])
    fx, fy, cx, cy = LENS
    scene = {
        "camera_model": "OPENCV", "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy,
        "w": SIZE[0], "h": SIZE[1], "k1": 0.0, "applied_scale": 1.0,
        "frames": [
            {"file_path": f"images/{name}", "transform_matrix": pose.tolist()}
            for name, pose in reversed(list(zip(names, opengl, strict=True)))
        ],
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(scene))
    return folder


def write_realestate(folder: Path, frames: int = 40, *, video: bool = False) -> Path:
    folder.mkdir(parents=True)
    stamps = [round(1e6 * number / 12) for number in range(frames)]
    lines = ["https://www.youtube.com/watch?v=abc"]
    for stamp, view in zip(stamps, curve(frames), strict=True):
        numbers = [LENS[0] / 96, LENS[1] / 64, 0.5, 0.5, 0, 0]
        numbers += view.camera_from_world()[:3].ravel().tolist()
        lines.append(" ".join([str(stamp), *(f"{number:.9f}" for number in numbers)]))
    (folder / "abc.txt").write_text("\n".join(lines) + "\n")
    if video:
        write_video(folder / "abc.mp4", frames)
    else:
        write_images(folder / "abc", [f"{stamp:09d}.png" for stamp in stamps])
        for stamp in stamps:
            (folder / "abc" / f"{stamp:09d}.png").rename(folder / "abc" / f"{stamp}.png")
    return folder


def write_tum(folder: Path, frames: int = 40) -> Path:
    names = [f"rgb/{number:04d}.png" for number in range(frames)]
    write_images(folder / "rgb", [Path(name).name for name in names])
    lines = [f"{100 + number / 12:.6f} {name}" for number, name in enumerate(names)]
    (folder / "rgb.txt").write_text("# color images\n" + "\n".join(lines) + "\n")
    poses = ["# timestamp tx ty tz qx qy qz qw"]
    for number in range(frames * 3):  # the motion capture ticks three times as fast
        view = Viewpoint(0.02 * number, 0.0, 0.2 / 3 * number, 0.02 / 3 * number, 0.05)
        yaw, pitch = view.yaw_rad / 2, view.pitch_rad / 2
        # yaw about y, then pitch about the camera's own x
        q = (
            np.cos(yaw) * np.sin(pitch), np.sin(yaw) * np.cos(pitch),
            -np.sin(yaw) * np.sin(pitch), np.cos(yaw) * np.cos(pitch),
        )  # fmt: skip
        numbers = [view.x_m, view.y_m, view.z_m, *q]
        poses.append(" ".join([f"{100 + number / 36:.6f}", *(f"{x:.9f}" for x in numbers)]))
    (folder / "groundtruth.txt").write_text("\n".join(poses) + "\n")
    return folder


def write_minwm(folder: Path) -> Path:
    """Two videos of 1 + 4 latents x 4 frames, as minWM's data set stores them."""
    rows = []
    for index, keys in enumerate(("w-6, right-4", "d-10")):
        latents = 10
        place = folder / "videos" / f"{index:06d}_a-place"
        place.mkdir(parents=True)
        write_video(place / "gen.mp4", 1 + 4 * latents, 16.0)
        rows.append({"image_path": "x.png", "caption": f"place {index}", "pose_str": keys})
    (folder / "preencode_input.json").write_text(json.dumps(rows))
    return folder


def write_worldplay(folder: Path, latents: int = 12) -> Path:
    """One pose per latent, of a picture of 1920 x 1080."""
    folder.mkdir(parents=True)
    k = [[969.697, 0, 960], [0, 969.697, 540], [0, 0, 1]]
    poses = world_from_camera(latents)
    rows = {str(i): {"extrinsic": pose.tolist(), "K": k} for i, pose in enumerate(poses)}
    (folder / "a.json").write_text(json.dumps(rows))
    write_video(folder / "a.mp4", 1 + 4 * (latents - 1), 16.0)
    return folder
