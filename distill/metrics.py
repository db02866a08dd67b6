"""How close frames are to the truth: images as float [... 3 H W] in [-1, 1]."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
PATCH_PX, PATCH_TAPER = 8, (1, 3, 4, 4, 4, 4, 3, 1)  # a box smoothed by 1, 2, 1
SSIM_LUMINANCE, SSIM_CONTRAST = 0.01**2, 0.03**2  # K1 and K2, squared, for a range of 1


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image [...]; identical images give 100 dB."""
    error = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean((-3, -2, -1))
    return -10 * error.clamp_min(1e-10).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each image [n] of [n 3 H W]: the mean over channels and windows.

    Windows are Gaussian and lie wholly inside the image.
    Source: Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment", 2004, equation 13.

    Raises:
        ValueError: if the images are smaller than a window.
    """
    if min(a.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"SSIM needs {SSIM_WINDOW_PX} px on each side, got {tuple(a.shape[-2:])}")
    x, y = ((image.float().clamp(-1, 1) + 1) / 2 for image in (a, b))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x.square()
    variance_y = _windowed(y * y) - mean_y.square()
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_LUMINANCE) / (
        mean_x.square() + mean_y.square() + SSIM_LUMINANCE
    )
    structure = (2 * covariance + SSIM_CONTRAST) / (variance_x + variance_y + SSIM_CONTRAST)
    return (luminance * structure).mean((-3, -2, -1))


def _windowed(x: Tensor) -> Tensor:
    """Gaussian means of every window that fits in [n c H W].

    Sums of shifted images, not a convolution: GPUs may round the factors of those to ten bits, and
    a variance that is the difference of two such means would be lost.
    """
    at = torch.arange(SSIM_WINDOW_PX) - SSIM_WINDOW_PX // 2
    weights = torch.exp(-at.square() / (2 * SSIM_SIGMA_PX**2))
    shares = (weights / weights.sum()).tolist()
    for dim in (-1, -2):
        length = x.shape[dim] - SSIM_WINDOW_PX + 1
        parts = [share * x.narrow(dim, i, length) for i, share in enumerate(shares)]
        x = torch.stack(parts).sum(0)
    return x


def gradient_energy(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of each image [...]: what blur takes away."""
    x = x.clamp(-1, 1)
    horizontal = x.diff(dim=-1).abs().mean((-3, -2, -1))
    return horizontal + x.diff(dim=-2).abs().mean((-3, -2, -1))


def checkerboard(x: Tensor) -> Tensor:
    """Energies [... 3] of three patterns of alternating single pixels in each image [...].

    Pixels alternate from row to row, from column to column, or both; the energy of such an image of
    black and white is 1. It is the mean over patches of 8x8 of how strongly they alternate all over.
    Pixels count for less at the borders of a patch, so that no plane or parabola of brightness
    alternates. Rows and columns that fill no patch are left out.
    """
    rows, columns = (side // PATCH_PX for side in x.shape[-2:])
    cut = x.clamp(-1, 1)[..., : rows * PATCH_PX, : columns * PATCH_PX]
    patches = rearrange(cut, "... (r i) (c j) -> ... r c i j", i=PATCH_PX, j=PATCH_PX)
    even = x.new_tensor(PATCH_TAPER) / sum(PATCH_TAPER)
    odd = even * x.new_tensor([1.0, -1.0]).repeat(PATCH_PX // 2)
    patterns = [
        torch.outer(down, across) for down, across in ((odd, even), (even, odd), (odd, odd))
    ]
    strengths = [(patches * pattern).sum((-2, -1)) for pattern in patterns]
    return torch.stack([s.square().mean((-3, -2, -1)) for s in strengths], dim=-1)


def checkerboard_ratio(made: Tensor, true: Tensor) -> float:
    """How much more of the three patterns images [n 3 H W] have than true ones, in the worst case.

    Each by itself: stripes and edges of real things are ten times what single pixels that
    alternate both ways are, and in a sum would hide them.
    """
    energies = [checkerboard(images).mean(0) for images in (made, true)]
    return float((energies[0] / energies[1].clamp_min(1e-12)).max())


def colour(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the pixels of each image, per channel: [... 3] each, black 0, white 1."""
    pixels = (x.clamp(-1, 1) + 1) / 2
    return pixels.mean((-2, -1)), pixels.var((-2, -1), correction=0)


def motion(before: Tensor, after: Tensor) -> Tensor:
    """Mean absolute change of a pixel between two images [...], of a range of 1."""
    return (after.clamp(-1, 1) - before.clamp(-1, 1)).abs().mean((-3, -2, -1)) / 2


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance of two sets of feature vectors [n d], [m d], each taken as one Gaussian.

    Source: Heusel et al., arXiv 1706.08500, equation 6. The trace of the square root of the product
    of the covariances is the sum of the singular values of the product of their square roots.
    """
    first, second = a.double().cpu(), b.double().cpu()
    roots = [_square_root(torch.cov(x.T)) for x in (first, second)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    spread = sum(root.square().sum() for root in roots)
    shift = (first.mean(0) - second.mean(0)).square().sum()
    return max(float(shift + spread - 2 * overlap), 0.0)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
