"""How a camera moved between two frames, from the pixels alone: rotation and direction of travel.

Three steps, all batched over pairs of frames and run on any device. (1) The rotation that aligns two
small pictures best, of all rotations on a grid: nothing is assumed about the motion, so a picture
that ignores its commands is found out. (2) Corners of the first frame are tracked into the second,
from where that rotation puts them (inverse compositional Lucas-Kanade over a pyramid: Baker & Matthews
2004), and back again; those that do not come back are left out. (3) Rotation and direction are fitted to
the tracks by robust least squares of the Sampson distance to the epipolar geometry (Hartley & Zisserman
2004, chapter 11.4.3), from many starting directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

CELL_PX = 8  # one corner is tracked for each square of this size
WINDOW_PX = 11
WEIGHT_PX = 3.0  # of a Gaussian over the window
LEVELS = 3  # of the tracking pyramid
TRACK_STEPS, REFINE_STEPS = 8, 6
RETURN_PX = 0.5  # a track must come back this close to where it began
SEARCH_DEG, SEARCH_STEP_DEG = 13.5, 1.5  # of the rotation search, in yaw and in pitch
NOISE_PX = 0.15  # of a track: beyond it, its weight falls
FIT_STEPS = 12
PAIRS = 64  # at once

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """Of n pairs of frames."""

    rotation: Tensor  # [n 3 3] after_from_before
    direction: Tensor  # [n 3] of travel, a unit vector in the axes of the camera before
    parallax_px: Tensor  # [n] median shift of a tracked corner that rotation does not explain
    tracked: Tensor  # [n] share of corners that were tracked


@torch.no_grad()
def camera_motion(
    before: Tensor, after: Tensor, focal_before: Tensor, focal_after: Tensor
) -> CameraMotion:
    """Of frames [n 3 H W] in [-1, 1], seen through lenses of focal lengths [n 2] in pixels.

    The principal point is the middle of the frame.
    """
    batches = (x.split(PAIRS) for x in (before, after, focal_before, focal_after))
    parts = [_motion(*batch) for batch in zip(*batches, strict=True)]
    return CameraMotion(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _motion(before: Tensor, after: Tensor, focal: Tensor, focal_after: Tensor) -> Tensors:
    first, second = _grey(before), _grey(after)
    guess = _search_rotation(first, second, focal, focal_after)
    corners, strength = _corners(first)
    size = torch.tensor([first.shape[-1], first.shape[-2]], device=first.device)
    centre = (size - 1) / 2
    rays = _rays(corners, focal, centre)
    predicted = _pixels(rays @ guess.mT, focal_after, centre)
    there = _track(first, second, corners, predicted)
    back = _track(second, first, there, corners)
    inside = ((there > 2) & (there < size - 3)).all(-1)
    good = ((back - corners).norm(dim=-1) < RETURN_PX) & inside & (strength > 1e-5)
    rotation, translation, parallax = _fit(
        rays, _rays(there, focal_after, centre), good, guess, focal
    )
    travel = -(rotation.mT @ translation[..., None])[..., 0]
    return rotation, travel, parallax, good.float().mean(-1)


def _grey(frames: Tensor) -> Tensor:
    """[n 1 H W], a little smoothed: tracking needs gradients that hold over a pixel."""
    return _blur(frames.float().mean(1, keepdim=True))


def _blur(x: Tensor) -> Tensor:
    """Binomial, 5 taps each way; in float32 on any device, so no convolution."""
    padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for dim in (-1, -2):
        length = padded.shape[dim] - 4
        taps = [padded.narrow(dim, i, length) * w for i, w in enumerate((1, 4, 6, 4, 1))]
        padded = torch.stack(taps).sum(0) / 16
    return padded


def _pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """Finest first; each half the size of the one before."""
    found = [x]
    for _ in range(levels - 1):
        found.append(functional.avg_pool2d(_blur(found[-1]), 2))
    return found


def _rays(pixels: Tensor, focal: Tensor, centre: Tensor) -> Tensor:
    """Directions [n p 3], z = 1, of pixels [n p 2] (x, y; the first pixel's middle is 0)."""
    flat = (pixels - centre) / focal[:, None]
    return torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)


