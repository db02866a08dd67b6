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


def image_from_camera(lens: Intrinsics) -> NDArray[np.float64]:
    """The (3, 3) matrix of a pinhole, in fractions of the image."""
    return np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])
