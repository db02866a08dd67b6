"""What training reads: batch number `step` is a pure function of (data, seed, rank, step).

So a resumed run sees exactly the batches it would have seen, and there is no reader state to save.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.clips import ClipSet
from worldmodel import flow
from worldmodel.embeddings import PromptFolder
from worldmodel.transformer import prompt_words


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Single frames, for the autoencoder."""

    frames: Tensor  # uint8 [n H W 3]


@dataclass(frozen=True, slots=True, eq=False)
class LatentBatch:
    """Clips of latents with their cameras, for the transformer."""

    latents: Tensor  # float16 [b f p c]
    camera_from_anchor: Tensor  # float64 [b f 4 4]; the anchor is where the middle frame is, level
    intrinsics: Tensor  # float32 [b f 4]
    time: Tensor  # float32 [b f], in frames
    words: Tensor  # float32 [b v], or [b f v] of data in which prompts change


@dataclass(frozen=True, slots=True, eq=False)
class PathBatch(LatentBatch):
    """Clips with a teacher's paths from noise to its answer."""

    paths: Tensor  # float16 [b f k+1 p c]
    levels: Tensor  # float32 [b k+1], the noise levels of the places on a path


class Batches(Protocol):
    def at(self, step: int) -> Any: ...


@dataclass(frozen=True)
class FrameBatches:
    """Random frames of random clips."""

    clips: ClipSet
    batch_size: int
    seed: int
    rank: int

    def at(self, step: int) -> FrameBatch:
        random = np.random.default_rng([self.seed, self.rank, step])
        clips = random.integers(len(self.clips), size=self.batch_size)
        places = random.integers(self.clips.frames_per_clip, size=self.batch_size)
        frames = [
            self.clips.array("frames", int(clip), int(place), 1)[0]
            for clip, place in zip(clips, places, strict=True)
        ]
        return FrameBatch(torch.from_numpy(np.stack(frames)))


class ResidentFrameBatches:
    """The same from a share of the frames kept on the device: no reading while training.

    Process r of n holds the shards r, r + n, ...
    """

    def __init__(
        self,
        clips: ClipSet,
        batch_size: int,
        seed: int,
        rank: int,
        ranks: int,
        device: torch.device,
    ) -> None:
        mine = clips.shards[rank::ranks] or clips.shards
        parts = [torch.from_numpy(np.array(shard.array("frames"))).to(device) for shard in mine]
        self._frames = torch.cat([part.flatten(0, 1) for part in parts])
        self.batch_size, self.seed, self.rank = batch_size, seed, rank

    def at(self, step: int) -> FrameBatch:
        random = np.random.default_rng([self.seed, self.rank, step])
        chosen = torch.from_numpy(random.integers(len(self._frames), size=self.batch_size))
        return FrameBatch(self._frames[chosen.to(self._frames.device)])


