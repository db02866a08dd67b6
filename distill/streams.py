"""Rollouts that go on where the one before ended, for as long as training likes.

What goes wrong after a thousand frames never shows in a rollout of sixteen. Playing hundreds of frames
for every update would teach it, at a price; to go on from the last ones costs no more than a beginning.
Sources: Self-Forcing++ (arXiv 2510.02283) and LongLive (arXiv 2509.22622) train on parts of long ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from distill.batches import LatentBatch, send
from distill.scenes.paths import PathMix, draw_kind, draw_walk
from worldmodel.motion import Viewpoint
from worldmodel.transformer import words_at
from worldmodel.types import MotionLimits

EASING_FRAMES = 16  # in which a stream takes on the pitch of the cameras that it goes on along
PIECE_FRAMES = 64  # of a walk that are of one kind
LIMITS = MotionLimits(0.6, math.radians(10.0), (0.0, 12.0))  # of the worlds rendered here


def _as_played() -> PathMix:
    return PathMix(
        wander=0.18,
        straight=0.0,
        look_around=0.04,
        still=0.02,
        out_and_back=0.04,
        full_turn=0.04,
        fly=0.04,
        roam=0.10,
        stride=0.54,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WalksConfig:
    """Where streams go on to, if not along other clips: as far as players walk, as they walk.

    Clips last for a few seconds, and many are played backwards. Whoever plays holds W.
    """

    frames: int = 256  # of a walk, after which the next one is drawn
    frames_per_second: float = 12.0  # of play
    paths: PathMix = field(default_factory=_as_played)
    limits: MotionLimits = LIMITS

    def __post_init__(self) -> None:
        if self.frames < 2 or not self.frames_per_second > 0.0:
            raise ValueError(
                "walks take at least 2 frames and a positive rate, got"
                f" {self.frames} and {self.frames_per_second}"
            )

    def draw(self, random: np.random.Generator, count: int) -> Tensor:
        """Walks, camera_from_anchor [count f 4 4] float64; each anchor is level, where one begins."""

        def cameras() -> list[np.ndarray]:
            rate, limits, start = self.frames_per_second, self.limits, Viewpoint()
            kinds = (draw_kind(random, self.paths) for _ in range(self.frames))
            walk = draw_walk(random, kinds, self.frames - 1, PIECE_FRAMES, rate, limits, start)
            return [point.camera_from_world() for point in (start, *walk)]

        return torch.from_numpy(np.array([cameras() for _ in range(count)]))


@dataclass(frozen=True, slots=True)
class Stream:
    """Rollouts on their way along the cameras of their clips, and back when those end."""

    clips: LatentBatch  # whose cameras are walked
    made: Tensor  # [b k p c], the last frames
    position: int  # of the next frame, counted from the first of the rollout

    def ahead(self, frames: int) -> LatentBatch:
        """Cameras and words of the last frames and of `frames` more; its latents are the last frames.

        The anchor comes along, so that numbers stay small however far one walks.
        """
        known, clips = self.made.shape[1], self.clips
        steps = torch.arange(self.position - known, self.position + frames)
        at = send(to_and_fro(steps, clips.time.shape[1]), self.made.device)
        return LatentBatch(
            latents=self.made,
            camera_from_anchor=from_middle(clips.camera_from_anchor[:, at]),
            intrinsics=clips.intrinsics[:, at],
            time=torch.arange(known + frames, device=at.device).expand(len(self.made), -1).float(),
            words=clips.words if clips.words.ndim == 2 else clips.words[:, at],
        )

    def truth(self, steps: Sequence[int]) -> Tensor | None:
        """What is true at frames [b n p c], counted from the first of the rollout.

        None where nobody knows: on a walk, and on the way back, on which rain would rise.
        """
        known = self.clips.latents.shape[1] == self.clips.time.shape[1]
        if not known or max(steps) >= self.clips.time.shape[1]:
            return None
        at = send(torch.tensor(list(steps)), self.clips.latents.device)
        return self.clips.latents[:, at].float()

    def turns_within(self, frames: int) -> bool:
        """Whether so many more frames lead back from an end of its clips."""
        last = max(self.clips.time.shape[1] - 1, 1)
        return (self.position + frames - 2) // last > (self.position - 2) // last

    def onward(self, cameras: Tensor) -> Stream:
        """The same rollouts, from now on along `cameras` [b f 4 4], in the words of now.

        So they come to where nobody has been: to and fro, all they will ever see lies on one path.
        """
        seen, known = self.ahead(0), self.made.shape[1]
        path = continued(seen.camera_from_anchor[:, -1], cameras)[:, 1:]

        def lasting(x: Tensor) -> Tensor:
            return torch.cat([x, x[:, -1:].expand(-1, path.shape[1], *x.shape[2:])], dim=1)

        walked = LatentBatch(
            latents=self.made,
            camera_from_anchor=torch.cat([seen.camera_from_anchor, path], dim=1),
            intrinsics=lasting(seen.intrinsics),
            time=torch.arange(known + path.shape[1], device=path.device)
            .expand(len(path), -1)
            .float(),
            words=seen.words if seen.words.ndim == 2 else lasting(seen.words),
        )
        return Stream(walked, self.made, known)

    def tensors(self) -> dict[str, Tensor]:
        clips = {field.name: getattr(self.clips, field.name) for field in fields(LatentBatch)}
        return clips | {"made": self.made, "position": torch.tensor([self.position])}

    @staticmethod
    def names() -> list[str]:
        """Of its tensors."""
        return [*(field.name for field in fields(LatentBatch)), "made", "position"]

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
    there = level_at(last) @ torch.linalg.inv(level_at(first))
    turned = path @ torch.linalg.inv(there)[:, None]
    bent = last[:, :3, :3] @ turned[:, 0, :3, :3].mT
    left = 1 - torch.arange(path.shape[1], dtype=path.dtype, device=path.device) / EASING_FRAMES
    eased = turned.clone()
    eased[:, :, :3] = _share_of(bent, left.clamp(min=0.0)) @ turned[:, :, :3]
    return eased


def from_middle(cameras: Tensor) -> Tensor:
    """Cameras [b f 4 4] from an anchor where the middle one stands, which looks its way, but level."""
    return cameras @ level_at(cameras[:, cameras.shape[1] // 2])[:, None]


def level_at(camera: Tensor) -> Tensor:
    """Where camera_from_anchor [b 4 4] stands, looking its way, but level: anchor_from_there [b 4 4]."""
    yaw = _yaw(camera)
    there = torch.eye(4, dtype=camera.dtype, device=camera.device).repeat(len(camera), 1, 1)
    there[:, 0, 0] = there[:, 2, 2] = yaw.cos()
    there[:, 0, 2], there[:, 2, 0] = yaw.sin(), -yaw.sin()
    there[:, :3, 3] = _position(camera)
    return there


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
