"""Projective positional encoding: attention that sees which camera each frame was taken with.

Every group of four channels of a head is multiplied by the projective matrix of its frame,

    P = diag(fx, fy, 1, 1) @ camera_from_anchor        q <- P^T q    k, v <- P^-1 k, v    o <- P o

so that q_i . k_j depends on P_i P_j^-1 alone: on how camera i sees camera j, and not on where the
anchor (the origin of the poses) happens to be. The same algebra moves cached keys and values to a
new anchor exactly, which is what makes endless walks possible (`reanchor`).

Source: PRoPE, "Cameras as Relative Positional Encoding" (arXiv 2507.10496). The principal point is
taken to be the middle of the image. Matrices are float32; poses are float64 until they are relative.
"""

from __future__ import annotations

import torch
from torch import Tensor


def projections(
    camera_from_anchor: Tensor, intrinsics: Tensor, metres_per_unit: float
) -> tuple[Tensor, Tensor]:
    """P and P^-1, float32, of poses [b f 4 4] and intrinsics [b f 4] (fx fy cx cy, fractions)."""
    pose = camera_from_anchor.double().clone()
    pose[..., :3, 3] /= metres_per_unit
    focal = torch.ones_like(pose[..., 0])
    focal[..., :2] = intrinsics[..., :2].double()
    matrix = focal[..., :, None] * pose
    inverse = rigid_inverse(pose) / focal[..., None, :]
    return matrix.float(), inverse.float()


def rigid_inverse(pose: Tensor) -> Tensor:
    """The inverse of rigid transforms [... 4 4]."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def transform(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply every group of four channels of x [b f p a d] by matrix [b f 4 4].

    Channels are component-major: the first quarter of d holds all first components.
    """
    parts = x.unflatten(-1, (4, -1))
    moved = (matrix[:, :, None, None, :, :, None] * parts[..., None, :, :]).sum(-2)
    return moved.flatten(-2)


def transform_cached(matrix: Tensor, x: Tensor) -> Tensor:
    """`transform` by matrix [b 4 4] in the layout of the cache, x [b g k d]."""
    return transform(matrix[:, None], x.transpose(1, 2)[:, None])[:, 0].transpose(1, 2)


def as_matmul(matrix: Tensor, width: int) -> Tensor:
    """[b f 4 4] as [b f width width], so that `x @ as_matmul(matrix, width)` is `transform`."""
    b, f = matrix.shape[:2]
    groups = torch.eye(width // 4, device=matrix.device)
    blocks = matrix.transpose(-1, -2)[:, :, :, None, :, None] * groups[:, None]
    return blocks.reshape(b, f, width, width)


def reanchor_matrix(old_anchor_from_new_anchor: Tensor, metres_per_unit: float) -> Tensor:
    """The constants [b 4 4] that move cached keys and values to new anchors: k <- matrix k.

    With P' = P A and A = old_anchor_from_new_anchor: P'^-1 k = A^-1 (P^-1 k). Float32.
    """
    pose = old_anchor_from_new_anchor.double().clone()
    pose[..., :3, 3] /= metres_per_unit
    return rigid_inverse(pose).float()