class LatentBatches:
    """Every clip once an epoch, in an order drawn anew each epoch; crops and time reversal."""

    def __init__(
        self,
        clips: ClipSet,
        vocabulary: tuple[str, ...],
        *,
        batch_size: int,
        frames: int,
        time_reversal: float,
        prompt_dropout: float,
        seed: int,
        rank: int,
        ranks: int,
        embeddings: PromptFolder | None = None,
        spread_share: float = 0.0,
        spread_frames: int = 64,
    ) -> None:
        """`time_reversal`: the share of clips played backwards, of those that may be.

        `spread_share`: the share of clips that are `spread` over `spread_frames`.

        With `embeddings` prompts are rows of those instead of words, zeros where they are dropped; and
        clips are read from their beginning, as the first latent of such a model is unlike the others.

        Raises:
            ValueError: if the clips are shorter than `frames`, hold no latents, or lack embeddings.
        """
        needed = spread_frames if spread_share else frames
        if clips.frames_per_clip < needed:
            raise ValueError(
                f"{clips.folder}: clips of {clips.frames_per_clip} frames, the stage needs {needed}"
            )
        self.clips, self.vocabulary = clips, vocabulary
        self.batch_size, self.frames = batch_size, frames
        self.time_reversal, self.prompt_dropout = time_reversal, prompt_dropout
        self.spread_share, self.spread_frames = spread_share, spread_frames
        self.seed, self.rank, self.ranks = seed, rank, ranks
        clips.shards[0].array("latents")
        self._prompts_change = clips.prompts_change
        self._embeddings = embeddings
        if embeddings is not None:
            _check_embeddings(clips, embeddings)
        self._epoch_order: tuple[int, NDArray[np.int64]] | None = None
        self._known_words: dict[str, Tensor] = {}  # prompts that were read, [v] each

    def at(self, step: int) -> LatentBatch:
        random = np.random.default_rng([self.seed, self.rank, step])
        rows = [self._clip(clip, random) for clip in self.chosen(step)]
        return LatentBatch(
            *(torch.stack([getattr(row, f.name) for row in rows]) for f in fields(LatentBatch))
        )

    def chosen(self, step: int) -> list[int]:
        """The clips of a step."""
        first = (step * self.ranks + self.rank) * self.batch_size
        return [self._shuffled(first + i) for i in range(self.batch_size)]

    def _clip(self, clip: int, random: np.random.Generator) -> LatentBatch:
        apart = self.spread_share > 0 and random.random() < self.spread_share
        within = self.spread_frames if apart else self.frames
        start = int(random.integers(self.clips.frames_per_clip - within + 1))
        start = start if self._embeddings is None else 0
        backwards = random.random() < self.time_reversal and not self.clips.one_way(clip)
        chosen = spread(random, self.frames, within, within) if apart else np.arange(within)
        order = within - 1 - chosen if backwards else chosen

        def read(name: str) -> NDArray[Any]:
            return self.clips.array(name, clip, start, within)[order]  # a copy, off the map

        dropped = random.random() < self.prompt_dropout
        prompts = [self.clips.prompt(clip)]
        if self._prompts_change:
            told = self.clips.frame_prompts(clip)
            prompts = [told[start + place] for place in order]
        words = self._words(prompts, dropped)
        return LatentBatch(
            latents=torch.from_numpy(read("latents")),
            camera_from_anchor=torch.from_numpy(relative_to_middle(read("cameras"))),
            intrinsics=torch.from_numpy(read("intrinsics")),
            time=torch.from_numpy(chosen - chosen[0]).float(),
            words=words if self._prompts_change else words[0],
        )

    def _words(self, prompts: list[str], dropped: bool) -> Tensor:
        """[1 v], or [f v] of prompts that change."""
        if self._embeddings is not None:
            embedded = self._embeddings(prompts[0])
            return (torch.zeros_like(embedded) if dropped else embedded).flatten(1)
        if dropped or not self.vocabulary:
            prompts = [""] * len(prompts)
        for prompt in set(prompts) - self._known_words.keys():
            words = prompt_words(self.vocabulary, prompt) or [0.0]
            self._known_words[prompt] = torch.tensor(words)
        return torch.stack([self._known_words[prompt] for prompt in prompts])

    def _shuffled(self, position: int) -> int:
        epoch, place = divmod(position, len(self.clips))
        cached = self._epoch_order
        if cached is None or cached[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.clips))
            cached = self._epoch_order = (epoch, order)
        return int(cached[1][place])


def spread(random: np.random.Generator, frames: int, within: int, stop: int) -> NDArray[np.int64]:
    """Numbers of `frames` frames that end before `stop`: a quarter of them anywhere in the last
    `within`, the others neighbours at the end.

    What one sees within a second may be seen anywhere; what comes of it in five may not.
    """
    together = frames - frames // 4
    apart = random.choice(within - together, frames - together, replace=False)
    return np.concatenate([stop - within + np.sort(apart), np.arange(stop - together, stop)])


