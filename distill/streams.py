"""Rollouts that go on where the one before ended, for as long as training likes.

What goes wrong after a thousand frames never shows in a rollout of sixteen. Playing hundreds of frames
for every update would teach it, at a price; to go on from the last ones costs no more than a beginning.
Sources: Self-Forcing++ (arXiv 2510.02283) and LongLive (arXiv 2509.22622) train on parts of long ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from distill.batches import LatentBatch
from worldmodel.transformer import words_at

EASING_FRAMES = 16  # in which a stream takes on the pitch of the cameras that it goes on along


@dataclass(frozen=True, slots=True)
class Stream:
    """Rollouts on their way along the cameras of their clips, and back when those end."""

    clips: LatentBatch  # whose cameras are walked
    made: Tensor  # [b k p c], the last frames
    position: int  # of the next frame, counted from the first of the rollout

    def ahead(self, frames: int) -> LatentBatch:
        """Cameras and words of the last frames and of `frames` more; its latents are the last frames."""
        known, clips = self.made.shape[1], self.clips
        steps = torch.arange(self.position - known, self.position + frames)
        at = to_and_fro(steps, clips.time.shape[1]).to(self.made.device)
        return LatentBatch(
            latents=self.made,
            camera_from_anchor=clips.camera_from_anchor[:, at],
            intrinsics=clips.intrinsics[:, at],
            time=torch.arange(known + frames, device=at.device).expand(len(self.made), -1).float(),
            words=clips.words if clips.words.ndim == 2 else clips.words[:, at],
        )

    def turns_within(self, frames: int) -> bool:
        """Whether so many more frames lead back from an end of its clips."""
        last = max(self.clips.time.shape[1] - 1, 1)
        return (self.position + frames - 2) // last > (self.position - 2) // last

    def onward(self, others: LatentBatch) -> Stream:
        """The same rollouts, from now on along the cameras of `others`, in the words of now.

        So they come to where nobody has been: to and fro, all they will ever see lies on one path.
        """
        seen, known = self.ahead(0), self.made.shape[1]
        new = self.clips.time.shape[1] - known
        path = continued(seen.camera_from_anchor[:, -1], others.camera_from_anchor)

        def lasting(x: Tensor) -> Tensor:
            return torch.cat([x, x[:, -1:].expand(-1, new, -1)], dim=1)

        walked = LatentBatch(
            latents=others.latents,
            camera_from_anchor=torch.cat([seen.camera_from_anchor, path[:, 1 : 1 + new]], dim=1),
            intrinsics=lasting(seen.intrinsics),
            time=others.time,
            words=seen.words if seen.words.ndim == 2 else lasting(seen.words),
        )
        return Stream(walked, self.made, known)

    def tensors(self) -> dict[str, Tensor]:
        clips = {field.name: getattr(self.clips, field.name) for field in fields(LatentBatch)}
        return clips | {"made": self.made, "position": torch.tensor([self.position])}

    @staticmethod
    def of_tensors(tensors: dict[str, Tensor]) -> Stream:
        clips = LatentBatch(**{field.name: tensors[field.name] for field in fields(LatentBatch)})
        return Stream(clips, tensors["made"], int(tensors["position"]))


def to_and_fro(steps: Tensor, frames: int) -> Tensor:
    """Which of `frames` frames one stands at after each number of steps, turning round at both ends."""
    last = max(frames - 1, 1)
    return (last - (steps % (2 * last) - last).abs()).clamp(max=frames - 1)


def continued(last: Tensor, path: Tensor) -> Tensor:
    """Cameras [b f 4 4] that walk as those of `path` [b f 4 4] do, beginning at `last` [b 4 4].

    All are camera_from_anchor of anchors that are level: the path is moved and turned about the vertical
    only, so that ground stays ground. What is left between the two, how far the heads are bent, goes
    away in the first EASING_FRAMES.
    """
    first = path[:, 0]
    turn = _yaw(last) - _yaw(first)
    there = torch.eye(4, dtype=path.dtype, device=path.device).repeat(len(path), 1, 1)
    there[:, 0, 0] = there[:, 2, 2] = turn.cos()
    there[:, 0, 2], there[:, 2, 0] = turn.sin(), -turn.sin()
    moved = (there[:, :3, :3] @ _position(first)[..., None])[..., 0]
    there[:, :3, 3] = _position(last) - moved  # of the anchor of `path`, in that of `last`
    turned = path @ torch.linalg.inv(there)[:, None]
    bent = last[:, :3, :3] @ turned[:, 0, :3, :3].mT
    left = 1 - torch.arange(path.shape[1], dtype=path.dtype, device=path.device) / EASING_FRAMES
    eased = turned.clone()
    eased[:, :, :3] = _share_of(bent, left.clamp(min=0.0)) @ turned[:, :, :3]
    return eased


def _position(camera: Tensor) -> Tensor:
    """[b 3], in the anchor's axes, of camera_from_anchor [b 4 4]."""
    return -(camera[:, :3, :3].mT @ camera[:, :3, 3:])[..., 0]


def _yaw(camera: Tensor) -> Tensor:
    """[b]: where camera_from_anchor [b 4 4] looks, as `Viewpoint.yaw_rad`."""
    return torch.atan2(camera[:, 2, 0], camera[:, 2, 2])


def _share_of(rotation: Tensor, share: Tensor) -> Tensor:
    """Rotations [b f 3 3]: `share` [f] of each of `rotation` [b 3 3] about its axis."""
    skew = (rotation - rotation.mT) / 2  # of the axis, times the sine of the angle
    sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1).norm(dim=-1)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.atan2(sine, cosine)
    axis = skew / sine.clamp_min(1e-12)[:, None, None]
    return torch.linalg.matrix_exp(
        share[None, :, None, None] * (angle[:, None, None] * axis)[:, None]
    )


def first_frames(batch: LatentBatch, frames: int) -> LatentBatch:
    return LatentBatch(
        latents=batch.latents[:, :frames],
        camera_from_anchor=batch.camera_from_anchor[:, :frames],
        intrinsics=batch.intrinsics[:, :frames],
        time=batch.time[:, :frames],
        words=words_at(batch.words, 0, frames),
    )
