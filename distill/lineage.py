"""Which run may begin or teach which stage: no bidirectional network teaches a causal one to continue.

A run folder says in its `report.json` what trained it. A playable model is a causal network. Weights
without either are taken as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from distill.matching_config import DistributionMatchingConfig
from distill.objectives import ConsistencyConfig, FlowMatchingConfig
from distill.reconstruction import ReconstructionConfig
from distill.regression import EndpointRegressionConfig

ObjectiveConfig = (
    ReconstructionConfig
    | FlowMatchingConfig
    | EndpointRegressionConfig
    | ConsistencyConfig
    | DistributionMatchingConfig
)
History = Literal["full", "clean", "noisy", "self"]
Direction = Literal["causal", "bidirectional"]


def history_of(objective: ObjectiveConfig) -> History:
    """What the student of a stage sees besides its own frame."""
    if isinstance(objective, ReconstructionConfig):
        return "full"
    if isinstance(objective, ConsistencyConfig):
        return "clean"
    return objective.history


def teacher_of(objective: ObjectiveConfig) -> Direction | None:
    """The kind of teacher a stage needs, if any."""
    if isinstance(objective, ConsistencyConfig):
        return "causal"
    if isinstance(objective, DistributionMatchingConfig):
        return "causal" if objective.causal_scores else "bidirectional"
    return None


def needs_worse_teacher(objective: ObjectiveConfig) -> bool:
    """Whether the teacher is guided away from another one."""
    return isinstance(objective, DistributionMatchingConfig) and objective.autoguidance > 1.0


def check(
    objective: ObjectiveConfig,
    init: Path | None,
    teacher: Path | None,
    worse_teacher: Path | None = None,
) -> None:
    """Refuse a stage that would begin or learn from a run of the wrong kind.

    Raises:
        ValueError: naming the run folder, what it is and what is needed.
    """
    if isinstance(objective, ReconstructionConfig) and objective.part != "all" and init is None:
        raise ValueError(
            f"part: {objective.part} keeps the latents of --init, an autoencoder's folder"
        )
    needed = teacher_of(objective)
    if teacher is not None and needed is not None:
        check_direction(teacher, needed, "--teacher")
    if worse_teacher is not None and needed is not None:
        check_direction(worse_teacher, needed, "--worse-teacher")
    if needs_worse_teacher(objective) and worse_teacher is None:
        raise ValueError(
            "objective.autoguidance needs --worse-teacher: the run folder of a stage 0 that was trained"
            " for a shorter time"
        )
    if init is not None and needed is not None and history_of(objective) != "noisy":
        check_direction(init, "causal", "--init")


def check_direction(run: Path, needed: Direction, argument: str) -> None:
    """Raises ValueError, naming `argument`, if `run` sees its history another way."""
    if (run / "model.yaml").is_file() and needed == "bidirectional":
        raise ValueError(
            f"{argument} {run}: a playable model is a causal network, but a bidirectional one is"
            " needed: the run folder of stage 0"
        )
    trained = _objective(run)
    if trained is None or trained["kind"] == "reconstruction":  # loading says what is missing there
        return
    full = trained["kind"] == "flow_matching" and trained["history"] == "full"
    found = "bidirectional" if full else "causal"
    if found != needed:
        stage = "0" if needed == "bidirectional" else "1"
        raise ValueError(
            f"{argument} {run}: a {found} network ({trained['kind']}), but a {needed} one is needed:"
            f" the run folder of stage {stage}"
        )


def _objective(run: Path) -> dict[str, Any] | None:
    path = run / "report.json"
    if not path.is_file():
        return None
    try:
        objective: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["stage"][
            "objective"
        ]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path}: not the report of a run") from error
    return objective
