"""What training reports as it goes: `log.jsonl` always, tensorboard where a stage asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TrainingLog:
    """Rows of numbers by step, appended to the files of a run folder."""

    def __init__(self, out: Path, *, tensorboard: bool) -> None:
        """Raises ValueError if tensorboard is wanted and not installed."""
        self._path = out / "log.jsonl"
        self._writer = _writer(out / "tensorboard") if tensorboard else None

    def write(self, step: int, row: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard: true needs the package: pip install -e '.[train]', or set it to false"
        ) from error
    return SummaryWriter(str(folder))
