"""What a stage of distribution matching may be told: how rollouts go on, what scores and others see."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from distill.streams import WalksConfig
from worldmodel.sampler import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionMatchingConfig:
    """A student against the difference of two scores, the teacher's and the critic's."""

    kind: Literal["distribution_matching"]
    # what the student sees; see the head of distill/matching.py
    history: Literal["self", "noisy", "clean"] = "self"
    student_steps: int  # denoising steps of the student
    shift: float  # of the noise levels at which scores are compared, and of the student's steps
    critic_updates: int  # of the fake score, for each update of the student
    guidance: float = 1.0  # of the real score, over its prediction without words; 1: none
    autoguidance: float = 1.0  # of the real score, over that of a worse teacher; 1: none
    student_shift: float | None = None  # of the student's steps alone; None: as of the scores
    lowest_level: float = 0.02
    highest_level: float = 0.98
    # Frames of every denoising step are a distribution of their own. A critic that is not told which
    # step it sees is right about their mixture: one may be too empty if another is too full.
    critic_knows_step: bool = False
    # of the student's own rollout, history: self
    known_frames: int = 1  # true frames it begins with; 0: it begins with the student's own
    invented_share: float = 0.0  # share of rollouts that begin with no true frame all the same
    first_frame_steps: int = 4  # of a frame that begins a world without a picture
    block_frames: int = 1  # frames that are made together
    commit: Commit = "clean"  # who writes the memory; "own": the last denoising step, as in play
    scored_frames: int | None = None  # only the last ones, of a rollout of random length; None: all
    stream_share: float = 0.0  # share of rollouts that go on where the one before ended
    stream_onward: float = 0.0  # share of ends of a clip where it goes on into another, not back
    stream_walks: WalksConfig | None = None  # and how it goes on there; None: as other clips do
    # share of rollouts that go on in which the remembered frames that are judged are spread over the
    # `spread_frames` up to the last new one: scores then see how things come nearer for seconds
    spread_share: float = 0.0
    spread_frames: int = 64
    # share of rollouts whose remembered frames are given to both scores, with noise up to `given_noise`,
    # instead of being judged with the new ones: scores then know where these go on from. The teacher
    # must have learned it (stage 0 has objective.given_share)
    given_share: float = 0.0
    given_noise: float = 0.2
    truth_weight: float = 0.0  # of the distance to the true frames, where they are near
    truth_frames: int = 8  # how many generated frames after true ones are near
    # of a discriminator that knows true clips: how hard it pushes when it is always right, of how hard
    # L1 pulls; 0: none
    adversarial_weight: float = 0.0
    discriminator_width: int = 128
    discriminator_noise: float = 0.1  # largest level of it on all that it sees, truth included

    @property
    def steps_shift(self) -> float:
        """Of the student's steps: `rollout.shift`, where it is played as it was trained."""
        return self.shift if self.student_shift is None else self.student_shift

    def __post_init__(self) -> None:
        if self.student_shift is not None and not self.student_shift > 0.0:
            raise ValueError(f"student_shift must be positive, got {self.student_shift}")
        if self.autoguidance < 1.0:
            raise ValueError(f"autoguidance must be at least 1 (none), got {self.autoguidance}")
        for name in ("student_steps", "first_frame_steps", "block_frames", "critic_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.known_frames < 0 or not 0.0 <= self.invented_share <= 1.0:
            raise ValueError(
                "known_frames must not be negative and invented_share must lie in [0, 1], got"
                f" {self.known_frames} and {self.invented_share}"
            )
        if not 0.0 < self.lowest_level < self.highest_level < 1.0:
            raise ValueError(
                f"noise levels must rise inside (0, 1), got {self.lowest_level}"
                f" to {self.highest_level}"
            )
        if self.scored_frames is not None and self.scored_frames <= self.known_frames:
            raise ValueError(
                f"scored_frames must be more than known_frames, got {self.scored_frames} and"
                f" {self.known_frames}"
            )
        if self.adversarial_weight < 0.0 or not 0.0 <= self.discriminator_noise < 1.0:
            raise ValueError(
                "adversarial_weight must not be negative and discriminator_noise lies in [0, 1), got"
                f" {self.adversarial_weight} and {self.discriminator_noise}"
            )
        self._refuse_streams_that_cannot_be()
        self._refuse_rollout_keys_without_a_rollout()

    def _refuse_streams_that_cannot_be(self) -> None:
        if not 0.0 <= self.stream_share < 1.0 or self.truth_weight < 0.0:
            raise ValueError(
                "stream_share must lie in [0, 1) and truth_weight must not be negative, got"
                f" {self.stream_share} and {self.truth_weight}"
            )
        if not 0.0 <= self.stream_onward <= 1.0 or (self.stream_onward and not self.stream_share):
            raise ValueError(
                "stream_onward is a share of the ends of streams, in [0, 1], and needs stream_share;"
                f" got {self.stream_onward} and {self.stream_share}"
            )
        if not 0.0 <= self.spread_share <= 1.0 or (self.spread_share and not self.stream_share):
            raise ValueError(
                "spread_share lies in [0, 1] and needs stream_share; got"
                f" {self.spread_share} and {self.stream_share}"
            )
        if not 0.0 <= self.given_share <= 1.0 or not 0.0 <= self.given_noise < 1.0:
            raise ValueError(
                "given_share lies in [0, 1] and given_noise in [0, 1), got"
                f" {self.given_share} and {self.given_noise}"
            )
        if self.given_share and not (self.known_frames or self.stream_share):
            raise ValueError("given_share needs frames that are there: known_frames or stream_share")
        if self.spread_share and self.spread_frames <= (self.scored_frames or self.spread_frames):
            raise ValueError(
                f"spread_frames {self.spread_frames} must be more than scored_frames"
                f" {self.scored_frames}"
            )
        if self.stream_walks is not None and not self.stream_onward:
            raise ValueError("stream_walks say how streams go on; they need stream_onward")

    def _refuse_rollout_keys_without_a_rollout(self) -> None:
        names = [field.name for field in fields(self)]
        of_rollouts = names[names.index("known_frames") :]
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in of_rollouts if getattr(self, name) != defaults[name]]
        if self.history != "self" and changed:
            raise ValueError(f"history: {self.history} has no rollout; drop {', '.join(changed)}")

    @property
    def causal_scores(self) -> bool:
        """Whether teacher and critic see the true frames before each frame, or the whole clip."""
        return self.history == "clean"