def _pixels(rays: Tensor, focal: Tensor, centre: Tensor) -> Tensor:
    return rays[..., :2] / rays[..., 2:].clamp_min(1e-3) * focal[:, None] + centre


def _sample(image: Tensor, at: Tensor) -> Tensor:
    """Bilinear values [n ...] of [n 1 H W] at pixels [n ... 2]."""
    size = torch.tensor([image.shape[-1], image.shape[-2]], device=image.device)
    grid = (2 * at + 1) / size - 1
    flat = grid.flatten(1, -2)[:, None]
    found = functional.grid_sample(image, flat, padding_mode="border", align_corners=False)
    return found[:, 0, 0].unflatten(1, at.shape[1:-1])


def rotation_matrix(vector: Tensor) -> Tensor:
    """Of axis times angle [... 3], radians: [... 3 3] (Rodrigues' formula)."""
    angle = vector.norm(dim=-1)[..., None, None].clamp_min(1e-9)
    cross = _cross_matrix(vector)
    first, second = angle.sin() / angle, 2 * (angle / 2).sin().square() / angle.square()
    return torch.eye(3, device=vector.device) + first * cross + second * cross @ cross


def _cross_matrix(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _search_rotation(first: Tensor, second: Tensor, focal: Tensor, focal_after: Tensor) -> Tensor:
    """The rotation [n 3 3], after_from_before, on a grid of yaw and pitch, that aligns best."""
    small_first, small_second = (_pyramid(x, 4)[-1] for x in (first, second))
    steps = round(SEARCH_DEG / SEARCH_STEP_DEG)
    angles = [math.radians(SEARCH_STEP_DEG * i) for i in range(-steps, steps + 1)]
    tried = torch.tensor([(p, y, 0.0) for p, y in product(angles, angles)], device=first.device)
    rotations = rotation_matrix(tried)  # [r 3 3]
    height, width = small_first.shape[-2:]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([xs, ys], -1).flatten(0, 1).to(first).expand(len(first), -1, -1)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=first.device)
    scale = small_first.shape[-1] / first.shape[-1]
    rays = _rays(pixels, focal * scale, centre)
    turned = torch.einsum("rij,npj->nrpi", rotations, rays)
    at = _pixels(turned.flatten(1, 2), focal_after * scale, centre)
    limit = torch.tensor([width - 1, height - 1], device=first.device)
    seen = ((at >= 0) & (at <= limit)).all(-1).unflatten(1, (len(rotations), -1))
    warped = _sample(small_second, at).unflatten(1, (len(rotations), -1))
    error = (warped - small_first.flatten(1)[:, None]).abs().clamp_max(0.5)
    mean = (error * seen).sum(-1) / seen.sum(-1).clamp_min(1)
    mean = mean.masked_fill(seen.float().mean(-1) < 0.3, math.inf)
    return rotations[mean.argmin(-1)]


