"""A running world: the one stateful object, `WorldGenerator` for the engine.

Deterministic: the same model, seed and cameras give the same frames, bit for bit on the same device
and software. Noise is drawn here, from the session's own CPU generator, and enters as an input.

Endless: poses are kept relative to an anchor camera. When the player has left its neighbourhood the
anchor moves: cached keys and values are multiplied by one constant matrix, and time starts again at
zero. Nothing grows and no position loses precision, however far one walks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel import flow
from worldmodel.attention import (
    MANY_QUERIES,
    MixInParts,
    join_parts,
    mix_by_matmul,
    mix_on_gpu,
)
from worldmodel.autoencoder import frames_to_float
from worldmodel.captured import CapturedSampler
from worldmodel.checkpoint import PlayableConfig
from worldmodel.compiled import (
    can_compile,
    compile_function,
    compile_regions,
    join_projections,
)
from worldmodel.drift import holder
from worldmodel.eight_bits import EightBitCache, Kernels, to_float8
from worldmodel.fp8 import check_fp8, use_fp8
from worldmodel.kv_cache import KVCache, Ring, of_slots
from worldmodel.memory import check_memory
from worldmodel.models import load_playable
from worldmodel.noise import Noise
from worldmodel.recall import Recall, Shown, bring_back
from worldmodel.runtime import (
    blob_folder,
    choose_device,
    choose_runtime,
    fastest_dtype,
    prepare,
)
from worldmodel.sampler import Decoder, Network, NetworkConfig, Sampler, noises, sample
from worldmodel.stopwatch import Stopwatch
from worldmodel.transformer import WorldTransformer, read_words
from worldmodel.turning import Turning
from worldmodel.types import (
    Camera,
    GeneratorSpec,
    Intrinsics,
    Runtime,
    RuntimeChoice,
    Start,
    StepTimes,
    check_rigid,
)

ANCHOR_RADIUS_M = 8.0
ANCHOR_FRAMES = 64
HOPPER = 9  # compute capability on which attention in parts and in 8 bits was measured
EIGHT_BIT_WIDTH = 128  # of the heads that attention in 8 bits is for


TensorFunction = Callable[..., Tensor]


class Computing(Protocol):
    """The functions of `Sampler`, however they are run."""

    @property
    def denoise(self) -> TensorFunction: ...

    @property
    def commit(self) -> TensorFunction: ...

    @property
    def commit_own(self) -> TensorFunction: ...

    @property
    def commit_alone(self) -> TensorFunction: ...

    @property
    def decode(self) -> TensorFunction: ...


@contextmanager
def _gpu_memory_for(what: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"not enough GPU memory for {what}: try --device cpu") from error


@dataclass(slots=True)
class _Pending:
    """Frames that were shown but whose keys and values are not in the cache yet."""

    latent: Tensor  # [1 n p c]
    places: tuple[Tensor, ...]
    camera: Camera  # of its last frame
    slots: list[int]
    own: bool  # its last denoising step has what memory needs; else it is committed clean


class WorldSession:
    """Generates a block of latent frames per step, one for each camera; mostly a block is one."""

    _pending: _Pending | None
    _view: Camera | None  # what the newest frame of `_shown` was seen from
    _turning: Turning
    _shown: NDArray[np.uint8]

    @_gpu_memory_for("this model")
    def __init__(
        self,
        playable: PlayableConfig,
        autoencoder: Decoder,
        transformer: Network,
        device: torch.device,
        dtype: torch.dtype,
        capture: bool | None = None,
        runtime: Runtime = "torch",
        tell: Callable[[str], None] | None = None,
        read_prompt: Callable[[str], Tensor] | None = None,
        compiled: bool | None = None,
        fp8: bool = False,
        packed: bool = False,
    ) -> None:
        """`capture`: replay CUDA graphs; None: whenever the device is a CUDA one.

        `compiled`: compile what lies between attention calls; None: if graphs are captured, and what is
        needed is installed. `fp8`: linear layers of the blocks in 8 bits, and where heads and frames are
        large enough (`attends_in_eight_bits`) attention to memory, too. `tell` hears what takes long.
        `read_prompt`: what the transformer is given of a prompt; None: the words of its vocabulary.
        `packed`: commit a frame together with the first pass of the next one. More frames a second where
        a pass over one leaves the device idle, but a frame comes later after its input: the commit is
        not done while nobody waits. Same frames up to rounding; a snapshot between them changes it.

        Raises:
            ValueError: if the memory of the GPU is too small, `packed` is not for this model, or `fp8`
                not for this device.
        """
        if fp8:
            check_fp8(device)
        if packed:
            check_packs(playable, runtime)
        self.playable, self._packs = playable, packed
        self._most_steps = playable.rollout.steps
        self.device, self.dtype, self.runtime = device, dtype, runtime
        parts = [runtime, str(dtype).removeprefix("torch."), *(["fp8"] if fp8 else [])]
        self._computing = " ".join(parts)  # recordings name it
        eager = runtime == "torch"
        weights = dtype if eager else torch.float32  # others are given float32 to compile
        self._block = playable.rollout.block_frames
        small = fp8 and attends_in_eight_bits(transformer.config, self._block, device, dtype)
        if device.type == "cuda":
            _check_fits(playable, autoencoder, transformer, device, dtype, eight_bits=small)
        self._transformer: Network = prepare(transformer, device, weights)
        self._autoencoder: Decoder = prepare(autoencoder, device, weights)
        self._hold = holder(cast(nn.Module, self._autoencoder), playable.rollout.drift_limit)
        self._read_prompt = read_prompt or _vocabulary(transformer)
        config = transformer.config
        self._cache = _cache(playable, config, device, dtype, own=eager, eight_bits=small)
        self._ring = _whole_ring(playable)
        capture = device.type == "cuda" if capture is None else capture
        # OpenVINO's networks read all of memory. Graphs of blocks exist for whole blocks in it only.
        adapts = eager and (self._block == 1 or not capture)
        window = playable.cache.window_frames
        self._windows = windows_of(window, self._block) if adapts else (window,)
        shape = (1, self._block, config.tokens_per_frame, config.latent_channels)
        self._noise = Noise(shape, device)
        self._recall = Recall.of(playable.rollout.recall, shape[2:], device)
        self._stopwatch = Stopwatch(device)
        self._times: StepTimes | None = None
        mix = mix_by_matmul if device.type == "cpu" else mix_on_gpu
        held = 0 if eager else None
        self._sampler = Sampler(self._transformer, self._autoencoder, self._cache, mix, held)
        self._graphs: CapturedSampler | None = None
        self._at: Callable[[int], Computing] = partial(_holding, self._sampler)
        self._conditioned: str | None = None  # the prompt that `_words` were made from, if known
        self._numbers = device  # where noise levels and slots are handed over
        self._begin(np.eye(4), "")
        if fp8:
            use_fp8(cast(nn.Module, self._transformer))
        self._make_fast(capture, compiled, tell)

    @property
    def spec(self) -> GeneratorSpec:
        playable, ae = self.playable, self._autoencoder.config
        return GeneratorSpec(
            name=playable.name,
            height_px=ae.height_px,
            width_px=ae.width_px,
            intrinsics=playable.intrinsics,
            limits=playable.limits,
            cameras_per_step=self._block,
            frames_per_step=self._block * self._autoencoder.frames_per_latent,
            frames_per_second=playable.frames_per_second,
            weights=playable.digest,
            steps=playable.rollout.steps,
            most_steps=self._most_steps,
            window_frames=self._ring.config.window_frames,
            windows=self._windows,
            vocabulary=self._transformer.config.vocabulary,
            packs=self._packs,
            runtime=self._computing,
            drawn_larger=self._autoencoder.drawn_larger,
        )

    @property
    def transformer_config(self) -> NetworkConfig:
        return self._transformer.config

    def set_rate(self, frames_per_second: float) -> None:
        """Change the rate of the world's clock: how fast the engine moves, not what is computed.

        Raises:
            ValueError: if it is not positive and finite.
        """
        if not 0.0 < frames_per_second < math.inf:
            raise ValueError(f"frames per second must be positive, got {frames_per_second}")
        self.playable = replace(self.playable, frames_per_second=frames_per_second)

    def set_steps(self, steps: int) -> None:
        """Change the denoising steps of the frames to come.

        Raises:
            ValueError: if there is not at least one.
        """
        self.playable = replace(self.playable, rollout=replace(self.playable.rollout, steps=steps))

    @torch.inference_mode()
    def set_window(self, frames: int) -> None:
        """Change how many of the newest frames are remembered from the next one on.

        Raises:
            ValueError: naming those there are, if it is none of them.
        """
        if frames not in self._windows:
            known = ", ".join(map(str, self._windows))
            raise ValueError(f"{self.spec.runtime} remembers {known} frames, not {frames}")
        if frames != self._ring.config.window_frames:
            self.settle()
            self._ring, kept = self._ring.resized(frames, self._frame)
            self._cache.gather(kept)
            if self._recall is not None:
                self._recall.put_away()

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels, uint8 [n H W 3], of a block [1 f p c]; a captured graph overwrites them."""
        with torch.inference_mode():
            return self._at(0).decode(latent)

    @torch.inference_mode()
    def denoising(self, held: int) -> Callable[[], Tensor]:
        """One denoising pass where `held` slots of memory are filled, to be timed."""
        self.settle()
        latent, sigma, to, words, *places = self._example()
        run = self._at(held)
        return torch.inference_mode()(partial(run.denoise, latent, sigma, to, words, *places))

    @_gpu_memory_for("a frame")
    @torch.inference_mode()
    def reset(self, start: Start, camera: Camera) -> NDArray[np.uint8]:
        """Begin a world at `camera`, from the picture of `start` or from noise.

        Without a picture the whole first block is seen from `camera`; its last frame is returned.

        Raises:
            ValueError: if the picture has another size, the prompt an unknown word, or the GPU too
                little memory.
        """
        self._stopwatch.start()
        self._noise.seed(start.seed)
        self._begin(camera.camera_from_world, start.prompt)
        cameras = [camera] * (self._block if start.image is None else 1)
        places = self._places(cameras)
        if start.image is None:
            steps = self.playable.rollout.first_frame_steps
            latent = self._sample(places, steps)
        else:
            latent = self._encode(start.image)
        self._show(latent, places, camera, sampled=start.image is None)
        self._shown = self._shown[-1:]
        return self._shown[0].copy()

    @_gpu_memory_for("a frame")
    @torch.inference_mode()
    def step(self, cameras: Sequence[Camera]) -> NDArray[np.uint8]:
        """The frames seen from `cameras`, one for each latent of a block: uint8 (n, H, W, 3).

        In a world where nothing moves by itself, a camera that has not moved gets the frame it got: a
        model that imagined the same view again and again would drift away from it.

        Raises:
            ValueError: if there are not as many cameras as the model makes latents in a step, or the
                GPU has too little memory.
        """
        if len(cameras) != self._block:
            wanted = f"{self._block} camera{'s' * (self._block > 1)}"
            raise ValueError(f"this model takes {wanted} per step, got {len(cameras)}")
        if self._rests(cameras):
            self._times = None
            return np.repeat(self._shown[-1:], self.spec.frames_per_step, axis=0)
        if not self._can_pack():
            self.settle()
        self._stopwatch.start()
        self._move_anchor_if_far(cameras[0].camera_from_world)
        places = self._places(cameras)
        latent = self._sample(places, self.playable.rollout.steps)
        self._turning.go_on(self._block)
        return self._show(latent, places, cameras[-1], sampled=True)

    @_gpu_memory_for("a frame")
    @torch.inference_mode()
    def settle(self) -> None:
        """Commit the shown frame to memory: work that may wait until the frame is on the screen."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        count = len(pending.slots)
        held = self._held(before=count) if pending.own else self._held_to_commit(count)
        # a start picture is one latent, also where a block is more than was captured
        whole = count == self._block
        run = self._at(held) if whole else replace(self._sampler, held=held)
        device = self._numbers if whole else self.device
        slots = torch.tensor(pending.slots, device=device)
        if pending.own:
            run.commit_own(slots)
            if self._short:
                self._cache.set_filled(self._held())
        else:
            clean = torch.zeros(1, count, device=device)
            run.commit(pending.latent, clean, slots, self._words, *pending.places)
        if self._recall is not None and self._turning.left == 0:
            shown = Shown(pending.latent, pending.camera, self._frame - 1)
            bring_back(self._recall, self._sampler, self._ring, shown, self._commit_alone)

    def _can_pack(self) -> bool:
        """May the first pass of the next block commit what is pending? `_sample` does it then."""
        pending = self._pending
        whole = pending is not None and len(pending.slots) == self._block
        return self._packs and whole and self._turning.push() == 1.0  # a push is two passes

    def _commit_and_denoise(
        self, latent: Tensor, levels: tuple[Tensor, Tensor], places: tuple[Tensor, ...]
    ) -> Tensor:
        """`settle` and the first pass of a block in one."""
        pending, self._pending = self._pending, None
        assert pending is not None, "`_can_pack` looked"
        held = self._held_to_commit(len(pending.slots))
        slots = torch.tensor(pending.slots, device=self._numbers)
        inputs = pending.latent, latent, *levels, slots, self._words
        if self._graphs is not None:  # they know where the frames before were
            return self._graphs.at(held).commit_and_denoise(*inputs, *places)
        both = [torch.cat(pair, dim=1) for pair in zip(pending.places, places, strict=True)]
        return replace(self._sampler, held=held).commit_and_denoise(*inputs, *both)

    def _commit_alone(self, latent: Tensor, camera: Camera, slot: int) -> None:
        assert self._recall is not None
        places = self._places([camera], self._time - self._recall.config.age_frames)
        where, clean = torch.tensor([slot]), torch.zeros(1, 1)
        inputs = latent, clean.to(self._numbers), where.to(self._numbers)
        self._at(0).commit_alone(*inputs, self._words, *places)

    @property
    def _short(self) -> bool:
        """Is the ring shorter than the cache? Then it is full before the cache is."""
        return self._ring.config != self._cache.config

    def _held(self, before: int = 0) -> int:
        """Slots that are filled: the window, and behind it what is brought back.

        `before`: as many of the newest frames ago.
        """
        beside = 0 if self._recall is None else self._recall.held
        return self._ring.filled(self._frame - before) + beside

    def _held_to_commit(self, count: int) -> int:
        """Slots beside which the newest `count` frames are committed: a commit attends to both."""
        held = self._held(before=count)
        return min(held, self._held() - count) if self._short else held

    def set_prompt(self, prompt: str) -> None:
        """Change the words from the next frame on; a resting camera gets new frames, too, for a while.

        Raises:
            ValueError: naming the words that the model does not know.
        """
        read = self._read_prompt(prompt)
        self.settle()  # the frame on show was made with the old words
        former = self._prompt.clone() if self._transformer.config.vocabulary else None
        if self._recall is not None:  # what was seen under other words would hold the new ones back
            self._recall.reset()
            self._cache.set_filled(self._held())
        self._condition(read)
        self._turning = Turning.begun(former)

    def times(self) -> StepTimes | None:
        return self._times

    def snapshot(self) -> dict[str, Any]:
        """Everything that decides the next frames."""
        self.settle()
        return {
            "model": self.playable.name,
            "cache": {key: value.cpu() for key, value in self._cache.state().items()},
            "window": self._ring.config.window_frames,
            "ring": self._ring.first,
            "noise": self._noise.state(),
            "words": self._prompt.cpu(),
            "decoder": self._autoencoder.state(),
            "steps": self.playable.rollout.steps,
            "anchor": self._anchor_from_world.copy(),
            "frame": self._frame,
            "time": self._time,
            "shown": self._shown.copy(),
            "view": None if self._view is None else _numbers(self._view),
            **({} if self._recall is None else {"recall": self._recall.state()}),
            **self._turning.state(),
        }

    @torch.inference_mode()
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `snapshot`.

        Raises:
            ValueError: if it was taken from another model.
        """
        if state["model"] != self.playable.name:
            raise ValueError(
                f"a state of {state['model']!r} cannot go on in {self.playable.name!r}"
            )
        self._restore_memory(state)
        self._noise.set_state(state["noise"])
        self._condition(state["words"])
        self._autoencoder.load_state(state.get("decoder", {}))  # older saves have none
        if "steps" in state:  # saves of earlier versions have none
            self.set_steps(state["steps"])
        self._set_anchor(state["anchor"])
        self._frame, self._time = state["frame"], state["time"]
        self._restore_ring(state)
        self._cache.set_filled(self._held())
        self._shown = state["shown"].copy()
        self._view = None if state["view"] is None else _camera(state["view"])
        self._turning = Turning.of_state(state, self.device)
        self._pending = None

    def _restore_memory(self, state: dict[str, Any]) -> None:
        """What lay beside the window is left out where there is place for more or for less here."""
        saved: dict[str, Any] = state.get("recall") or {}
        ring, beside = self.playable.cache.slots, _beside(self.playable)
        cache = state["cache"]
        if saved.get("slots", 0) != beside:
            cache = of_slots(cache, ring, ring + beside, self._cache.tokens_per_frame)
            saved = saved | {"beside": []}
        self._cache.load_state(cache)
        if self._recall is not None:
            self._recall.load_state(saved)

    def _restore_ring(self, state: dict[str, Any]) -> None:
        """A window that does not exist here, as of another runtime, goes on as the longest."""
        self._ring = whole = _whole_ring(self.playable)
        if "ring" not in state:  # saves of earlier versions have the whole one
            return
        self._ring = Ring(replace(whole.config, window_frames=state["window"]), state["ring"])
        if state["window"] not in self._windows:
            self._ring, kept = self._ring.resized(whole.config.window_frames, state["frame"])
            self._cache.gather(kept)
            if self._recall is not None:
                self._recall.put_away()

    def _begin(self, anchor_from_world: NDArray[np.float64], prompt: str) -> None:
        check_rigid(anchor_from_world)
        if prompt != self._conditioned:  # worlds often begin with the same words
            self._condition(self._read_prompt(prompt))
            self._conditioned = prompt
        self._cache.reset()
        if self._recall is not None:
            self._recall.reset()
        self._ring = Ring(self._ring.config, self.playable.cache.sink_frames)
        self._autoencoder.reset()
        self._set_anchor(anchor_from_world)
        self._frame = 0  # frames committed or pending since the world began
        self._time = 0  # frames since the anchor was set
        self._pending = None
        self._view = None
        self._turning = Turning()
        self._shown = np.zeros((0,), np.uint8)

    def _encode(self, image: NDArray[np.uint8]) -> Tensor:
        config, larger = self._autoencoder.config, self._autoencoder.drawn_larger
        height_px, width_px = config.height_px // larger, config.width_px // larger
        if image.shape != (height_px, width_px, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"a start picture must be uint8 {height_px}x{width_px}x3, got"
                f" {image.dtype} {'x'.join(map(str, image.shape))}"
            )
        frames = frames_to_float(torch.from_numpy(image.copy())[None].to(self.device))
        return self._autoencoder.encode_start(frames)

    def _places(self, cameras: Sequence[Camera], time: float | None = None) -> tuple[Tensor, ...]:
        """Where `cameras` are, the first at `time`; None: when the next frame is."""
        given = self._cameras(cameras, self._time if time is None else time)
        if self._graphs is not None and len(cameras) == self._block:
            return self._graphs.locate(*given)
        return self._transformer.geometry(*given).tensors()

    def _cameras(self, cameras: Sequence[Camera], time: float) -> tuple[Tensor, Tensor, Tensor]:
        """Poses, intrinsics and times as `Network.geometry` takes them."""
        poses = [camera.camera_from_world @ self._world_from_anchor for camera in cameras]
        lenses = [camera.intrinsics for camera in cameras]
        intrinsics = torch.tensor([[(lens.fx, lens.fy, lens.cx, lens.cy) for lens in lenses]])
        times = torch.tensor([[float(time + nth) for nth in range(len(cameras))]])
        return torch.from_numpy(np.array([poses])), intrinsics, times

    def _sample(self, places: tuple[Tensor, ...], steps: int) -> Tensor:
        rollout = self.playable.rollout
        run = self._at(self._held())

        push, former = self._turning.push(), self._turning.former
        if push != 1.0:
            steps = max(1, steps // 2)  # each takes two passes, so a frame takes no longer

        def denoise(latent: Tensor, now: float, to: float) -> Tensor:
            levels = self._level(now), self._level(to)
            if self._pending is not None:
                return self._commit_and_denoise(latent, levels, places)
            if push == 1.0 or former is None:
                return run.denoise(latent, *levels, self._words, *places)

            def made_of(words: Tensor) -> Tensor:
                if self._graphs is not None:
                    self._words.copy_(words)  # graphs read them where they always lie
                return run.denoise(latent, *levels, words, *places).clone()

            words = self._words.clone()
            before = made_of(self._transformer.condition(former))
            return before + push * (made_of(words) - before)

        levels = flow.levels(steps, rollout.shift)
        latent = sample(denoise, self._noise.take, levels, rollout.solver)
        return self._hold(latent).clone()  # a captured graph owns its output and overwrites it

    def _show(
        self, latent: Tensor, places: tuple[Tensor, ...], camera: Camera, *, sampled: bool
    ) -> NDArray[np.uint8]:
        own = sampled and self.playable.rollout.commit == "own"
        count = latent.shape[1]
        slots = [self._ring.slot(self._frame + nth) for nth in range(count)]
        self._pending = _Pending(latent, places, camera, slots, own)
        self._frame += count
        self._time += count
        self._stopwatch.mark()
        whole = count == self._block
        graphs = self._graphs if whole else None
        with nullcontext() if graphs is None else graphs.beside():
            pixels = (self._at(0) if whole else self._sampler).decode(latent)
            self._stopwatch.mark()
            pixels = pixels.to("cpu", non_blocking=True)
            self._stopwatch.mark()
        if graphs is not None:
            self._go_on()
        self._times = StepTimes(*self._stopwatch.laps_s())  # waits for the pixels
        self._shown = pixels.numpy()
        self._view = camera
        return self._shown.copy()

    def _go_on(self) -> None:
        """Launch what follows a frame while the GPU still makes it: it runs beside the decoder.

        Whoever calls it keeps the latent of the frame until the pixels are there: the decoder reads it.
        """
        if not self._packs:
            self.settle()
        rollout = self.playable.rollout
        self._noise.prepare(noises(rollout.steps, rollout.solver))

    def _rests(self, cameras: Sequence[Camera]) -> bool:
        view = self._view
        return (
            self.playable.static_world
            and self._turning.left == 0
            and view is not None
            and all(_same(camera, view) for camera in cameras)
        )

    def _level(self, sigma: float) -> Tensor:
        return torch.full((1, self._block), sigma, device=self._numbers)

    @torch.inference_mode()
    def _condition(self, prompt: Tensor) -> None:
        """What all passes read of a prompt; a captured graph reads it where it always lies."""
        self._conditioned = None
        self._prompt = prompt.to(self.device)
        words = self._transformer.condition(self._prompt)
        self._words = words if self._graphs is None else self._graphs.words.copy_(words)

    def _move_anchor_if_far(self, camera_from_world: NDArray[np.float64]) -> None:
        camera_from_anchor = camera_from_world @ self._world_from_anchor
        distance = float(np.linalg.norm(camera_from_anchor[:3, 3]))
        if distance > ANCHOR_RADIUS_M or self._time >= ANCHOR_FRAMES:
            self.move_anchor(camera_from_world)

    def _set_anchor(self, anchor_from_world: NDArray[np.float64]) -> None:
        self._anchor_from_world = anchor_from_world.copy()
        self._world_from_anchor = np.linalg.inv(anchor_from_world)

    @torch.inference_mode()
    def move_anchor(self, camera_from_world: NDArray[np.float64]) -> None:
        """Express everything in memory relative to another camera and count time from now on."""
        self.settle()
        old_from_new = self._anchor_from_world @ np.linalg.inv(camera_from_world)
        self._sampler.move_anchor(torch.from_numpy(old_from_new)[None], float(self._time))
        self._set_anchor(camera_from_world)
        self._time = 0

    @torch.inference_mode()
    def _capture(self, compiled: bool) -> None:
        config, rollout = self._transformer.config, self.playable.rollout
        shape = (1, self._block, config.tokens_per_frame, config.latent_channels)
        still = [Camera(np.eye(4), self.playable.intrinsics)] * self._block
        frame = torch.zeros(shape, device=self.device), *self._cameras(still, 0.0)
        self._graphs = graphs = CapturedSampler(
            self._sampler,
            frame,
            self._words,
            commit=rollout.commit,
            hold=None if rollout.drift_limit is None else self._hold,
            compiled=compiled,
            recalls=self._recall is not None,
            packs=self._packs,
        )
        self._words = graphs.words
        self._hold = graphs.hold or self._hold
        self._at, self._numbers = graphs.at, torch.device("cpu")
        self._cache.reset()
        self._autoencoder.reset()

    def _make_fast(
        self, capture: bool, compiled: bool | None, tell: Callable[[str], None] | None
    ) -> None:
        if self.runtime == "torch" and (capture if compiled is None else compiled):
            compiled = self._compile_regions(tell)
        if capture:
            self._capture(bool(compiled))
        if self.runtime == "openvino":
            self._compile(tell)

    def _compile_regions(self, tell: Callable[[str], None] | None) -> bool:
        """Whether it was possible; says why not."""
        why_not = can_compile(self.device)
        if why_not is not None:
            if tell is not None:
                tell(f"not compiled for this GPU, so slower: {why_not}")
            return False
        if tell is not None:
            tell("compiling for this GPU: up to a minute the first time")
        join_projections(cast(nn.Module, self._transformer))
        for network in (self._transformer, self._autoencoder):
            compile_regions(cast(nn.Module, network))
        if self.device.type == "cuda":
            chip = torch.cuda.get_device_properties(self.device)
            if chip.major == HOPPER and self.dtype == torch.bfloat16:
                mix = MixInParts(chip.multi_processor_count, compile_function(join_parts))
                self._sampler = replace(self._sampler, mix=mix)
                self._at = partial(_holding, self._sampler)
        return True

    def _compile(self, tell: Callable[[str], None] | None) -> None:
        from worldmodel.openvino_sampler import OpenVinoSampler  # an optional extra

        folder = blob_folder(self.playable.digest, self.dtype, self._cache.config.slots)
        if tell is not None and (folder is None or not any(folder.iterdir())):
            tell("making the model fast on this processor, once: half a minute")
        compiled = OpenVinoSampler(self._sampler, self._example(), self.dtype, folder)
        self._at = lambda _held: compiled

    def _example(self) -> tuple[Tensor, ...]:
        """Inputs of `Sampler.denoise`: one step from noise to the end."""
        config = self._transformer.config
        shape = (1, self._block, config.tokens_per_frame, config.latent_channels)
        latent = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        places = self._places([Camera(np.eye(4), self.playable.intrinsics)] * self._block)
        return latent, self._level(1.0), self._level(0.0), self._words, *places


def load_session(
    folder: Path,
    *,
    device: str | None = None,
    steps: int | None = None,
    frames_per_second: float | None = None,
    runtime: RuntimeChoice = "torch",
    tell: Callable[[str], None] | None = None,
    capture: bool | None = None,
    compiled: bool | None = None,
    fp8: bool = False,
    packed: bool = False,
) -> WorldSession:
    """Load a model folder and make it ready to play.

    `device`: "cpu", "cuda", "cuda:1", ...; None takes CUDA where there is one. `runtime`: what computes;
    "auto" takes the fastest that is installed. `tell` hears what takes long. The others: `WorldSession`.

    Raises:
        ValueError, FileNotFoundError: one clear line about what is wrong.
    """
    model = load_playable(folder)
    playable = model.playable
    if steps is not None:
        rollout = replace(playable.rollout, steps=steps)
        playable = replace(playable, rollout=rollout)
    if frames_per_second is not None:
        playable = replace(playable, frames_per_second=frames_per_second)
    chosen = choose_device(device)
    computing = choose_runtime(runtime, chosen, model.runs_on)
    return WorldSession(
        playable,
        model.decoder,
        model.transformer,
        chosen,
        fastest_dtype(chosen, computing),
        runtime=computing,
        tell=tell,
        read_prompt=model.read_prompt,
        capture=capture,
        compiled=compiled,
        fp8=fp8,
        packed=packed,
    )


def check_packs(playable: PlayableConfig, runtime: Runtime = "torch") -> None:
    """
    Raises:
        ValueError: if commits cannot be packed with the passes that follow them.
    """
    rollout = playable.rollout
    if runtime != "torch":
        raise ValueError(f"packed commits need --runtime torch, not {runtime}")
    if rollout.commit != "clean":
        raise ValueError(
            f"packed commits are for models that commit with a pass: this one has rollout.commit"
            f" {rollout.commit}"
        )
    if rollout.recall is not None:
        raise ValueError("packed commits are for models without rollout.recall: set it to null")


def _holding(sampler: Sampler, held: int) -> Computing:
    return replace(sampler, held=held)


def windows_of(frames: int, block_frames: int) -> tuple[int, ...]:
    """How many frames may be remembered: all, two thirds, half; a block must fit."""
    shorter = (round(frames * 2 / 3), round(frames / 2))
    return (frames, *(n for n in dict.fromkeys(shorter) if block_frames <= n < frames))


def _whole_ring(playable: PlayableConfig) -> Ring:
    return Ring(playable.cache, playable.cache.sink_frames)


def _check_fits(
    playable: PlayableConfig,
    autoencoder: Decoder,
    transformer: Network,
    device: torch.device,
    dtype: torch.dtype,
    *,
    eight_bits: bool,
) -> None:
    """
    Raises:
        ValueError: if the memory of the GPU is too small.
    """
    free, _ = torch.cuda.mem_get_info(device)
    networks = [cast(nn.Module, transformer), cast(nn.Module, autoencoder)]
    more = playable.rollout.block_frames + _beside(playable)
    check_memory(
        networks, transformer.config, playable.cache, more, dtype, free, eight_bits=eight_bits
    )


def attends_in_eight_bits(
    config: NetworkConfig, block_frames: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether 8-bit attention is for what a model makes at once: as it was measured, on Hopper."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device)[0] == HOPPER
        and can_compile(device) is None
        and dtype == torch.bfloat16
        and config.head_width == EIGHT_BIT_WIDTH
        and block_frames * config.tokens_per_frame >= MANY_QUERIES
    )


def _cache(
    playable: PlayableConfig,
    config: NetworkConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    own: bool,
    eight_bits: bool,
) -> KVCache:
    """`own`: with place for the frames that are being made."""
    made: Callable[..., KVCache] = KVCache
    if eight_bits:
        made = partial(EightBitCache, kernels=_eight_bit_kernels(device))
    return made(
        playable.cache.widened(_beside(playable)),
        layers=config.layers,
        batch=1,
        kv_heads=config.kv_heads,
        tokens_per_frame=config.tokens_per_frame,
        head_width=config.head_width,
        dtype=dtype,
        device=device,
        block_frames=playable.rollout.block_frames if own else 0,
    )


def _eight_bit_kernels(device: torch.device) -> Kernels:
    from worldmodel.fp8_attention import TritonKernels  # there is no triton without a GPU

    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonKernels(processors, compile_function(join_parts), compile_function(to_float8))


def _beside(playable: PlayableConfig) -> int:
    """Slots behind the ring, for frames that are brought back."""
    recall = playable.rollout.recall
    return 0 if recall is None else recall.frames


def _same(a: Camera, b: Camera) -> bool:
    return a.intrinsics == b.intrinsics and np.array_equal(a.camera_from_world, b.camera_from_world)


def _numbers(camera: Camera) -> dict[str, Any]:
    return {"pose": camera.camera_from_world.copy(), "lens": astuple(camera.intrinsics)}


def _camera(numbers: dict[str, Any]) -> Camera:
    return Camera(numbers["pose"].copy(), Intrinsics(*numbers["lens"]))


def _vocabulary(transformer: Network) -> Callable[[str], Tensor]:
    assert isinstance(transformer, WorldTransformer), "other models come with their prompt reader"
    return partial(read_words, transformer.config.vocabulary)
