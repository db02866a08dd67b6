"""Past frames that are brought back beside the window when the camera sees their place again.

A bank keeps the latents of views that differ, with their cameras. For the newest camera it names the few
that see most of the same and have left the window; those are committed again. Cameras alone decide: how
far two frusta overlap is counted over points at a few depths, because nobody knows how far things are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.kv_cache import Ring
from worldmodel.sampler import Sampler
from worldmodel.types import Camera, Intrinsics

Numbers = NDArray[np.float64]

DEPTHS_M = (2.0, 4.0, 8.0, 16.0, 32.0)  # of the points by which overlap is counted
COLUMNS, ROWS = 9, 5  # of the points at each depth
NEAREST_M = 0.05  # what is nearer to a camera is not seen
BETTER = 0.05  # a frame gives way to one that overlaps by so much more: each change is a commit


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallConfig:
    """What is remembered beyond the window."""

    frames: int  # brought back at the same time, at most
    bank_frames: int = 256  # views that are kept; then the oldest give way
    least_overlap: float = 0.5  # with the camera of now; what sees less of it stays in the bank
    new_overlap: float = 0.9  # a frame is kept if it overlaps by less with all that are
    reach_m: float | None = None  # what was seen from further away does not count; None: all does
    # How long ago they seem to be. The newest frame is one frame old, and the one a model trusts most.
    age_frames: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= self.bank_frames:
            raise ValueError(
                f"recall takes 1 <= frames <= bank_frames, got {self.frames} and {self.bank_frames}"
            )
        if not (0.0 < self.least_overlap <= 1.0 and 0.0 < self.new_overlap <= 1.0):
            raise ValueError(
                "recall.least_overlap and recall.new_overlap must lie above 0 and at most at 1, got"
                f" {self.least_overlap} and {self.new_overlap}"
            )
        if self.reach_m is not None and self.reach_m <= 0.0:
            raise ValueError(f"recall.reach_m must be positive, got {self.reach_m}")


@dataclass(frozen=True, slots=True)
class Shown:
    """The newest frame."""

    latent: Tensor  # [1 1 p c]
    camera: Camera
    number: int  # in its world


@dataclass(frozen=True, slots=True)
class Change:
    """What has to happen to the slots beside the window, counted from the first of them."""

    moves: tuple[tuple[int, int], ...] = ()  # first: from slot to slot, so that no gap is left
    put: int | None = None  # then: this slot gets a frame


class Recall:
    """The bank of a world, and which of its frames lie beside the window."""

    def __init__(
        self, config: RecallConfig, latent_shape: Sequence[int], device: torch.device
    ) -> None:
        """`latent_shape`: [p c] of a frame. Latents lie on `device`, in float16."""
        self.config = config
        size = config.bank_frames
        self._latents = torch.zeros(size, *latent_shape, dtype=torch.float16, device=device)
        self._poses: Numbers = np.tile(np.eye(4), (size, 1, 1))
        self._lenses: Numbers = np.ones((size, 4))
        self._numbers = np.zeros(size, np.int64)  # of the frames in their world
        self.reset()

    @staticmethod
    def of(
        config: RecallConfig | None, latent_shape: Sequence[int], device: torch.device
    ) -> Recall | None:
        return None if config is None else Recall(config, latent_shape, device)

    def reset(self) -> None:
        """Forget all."""
        self._kept = 0  # frames ever; the next one's row is that modulo the size
        self._beside: list[int] = []  # numbers of the frames in the slots beside the window

    @property
    def held(self) -> int:
        """Slots beside the window that are in use, the first ones."""
        return len(self._beside)

    @property
    def known(self) -> list[int]:
        """Numbers of the frames in the bank."""
        return self._numbers[: min(self._kept, self.config.bank_frames)].tolist()

    def put_away(self) -> None:
        """Nothing lies beside the window any more; the bank stays."""
        self._beside = []

    def follow(self, shown: Shown, left: range) -> Change:
        """Keep a frame if it is new; say what changes beside the window for who sees what it shows.

        `left`: the frames that are not in the window any more. At most one slot gets a frame.
        """
        overlaps = self._overlaps(shown.camera)
        if not len(overlaps) or overlaps.max() < self.config.new_overlap:
            row = self._keep(shown)  # before the choice: what gives way cannot come back
            overlaps = np.resize(overlaps, len(self.known))
            overlaps[row] = 1.0
        return self._choose(overlaps, left)

    def frame(self, slot: int) -> tuple[Tensor, Camera]:
        """Latent [1 1 p c], float32, and camera of the frame that belongs into a slot."""
        row = self.known.index(self._beside[slot])
        latent = self._latents[row : row + 1, None].float()
        return latent, Camera(self._poses[row].copy(), Intrinsics(*self._lenses[row].tolist()))

    def state(self) -> dict[str, Any]:
        """A copy of all, the oldest frames first."""
        order = np.argsort(self._numbers[: len(self.known)])
        return {
            "slots": self.config.frames,
            "beside": list(self._beside),
            "latents": self._latents[torch.from_numpy(order).to(self._latents.device)].cpu(),
            "poses": self._poses[order],
            "lenses": self._lenses[order],
            "numbers": self._numbers[order],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, with the newest frames of a larger bank; {} is the state of none."""
        self.reset()
        if "numbers" not in state:
            return
        newest = slice(-self.config.bank_frames, None)
        self._beside, numbers = list(state["beside"]), state["numbers"][newest]
        self._kept = rows = len(numbers)
        self._latents[:rows].copy_(state["latents"][newest])
        self._poses[:rows] = state["poses"][newest]
        self._lenses[:rows] = state["lenses"][newest]
        self._numbers[:rows] = numbers

    def _overlaps(self, camera: Camera) -> Numbers:
        """Of `camera` with every frame of the bank; 0 where that is out of reach."""
        rows = len(self.known)
        poses, lenses = self._poses[:rows], self._lenses[:rows]
        if self.config.reach_m is None:
            return overlap(camera, poses, lenses)
        to_camera = camera.camera_from_world @ np.linalg.inv(poses)
        near = np.linalg.norm(to_camera[:, :3, 3], axis=1) <= self.config.reach_m
        found = np.zeros(rows)
        found[near] = overlap(camera, poses[near], lenses[near])
        return found

    def _choose(self, overlaps: Numbers, left: range) -> Change:
        found = {
            number: float(share)
            for number, share in zip(self.known, overlaps, strict=True)
            if share >= self.config.least_overlap and number in left
        }
        moves = []
        for slot in reversed(range(self.held)):
            if self._beside[slot] not in found:
                last = self._beside.pop()
                if slot < self.held:
                    self._beside[slot] = last
                    moves.append((self.held, slot))
        return Change(tuple(moves), self._take(found))

    def _take(self, found: dict[int, float]) -> int | None:
        """Take the best frame that is not there yet, if it is worth it: into which slot."""
        others = [number for number in found if number not in self._beside]
        if not others:
            return None
        best = max(others, key=lambda number: (found[number], -number))
        if self.held < self.config.frames:
            self._beside.append(best)
            return self.held - 1
        worst = min(range(self.held), key=lambda slot: found[self._beside[slot]])
        if found[best] < found[self._beside[worst]] + BETTER:
            return None
        self._beside[worst] = best
        return worst

    def _keep(self, shown: Shown) -> int:
        """In which row."""
        row = self._kept % self.config.bank_frames
        self._latents[row].copy_(shown.latent[0, 0])
        self._poses[row] = shown.camera.camera_from_world
        self._lenses[row] = astuple(shown.camera.intrinsics)
        self._numbers[row] = shown.number
        self._kept += 1
        return row