def _corners(image: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest corner of every cell: pixels [n p 2] and strength [n p] (Shi & Tomasi 1994)."""
    gx, gy = _gradients(image)
    xx, yy, xy = (_blur(_blur(product)) for product in (gx * gx, gy * gy, gx * gy))
    strength = (xx + yy) / 2 - ((xx - yy).square() / 4 + xy.square()).sqrt()
    border = WINDOW_PX // 2
    mask = torch.zeros_like(strength)
    mask[..., border:-border, border:-border] = 1
    best, index = functional.max_pool2d(strength * mask, CELL_PX, return_indices=True)
    flat = index.flatten(1)
    width = image.shape[-1]
    return torch.stack([flat % width, flat // width], -1).to(image), best.flatten(1)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    return (
        (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2,
        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2,
    )


def _track(first: Tensor, second: Tensor, points: Tensor, start: Tensor) -> Tensor:
    """Where the surroundings of `points` [n p 2] of the first image are in the second: [n p 2]."""
    window = _window(first.device)
    pyramids = [_pyramid(x, LEVELS) for x in (first, second)]
    found = start
    for level in reversed(range(LEVELS)):
        scale = 0.5**level
        patch = _scaled(points, scale)[:, :, None] + window
        template = _sample(pyramids[0][level], patch)
        slopes = _slopes(pyramids[0][level], patch)
        inverse = torch.linalg.inv_ex(
            slopes.mT @ slopes + 1e-4 * torch.eye(2, device=patch.device)
        )[0]
        at = _scaled(found, scale)
        for _ in range(TRACK_STEPS):
            difference = _sample(pyramids[1][level], at[:, :, None] + window) - template
            difference = difference - difference.mean(-1, keepdim=True)  # light may change
            step = (inverse @ (slopes.mT @ difference[..., None]))[..., 0]
            at = at - step.clamp(-2, 2)
        found = _scaled(at, 1 / scale)
    return _refine(first, second, points, found)


def _refine(first: Tensor, second: Tensor, points: Tensor, start: Tensor) -> Tensor:
    """The same at the finest level, with surroundings that may stretch and turn.

    Whoever walks forward sees everything grow; a window that cannot grow with it is pulled aside.
    """
    window = _window(first.device)
    near = torch.exp(-window.square().sum(-1) / (2 * WEIGHT_PX**2))
    patch = points[:, :, None] + window
    template, slopes = _sample(first, patch), _slopes(first, patch)
    x, y = window[:, :1], window[:, 1:]
    change = torch.cat([slopes, slopes * x, slopes * y], -1)  # [n p w 6]
    weighted = change * near[:, None]
    stiffness = torch.diag(torch.tensor([1e-5, 1e-5, *[1e-3] * 4], device=first.device))
    inverse = torch.linalg.inv_ex(weighted.mT @ change + stiffness)[0]
    identity = torch.eye(2, device=first.device)
    shape, at = identity.expand(*points.shape[:2], 2, 2), start
    for _ in range(REFINE_STEPS):
        difference = _sample(second, at[:, :, None] + window @ shape.mT) - template
        difference = difference - (difference * near).sum(-1, keepdim=True) / near.sum()
        step = (inverse @ (weighted.mT @ difference[..., None]))[..., 0]
        shape = shape @ torch.linalg.inv_ex(identity + step[..., 2:].unflatten(-1, (2, 2)).mT)[0]
        at = at - (shape @ step[..., :2, None])[..., 0].clamp(-1, 1)
    return at


def _window(device: torch.device) -> Tensor:
    """Offsets [w 2] of the pixels around a point."""
    reach = torch.arange(WINDOW_PX, device=device) - WINDOW_PX // 2
    return torch.stack(torch.meshgrid(reach, reach, indexing="xy"), -1).flatten(0, 1).float()


def _slopes(image: Tensor, at: Tensor) -> Tensor:
    """Gradients [... 2] at pixels [... 2]."""
    return torch.stack([_sample(gradient, at) for gradient in _gradients(image)], -1)


def _scaled(pixels: Tensor, scale: float) -> Tensor:
    """The same places in an image of another size; pixels' middles are whole numbers."""
    return (pixels + 0.5) * scale - 0.5


def _fit(rays: Tensor, seen: Tensor, good: Tensor, guess: Tensor, focal: Tensor) -> Tensors:
    """Rotation, translation (unit, after_from_before) and parallax of tracked rays [n p 3]."""
    starts = torch.tensor(
        [v for v in product((-1.0, 0.0, 1.0), repeat=3) if v > (0.0, 0.0, 0.0)],
        device=rays.device,
    )
    n, s = len(rays), len(starts)
    weight = good.float()[:, None]  # [n 1 p]
    x, y = rays[:, None], seen[:, None]  # [n 1 p 3]
    per_px = focal.mean(-1)[:, None, None]
    rotation = guess[:, None].expand(n, s, 3, 3)
    translation = functional.normalize(starts, dim=-1).expand(n, s, 3)
    for _ in range(FIT_STEPS):
        rotation, translation = _fit_step(x, y, weight, rotation, translation, per_px)
    error, _, _ = _sampson(x, y, rotation, translation)
    cost = (weight * torch.log1p((error * per_px / NOISE_PX).square())).sum(-1)
    best = cost.argmin(-1)
    chosen = torch.arange(n, device=rays.device), best
    rotation, translation = rotation[chosen], translation[chosen]
    return rotation, *_facing(rays, seen, good, rotation, translation, focal)


def _sampson(
    x: Tensor, y: Tensor, rotation: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distances [n s p] to the epipolar geometry; turned rays; and the normalisation."""
    turned = x @ rotation.mT
    along = torch.linalg.cross(translation[:, :, None].expand_as(turned), turned)  # E x
    back = torch.linalg.cross(y.expand_as(turned), translation[:, :, None].expand_as(turned))
    other = back @ rotation  # E^T y
    size = (along[..., :2].square().sum(-1) + other[..., :2].square().sum(-1)).clamp_min(1e-12)
    scale = size.rsqrt()
    return (along * y).sum(-1) * scale, turned, scale


def _fit_step(
    x: Tensor, y: Tensor, weight: Tensor, rotation: Tensor, translation: Tensor, per_px: Tensor
) -> tuple[Tensor, Tensor]:
    """One damped Gauss-Newton step of the robust sum of squares, for all starts at once."""
    error, turned, scale = _sampson(x, y, rotation, translation)
    robust = weight / (1 + (error * per_px / NOISE_PX).square())
    t = translation[:, :, None]
    by_rotation = y * (t * turned).sum(-1, keepdim=True) - t * (y * turned).sum(-1, keepdim=True)
    basis = _tangents(translation)  # [n s 3 2]
    by_direction = torch.linalg.cross(turned, y.expand_as(turned)) @ basis
    slope = torch.cat([by_rotation, by_direction], -1) * scale[..., None]  # [n s p 5]
    weighted = slope * robust[..., None]
    normal = weighted.mT @ slope
    damping = 1e-4 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-9
    normal = normal + damping * torch.eye(5, device=x.device)
    step = torch.linalg.solve_ex(normal, -(weighted.mT @ error[..., None]))[0][..., 0]
    step = step.clamp(-0.3, 0.3)
    moved = translation + (basis @ step[..., 3:, None])[..., 0]
    return rotation_matrix(step[..., :3]) @ rotation, functional.normalize(moved, dim=-1)


def _tangents(direction: Tensor) -> Tensor:
    """Two unit vectors at right angles to each direction [... 3]: [... 3 2]."""
    other = functional.one_hot(direction.abs().argmin(-1), 3).to(direction)
    first = functional.normalize(torch.linalg.cross(direction, other), dim=-1)
    return torch.stack([first, torch.linalg.cross(direction, first)], -1)


def _facing(
    rays: Tensor, seen: Tensor, good: Tensor, rotation: Tensor, translation: Tensor, focal: Tensor
) -> tuple[Tensor, Tensor]:
    """The sign of the translation that puts what was tracked before the camera; and parallax."""
    turned = rays @ rotation.mT
    shift = torch.linalg.cross(seen, turned)
    epipole = torch.linalg.cross(seen, translation[:, None].expand_as(seen))
    votes = -(shift * epipole).sum(-1).sign() * shift.norm(dim=-1).clamp_max(0.02) * good
    sign = torch.where(votes.sum(-1) < 0, -1.0, 1.0)
    size = shift.norm(dim=-1) / seen.norm(dim=-1) * focal.mean(-1)[:, None]
    median = size.masked_fill(~good, math.nan).nanmedian(-1).values
    return translation * sign[:, None], median.nan_to_num(0.0)
