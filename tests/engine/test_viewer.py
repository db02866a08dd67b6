from __future__ import annotations

import sys
from collections.abc import Iterator

import moderngl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engine.timewarp import NO_WARP
from engine.viewer import Rectangle, SpriteLayer, Viewer, letterbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs EGL to draw off screen")


@pytest.fixture(scope="module")
def context() -> Iterator[moderngl.Context]:
    context = moderngl.create_context(require=330, standalone=True, backend="egl")  # type: ignore[arg-type]
    yield context
    context.release()


@pytest.fixture(autouse=True)
def current(context: moderngl.Context) -> Iterator[None]:
    with context:  # another test may have made another context current
        yield


def corners() -> NDArray[np.uint8]:
    frame = np.full((32, 56, 3), 90, np.uint8)
    frame[:16, :28] = (220, 0, 0)
    frame[:16, 28:] = (0, 220, 0)
    frame[16:, :28] = (0, 0, 220)
    return frame


def test_the_picture_is_upright_and_not_mirrored(context: moderngl.Context) -> None:
    viewer = Viewer(context, sharpness=0.3)
    viewer.show(corners())
    picture = viewer.capture((280, 160))
    assert picture.shape == (160, 280, 3)
    assert np.array_equal(picture[20, 20], (220, 0, 0))  # top left
    assert np.array_equal(picture[20, 260], (0, 220, 0))  # top right
    assert np.array_equal(picture[140, 20], (0, 0, 220))  # bottom left
    assert np.array_equal(picture[140, 260], (90, 90, 90))


def test_with_half_the_detail_the_picture_is_the_same_way_up_and_turns_the_same_way(
    context: moderngl.Context,
) -> None:
    full, half = Viewer(context, sharpness=0.0), Viewer(context, sharpness=0.0, detail=0.5)
    shift = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.1], [0.0, 0.0, 1.0]])
    for warp in (NO_WARP, shift):
        pictures = []
        for viewer in (full, half):
            viewer.show(corners())
            pictures.append(viewer.capture((280, 160), warp).astype(int))
        differing = (np.abs(pictures[0] - pictures[1]).max(-1) > 8).mean()
        assert differing < 0.05  # along the edges, which one draws sharper


def test_a_flat_picture_stays_exactly_flat(context: moderngl.Context) -> None:
    viewer = Viewer(context, sharpness=1.0)
    viewer.show(np.full((32, 56, 3), 137, np.uint8))
    assert np.all(viewer.capture((300, 200)) == 137)


def test_edges_come_closer_to_the_truth_than_bilinear_and_lanczos(
    context: moderngl.Context,
) -> None:
    truth = drawing(1120, 640)
    small = Image.fromarray(truth).resize((224, 128), Image.Resampling.BOX)
    viewer = Viewer(context, sharpness=0.3)
    viewer.show(np.asarray(small))
    ours = psnr(viewer.capture((1120, 640)), truth)
    for method, gain_db in [(Image.Resampling.BILINEAR, 1.5), (Image.Resampling.LANCZOS, 0.4)]:
        assert ours > psnr(np.asarray(small.resize((1120, 640), method)), truth) + gain_db


@pytest.mark.parametrize(
    ("window", "place"),
    [
        ((560, 320), Rectangle(0, 0, 560, 320)),
        ((1000, 320), Rectangle(220, 0, 560, 320)),
        ((560, 400), Rectangle(0, 40, 560, 320)),
    ],
)
def test_the_aspect_is_kept_with_bars(window: tuple[int, int], place: Rectangle) -> None:
    assert letterbox(window, (56, 32)) == place


def test_bars_are_drawn_and_the_frame_lies_in_the_middle(context: moderngl.Context) -> None:
    viewer = Viewer(context, sharpness=0.0)
    viewer.show(np.full((32, 56, 3), 255, np.uint8))
    target = context.simple_framebuffer((100, 100), components=4)
    viewer.draw(target, (100, 100))
    picture = read(target)
    assert picture[50, 50].min() == 255
    assert picture[10, 50].max() < 20 and picture[90, 50].max() < 20


def test_a_sprite_lies_where_it_was_put(context: moderngl.Context) -> None:
    sprites = SpriteLayer(context)
    target = context.simple_framebuffer((40, 30), components=4)
    target.clear(0.0, 0.0, 1.0)
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 2] = pixels[..., 3] = 255  # opaque red, in the byte order of pygame
    pixels[0, 0] = 0  # one transparent corner: the top left
    sprites.upload("mark", (6, 4), pixels.tobytes())
    sprites.draw(target, (40, 30), {"mark": (3, 5)})
    picture = read(target)
    red = np.argwhere(np.all(picture == (255, 0, 0), axis=2))
    assert len(red) == 6 * 4 - 1
    assert tuple(red.min(axis=0)) == (5, 3) and tuple(red.max(axis=0)) == (8, 8)
    assert np.array_equal(picture[5, 3], (0, 0, 255))


def read(target: moderngl.Framebuffer) -> NDArray[np.uint8]:
    pixels = np.frombuffer(target.read(components=4), np.uint8)
    return pixels.reshape(target.height, target.width, 4)[::-1, :, :3]


def drawing(width: int, height: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    image = Image.new("RGB", (2 * width, 2 * height), (150, 180, 210))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        centre = random.uniform((0, 0), image.size)
        points = [tuple(centre + random.normal(0, 250, 2)) for _ in range(3)]
        draw.polygon(points, fill=tuple(int(value) for value in random.integers(20, 235, 3)))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def psnr(picture: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    error = np.mean((picture.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / error))
