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


@dataclass(frozen=True, slots=True)
class Stream:
    """Rollouts on their way to and fro along the cameras of their clips."""

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


def first_frames(batch: LatentBatch, frames: int) -> LatentBatch:
    return LatentBatch(
        latents=batch.latents[:, :frames],
        camera_from_anchor=batch.camera_from_anchor[:, :frames],
        intrinsics=batch.intrinsics[:, :frames],
        time=batch.time[:, :frames],
        words=words_at(batch.words, 0, frames),
    )