def bring_back(
    recall: Recall,
    sampler: Sampler,
    ring: Ring,
    shown: Shown,
    commit: Callable[[Tensor, Camera, int], object],
) -> None:
    """After `shown` was committed, see to the slots behind those of `ring`.

    `commit` writes a latent [1 1 p c] seen by a camera into a slot. It is called once at most.
    """
    frames, first = shown.number + 1, ring.config.slots
    filled = ring.filled(frames)
    oldest = frames - ring.config.window_frames if filled == first else 0
    held = recall.held
    if held:
        sampler.let_time_pass(range(first, first + held), 1.0)
    change = recall.follow(shown, range(ring.config.sink_frames, oldest))
    for source, target in change.moves:
        sampler.cache.move(first + source, first + target)
    if change.put is not None:
        commit(*recall.frame(change.put), first + change.put)
    if recall.held != held:
        sampler.cache.set_filled(filled + recall.held)


def overlap(camera: Camera, poses: Numbers, lenses: Numbers) -> Numbers:
    """How much `camera` and others see of the same, [n]: 1 for the same view, 0 for nothing.

    The share of points spread over what one sees that lie in the picture of the other, times the same
    the other way round: who stands far behind sees all that is seen in front, and more. `poses` [n 4 4]
    are camera_from_world, `lenses` [n 4] are fx fy cx cy in fractions of the image.
    """
    pose, lens = camera.camera_from_world, np.array([astuple(camera.intrinsics)])
    there = _seen(poses @ np.linalg.inv(pose), lens, lenses)
    some = there > 0.0
    there[some] *= _seen(pose @ np.linalg.inv(poses[some]), lenses[some], lens)
    return there


def _seen(to_from: Numbers, from_lenses: Numbers, to_lenses: Numbers) -> Numbers:
    """The share [n] of what is seen from one camera that another has in its picture.

    `to_from` [n 4 4]: from the axes of the one into those of the other. A point at (u, v) of a picture
    with depth d is given as (u d, v d, d), so being inside is 0 <= u d <= d: nothing is divided.
    """
    matrices = _matrices(to_lenses) @ to_from[:, :3] @ np.linalg.inv(_matrices(from_lenses, 4))
    projected = matrices.swapaxes(0, 1).reshape(-1, 4).astype(np.float32) @ _points()
    u, v, depth = projected.reshape(3, len(to_from), _points().shape[1])
    across, down = (u >= 0.0) & (u <= depth), (v >= 0.0) & (v <= depth)
    return np.mean(across & down & (depth > NEAREST_M), axis=1)


def _matrices(lenses: Numbers, size: int = 3) -> Numbers:
    """Calibration matrices [n size size] of lenses [n 4]: from camera axes to (u d, v d, d)."""
    found = np.tile(np.eye(size), (len(lenses), 1, 1))
    found[:, 0, 0], found[:, 1, 1], found[:, 0, 2], found[:, 1, 2] = lenses.T
    return found


@cache
def _points() -> NDArray[np.float32]:
    """Points [4 m] spread over a picture and the depths, as (u d, v d, d, 1)."""
    x, y = (np.arange(COLUMNS) + 0.5) / COLUMNS, (np.arange(ROWS) + 0.5) / ROWS
    depth, v, u = (grid.ravel() for grid in np.meshgrid(DEPTHS_M, y, x, indexing="ij"))
    return np.stack([u * depth, v * depth, depth, np.ones_like(depth)]).astype(np.float32)