def _check_embeddings(clips: ClipSet, embeddings: PromptFolder) -> None:
    """Raises ValueError before training does, naming a prompt that is not embedded."""
    if clips.prompts_change:
        raise ValueError(f"{clips.folder}: prompts change within its clips; Wan reads one a clip")
    for prompt in sorted({prompt for shard in clips.shards for prompt in shard.prompts} - {""}):
        if not embeddings.path_of(prompt).is_file():
            raise ValueError(f"{embeddings.path_of(prompt)}: no embeddings of {prompt!r} there")


class PathBatches:
    """Whole clips with the paths that a teacher took in them; nothing is cropped, turned or dropped."""

    def __init__(
        self,
        clips: ClipSet,
        vocabulary: tuple[str, ...],
        *,
        batch_size: int,
        frames: int,
        shift: float,
        seed: int,
        rank: int,
        ranks: int,
    ) -> None:
        """Raises ValueError if `clips` holds no paths, or paths of another length or schedule."""
        if clips.frames_per_clip != frames:
            raise ValueError(
                f"{clips.folder}: paths of {clips.frames_per_clip} frames, the stage takes {frames}"
            )
        clips.shards[0].array("paths")
        self._levels = torch.tensor(json.loads(clips.shards[0].metadata["levels"]))
        if not torch.allclose(self._levels, flow.schedule(len(self._levels) - 1, shift)):
            raise ValueError(f"{clips.folder}: its paths were not kept at levels of shift {shift}")
        self._latents = LatentBatches(
            clips,
            vocabulary,
            batch_size=batch_size,
            frames=frames,
            time_reversal=0.0,
            prompt_dropout=0.0,
            seed=seed,
            rank=rank,
            ranks=ranks,
        )

    def at(self, step: int) -> PathBatch:
        batch, clips = self._latents.at(step), self._latents.clips
        paths = np.stack([clips.array("paths", clip) for clip in self._latents.chosen(step)])
        clip = {field.name: getattr(batch, field.name) for field in fields(batch)}
        levels = self._levels.expand(len(paths), -1)
        return PathBatch(**clip, paths=torch.from_numpy(paths), levels=levels)


def relative_to_middle(cameras: NDArray[np.float64]) -> NDArray[np.float64]:
    """camera_from_world [f 4 4] -> camera_from_anchor.

    The anchor stands where the middle camera does and looks its way, but level: its y axis points down
    as the world's does, so that who has a batch knows where down is.
    """
    middle = cameras[len(cameras) // 2]
    position, ahead = -middle[:3, :3].T @ middle[:3, 3], middle[2, :3]
    sine, cosine = ahead[0], ahead[2]
    length = np.hypot(sine, cosine)
    if length < 1e-9:  # it looks straight up or down
        sine, cosine, length = 0.0, 1.0, 1.0
    world_from_anchor = np.eye(4)
    world_from_anchor[0, [0, 2]] = cosine / length, sine / length
    world_from_anchor[2, [0, 2]] = -sine / length, cosine / length
    world_from_anchor[:3, 3] = position
    return cameras @ world_from_anchor


def prefetch(
    batches: Batches, steps: range, prepare: Callable[[Any], Any], ahead: int = 6, threads: int = 3
) -> Iterator[Any]:
    """Yield `prepare(batches.at(step))`, reading a few batches ahead in threads, in order."""

    def prepared(step: int) -> Any:
        return prepare(batches.at(step))

    with ThreadPoolExecutor(threads) as pool:
        queue: list[Future[Any]] = []
        for step in steps:
            queue.append(pool.submit(prepared, step))
            if len(queue) > ahead:
                yield queue.pop(0).result()
        while queue:
            yield queue.pop(0).result()


def to_device(batch: Any, device: torch.device) -> Any:
    """Copy every tensor of a batch to `device`."""
    moved = [send(getattr(batch, f.name), device) for f in fields(batch)]
    return type(batch)(*moved)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device`; neither side waits for the other."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)  # may be an expanded one
