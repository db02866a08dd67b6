"""The newest frame, seen from the camera of this instant: rotation and field of view, no parallax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldmodel.types import Camera, Intrinsics

Homography = NDArray[np.float64]  # (3, 3)
NO_WARP: Homography = np.eye(3)


def frame_from_view(frame: Camera, view: Camera) -> Homography:
    """Where a point of the view lies in the frame: (x, y, 1) of one to (x, y, 1) * w of the other.

    Coordinates are fractions of the image from its top left corner. Exact for everything far away;
    how far the view has moved since the frame is ignored. The identity, bit for bit, if both look
    the same way through the same lens.

    Source: homography of a rotating camera, Hartley and Zisserman, Multiple View Geometry, 2nd
    edition, eq. 8.14.
    """
    frame_rotation, view_rotation = frame.camera_from_world[:3, :3], view.camera_from_world[:3, :3]
    same_lens = frame.intrinsics == view.intrinsics
    if same_lens and np.array_equal(frame_rotation, view_rotation):
        return NO_WARP
    frame_from_view_camera = frame_rotation @ view_rotation.T
    warp = (
        image_from_camera(frame.intrinsics)
        @ frame_from_view_camera
        @ np.linalg.inv(image_from_camera(view.intrinsics))
    )
    return np.asarray(warp, np.float64)


def uncovered(frame_from_view: Homography) -> list[tuple[float, float, float, float]]:
    """Rectangles (left, top, right, bottom) in the view that hold all that the frame does not cover.

    Fractions of the view. They may overlap each other and a little of the frame.
    """
    corners = (
        np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ np.linalg.inv(frame_from_view).T
    )
    if corners[:, 2].min() <= 1e-6:  # a corner lies behind the view
        return [(0.0, 0.0, 1.0, 1.0)]
    xy = corners[:, :2] / corners[:, 2:]
    (left_top, right_top, left_bottom, right_bottom) = xy
    left = max(left_top[0], left_bottom[0])
    right = min(right_top[0], right_bottom[0])
    top = max(left_top[1], right_top[1])
    bottom = min(left_bottom[1], right_bottom[1])
    strips = [
        (0.0, 0.0, left, 1.0),
        (right, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0, top),
        (0.0, bottom, 1.0, 1.0),
    ]
    cut = [tuple(min(1.0, max(0.0, float(side))) for side in strip) for strip in strips]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in cut if x0 < x1 and y0 < y1]


def image_from_camera(lens: Intrinsics) -> NDArray[np.float64]:
    """The (3, 3) matrix of a pinhole, in fractions of the image."""
    return np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])
