"""What a pipeline is: a YAML list of steps, each a command of `python -m distill`.

A step names the earlier steps whose folders it reads. `pipeline.py` runs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

from distill.render import RenderConfig
from distill.stages import StageConfig
from distill.table import TableConfig
from distill.trajectories import TrajectoriesConfig
from worldmodel import config as strict
from worldmodel.checkpoint import PlayableConfig

Place = Callable[[str], str]  # name of a step -> its folder


@dataclass(frozen=True, kw_only=True)
class ClipsStep:
    """Clips that are there already: imported ones."""

    kind: Literal["clips"]
    name: str
    path: Path

    settings: ClassVar[None] = None
    done: ClassVar[str] = "manifest.json"
    reads: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class ModelStep:
    """A playable model that is there already: what fine-tuning begins with."""

    kind: Literal["model"]
    name: str
    path: Path

    settings: ClassVar[None] = None
    done: ClassVar[str] = "model.yaml"
    reads: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class WeightsStep:
    """Weights that are there already: the run folder of a stage, or its shards alone."""

    kind: Literal["weights"]
    name: str
    path: Path

    settings: ClassVar[None] = None
    reads: ClassVar[tuple[str, ...]] = ()

    @property
    def done(self) -> str:
        shards = sorted(path.name for path in self.path.glob("*-1-of-*.safetensors"))
        return shards[0] if shards else "*-1-of-*.safetensors"


@dataclass(frozen=True, kw_only=True)
class RenderStep:
    kind: Literal["render"]
    name: str
    config: Path
    overrides: tuple[str, ...] = ()

    settings: ClassVar[type[Any]] = RenderConfig
    done: ClassVar[str] = "manifest.json"  # the file that a finished command leaves last
    reads: ClassVar[tuple[str, ...]] = ()

    def arguments(self, _at: Place) -> list[str]:
        return [str(self.config), *self.overrides]


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    kind: Literal["train"]
    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    data: str
    init: str | None = None
    teacher: str | None = None
    worse_teacher: str | None = None  # what objective.autoguidance leads away from
    autoencoder: str | None = None  # to show samples with
    only_if_read: bool = False  # leave it out if no other step reads it

    settings: ClassVar[type[Any]] = StageConfig
    done: ClassVar[str] = "report.json"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.data, *self._others.values())

    @property
    def _others(self) -> dict[str, str]:
        named = {
            "init": self.init,
            "teacher": self.teacher,
            "worse-teacher": self.worse_teacher,
            "autoencoder": self.autoencoder,
        }
        return {key: name for key, name in named.items() if name is not None}

    def arguments(self, at: Place) -> list[str]:
        words = [str(self.config), *self.overrides, "--data", at(self.data)]
        for key, name in self._others.items():
            words += [f"--{key}", at(name)]
        return words


@dataclass(frozen=True, kw_only=True)
class EncodeStep:
    kind: Literal["encode"]
    name: str
    data: str
    autoencoder: str

    settings: ClassVar[None] = None
    done: ClassVar[str] = "manifest.json"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.data, self.autoencoder

    def arguments(self, at: Place) -> list[str]:
        return [at(self.data), "--autoencoder", at(self.autoencoder)]


@dataclass(frozen=True, kw_only=True)
class TrajectoriesStep:
    kind: Literal["trajectories"]
    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    data: str
    teacher: str

    settings: ClassVar[type[Any]] = TrajectoriesConfig
    done: ClassVar[str] = "manifest.json"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.data, self.teacher

    def arguments(self, at: Place) -> list[str]:
        places = ["--data", at(self.data), "--teacher", at(self.teacher)]
        return [str(self.config), *self.overrides, *places]


@dataclass(frozen=True, kw_only=True)
class ExportStep:
    kind: Literal["export"]
    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    autoencoder: str
    transformer: str
    averaged_with: tuple[str, ...] = ()  # more transformers; the model is the mean of all
    upscaler: str | None = None  # what draws frames larger
    data: str | None = None  # what lens, rate, limits, licence, starts and card are taken from

    settings: ClassVar[type[Any]] = PlayableConfig
    done: ClassVar[str] = "model.yaml"

    @property
    def reads(self) -> tuple[str, ...]:
        more = (name for name in (self.upscaler, self.data) if name is not None)
        return self.autoencoder, self.transformer, *self.averaged_with, *more

    def arguments(self, at: Place) -> list[str]:
        parts = ["--autoencoder", at(self.autoencoder), "--transformer", at(self.transformer)]
        parts += [word for name in self.averaged_with for word in ("--averaged-with", at(name))]
        parts += [] if self.upscaler is None else ["--upscaler", at(self.upscaler)]
        parts += [] if self.data is None else ["--data", at(self.data)]
        return [str(self.config), *self.overrides, *parts, "--overwrite"]


@dataclass(frozen=True, kw_only=True)
class EvaluateStep:
    kind: Literal["evaluate"]
    name: str  # a folder; the results are its evaluation.json
    model: str
    data: str
    ruler: str | None = None  # the model whose features measure; none: its own
    options: tuple[str, ...] = ()  # further arguments, as on the command line

    settings: ClassVar[None] = None
    done: ClassVar[str] = "evaluation.json"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.model, self.data, *(() if self.ruler is None else (self.ruler,)))

    def arguments(self, at: Place) -> list[str]:
        ruler = [] if self.ruler is None else ["--ruler", at(self.ruler)]
        return [at(self.model), "--data", at(self.data), *ruler, *self.options, "--overwrite"]


@dataclass(frozen=True, kw_only=True)
class MarginsStep:
    """How far a student is above repeating the last true frame, world by world."""

    kind: Literal["margins"]
    name: str  # a folder; the results are its margins.json
    config: Path  # how it is played, as for an export
    overrides: tuple[str, ...] = ()
    autoencoder: str
    transformer: str
    data: str
    options: tuple[str, ...] = ()  # further arguments, as on the command line

    settings: ClassVar[type[Any]] = PlayableConfig
    done: ClassVar[str] = "margins.json"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.autoencoder, self.transformer, self.data

    def arguments(self, at: Place) -> list[str]:
        parts = ["--autoencoder", at(self.autoencoder), "--transformer", at(self.transformer)]
        places = [*parts, "--data", at(self.data)]
        return [str(self.config), *self.overrides, *places, *self.options, "--overwrite"]


@dataclass(frozen=True, kw_only=True)
class TableStep:
    """What several initialisations cost and lead to."""

    kind: Literal["table"]
    name: str  # a folder; the page is its table.md
    config: Path
    overrides: tuple[str, ...] = ()

    settings: ClassVar[type[Any]] = TableConfig
    done: ClassVar[str] = "table.md"

    @property
    def reads(self) -> tuple[str, ...]:
        table: TableConfig = strict.load(self.config, TableConfig, self.overrides)
        return table.reads

    def arguments(self, at: Place) -> list[str]:
        runs = str(Path(at(self.name)).parent)
        return [str(self.config), *self.overrides, "--runs", runs, "--overwrite"]


@dataclass(frozen=True, kw_only=True)
class CompareStep:
    kind: Literal["compare"]
    name: str  # a folder; the table is its comparison.md
    evaluations: tuple[str, ...]
    options: tuple[str, ...] = ()

    settings: ClassVar[None] = None
    done: ClassVar[str] = "comparison.md"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.evaluations

    def arguments(self, at: Place) -> list[str]:
        files = [f"{at(name)}/{EvaluateStep.done}" for name in self.evaluations]
        return [*files, *self.options, "--overwrite"]


Given = ClipsStep | ModelStep | WeightsStep  # nobody makes these
Step = (
    Given
    | RenderStep
    | TrainStep
    | EncodeStep
    | TrajectoriesStep
    | ExportStep
    | EvaluateStep
    | MarginsStep
    | CompareStep
    | TableStep
)


@dataclass(frozen=True, kw_only=True)
class Each:
    """The same steps for every combination of some words, which stand in braces in their texts."""

    kind: Literal["each"]
    of: dict[str, tuple[str, ...]]
    steps: tuple[Step, ...]

    def combinations(self) -> Iterator[dict[str, str]]:
        for words in product(*self.of.values()):
            yield dict(zip(self.of, words, strict=True))


def _written_out(step: Step, named: Mapping[str, Any]) -> Step:
    plain = _filled(strict.to_plain(step), named)
    return strict.build(plain, type(step), f"step {plain['name']!r}")


def _filled(value: Any, named: Mapping[str, Any]) -> Any:
    """`value` with every {word} of its texts replaced.

    Raises:
        ValueError: if a text has another word in braces.
    """
    if isinstance(value, dict):
        return {key: _filled(inner, named) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, named) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        return value.format_map(named)
    except KeyError as error:
        raise ValueError(f"{value!r}: neither `words` nor `of` has {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """`configs/pipeline/*.yaml`."""

    steps: tuple[Step | Each, ...]
    words: dict[str, Any] = field(default_factory=dict)  # stand in braces in the texts of steps

    def all_steps(self) -> list[Step]:
        """In order, with every `each` and all words written out."""
        written: list[Step] = []
        for step in self.steps:
            if isinstance(step, Each):
                for named in step.combinations():
                    written += [_written_out(inner, self.words | named) for inner in step.steps]
            else:
                written.append(_written_out(step, self.words))
        return written

    def __post_init__(self) -> None:
        known: set[str] = set()
        for step in self.all_steps():
            if not re.fullmatch(r"[\w.-]*\w", step.name):
                raise ValueError(
                    f"step {step.name!r}: a name is a folder's: letters, digits, - _ ."
                )
            if step.name in known:
                raise ValueError(f"two steps are called {step.name!r}")
            for name in step.reads:
                if name not in known:
                    raise ValueError(f"step {step.name!r} reads {name!r}, which is no earlier step")
            known.add(step.name)


def load_pipeline(path: Path, overrides: Sequence[str]) -> PipelineConfig:
    """A pipeline with what the command line says of its `words`: NAME=VALUE, or words.NAME=VALUE.

    Raises:
        ValueError: if there is no such word, or one without a default (null) is not said.
    """
    config = strict.load(path, PipelineConfig)
    words = dict(config.words)
    for override in overrides:
        name, equals, value = override.partition("=")
        name = name.removeprefix("words.")
        if not equals or name not in words:
            known = ", ".join(words) or "none"
            raise ValueError(f"{override!r}: expected NAME=VALUE; the words of {path} are {known}")
        words[name] = value
    missing = [f"{name}=..." for name, value in words.items() if value is None]
    if missing:
        raise ValueError(f"{path}: say {' '.join(missing)}")
    return replace(config, words=words)
