"""What several initialisations of stage 3 cost, and what they lead to: the paper's table 2.

Every number is a mean over held-out worlds. All students are measured on the same ones, so a difference
of two is taken world by world, and its interval comes from drawing the worlds again (Efron 1979, the
percentile bootstrap). It says how much other worlds might change it; what another training run of the
same settings would change, it does not say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from distill.evaluate import steps_name
from distill.result import write_atomically, write_result

Values = NDArray[np.float64]  # [worlds], NaN where nothing is to be predicted

RESAMPLES = 4000
SEED = 20261122
ALIKE = ("worlds", "context_frames", "seed", "ruler")
LABEL_PX = 14  # height of what is written above a line of frames


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConfig:
    """An initialisation. Names are those of a pipeline's steps, which are folders."""

    name: str
    cost: tuple[str, ...] = ()  # the trajectories and training that made it
    before: str | None = None  # margins without stage 3
    after: tuple[str, ...] = ()  # margins after stage 3, a step for each number of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """`configs/table/*.yaml`."""

    reference: str  # the row that all others are compared with
    steps: tuple[int, ...]
    near: int  # horizons, frames after the last true one
    far: int
    rows: tuple[RowConfig, ...]

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names) or self.reference not in names:
            raise ValueError(f"rows must differ and one be {self.reference!r}, got {names}")

    @property
    def reads(self) -> tuple[str, ...]:
        """All folders, each once."""
        parts = (
            (*row.cost, *row.after, *([] if row.before is None else [row.before]))
            for row in self.rows
        )
        return tuple(dict.fromkeys(chain.from_iterable(parts)))


@dataclass(frozen=True, slots=True)
class Student:
    """One student with one number of steps, world by world."""

    near: Values  # PSNR above repeating the last true frame, dB
    far: Values
    seen: Values  # perceptual distance to the truth at the far horizon
    energy: Values  # gradient energy at the far horizon; their mean is the ratio to the truth's


MEASURES = ("near", "far", "seen", "energy")
Students = dict[int, Student]  # by number of steps


@dataclass(frozen=True, slots=True)
class Table:
    config: TableConfig
    before: dict[str, Students]  # by row
    after: dict[str, Students]
    costs: dict[str, dict[str, Any]]
    circumstances: dict[str, Any]
    absent: list[str]  # folders without a result


def write_table(config: TableConfig, runs: Path, out: Path) -> str:
    """Write `out` (Markdown), a JSON and a JPG of the same name; returns the page.

    What has not been made is left out, and named.

    Raises:
        ValueError: if nothing was measured, or students were measured on other worlds.
    """
    table = read_table(config, runs)
    text = page(table)
    lines = list(_lines(config, runs))
    if lines:  # a folder may have come from elsewhere with its numbers only
        sheet(lines).save(out.with_suffix(".jpg"), quality=85)
    write_result(as_numbers(table), out.with_suffix(".json"))
    write_atomically(text + "\n", out)
    return text


def read_table(config: TableConfig, runs: Path) -> Table:
    """Everything that lies in the folder of a pipeline."""
    found = {name: _margins(runs / name) for name in config.reads}
    measured = {name: numbers for name, numbers in found.items() if numbers is not None}
    if not measured:
        raise ValueError(f"{runs}: no margins.json of any step that the table reads")
    (first_name, first), *others = measured.items()
    for name, numbers in others:
        same = all(numbers[key] == first[key] for key in ALIKE)
        if not same or not _equal(numbers["repeated"], first["repeated"]):
            raise ValueError(f"{runs / name}: measured on other worlds than {first_name}")
    before, after = {}, {}
    for row in config.rows:
        before[row.name] = _students(config, measured, [row.before] if row.before else [])
        after[row.name] = _students(config, measured, row.after)
    costs = {row.name: _cost(row, runs) for row in config.rows}
    made = {name for name in config.reads if name in measured or _facts(runs / name)}
    kept = ("model", "commit", "device", "dtype", "torch", *ALIKE)
    circumstances = {key: first[key] for key in kept}
    absent = [name for name in config.reads if name not in made]
    return Table(config, before, after, costs, circumstances, absent)


def _margins(folder: Path) -> dict[str, Any] | None:
    return _json(folder / "margins.json")


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    return found


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Of numbers that were rounded on different machines."""
    ours, theirs = (
        [_array(values) for key in sorted(x) for _, values in sorted(x[key].items())]
        for x in (a, b)
    )
    shapes = [x.shape for x in ours] == [x.shape for x in theirs]
    return shapes and all(
        np.allclose(x, y, atol=0.02, equal_nan=True) for x, y in zip(ours, theirs, strict=True)
    )


def _array(values: Sequence[float | None]) -> Values:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _students(
    config: TableConfig, measured: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Students:
    students: Students = {}
    for name in names:
        if name not in measured:
            continue
        rows, repeated = measured[name]["rows"], measured[name]["repeated"]["psnr_db"]
        for steps, row in rows.items():
            margins = {h: _array(x) - _array(repeated[h]) for h, x in row["psnr_db"].items()}
            near, far = str(config.near), str(config.far)
            if not {near, far} <= margins.keys():
                raise ValueError(f"{name}: not measured at horizons {near} and {far}")
            seen, energy = (
                _array(row[key][far]) for key in ("perceptual", "gradient_energy_ratio")
            )
            students[int(steps)] = Student(margins[near], margins[far], seen, energy)
    return students


def _facts(folder: Path) -> dict[str, Any] | None:
    """What a training's report or the manifest of trajectories says."""
    return _json(folder / "report.json") or _json(folder / "manifest.json")


def _cost(row: RowConfig, runs: Path) -> dict[str, Any]:
    """Seconds of one GPU and bytes beyond the clips. Seconds are None if a part is missing."""
    cost: dict[str, Any] = {"curation_s": 0.0, "training_s": 0.0, "extra_bytes": 0}
    cost |= {"curation_at_speed_s": 0.0, "training_at_speed_s": 0.0, "steps": 0}
    for name in row.cost:
        facts = _facts(runs / name)
        if facts is None:
            return dict.fromkeys(cost)
        part = "curation" if "extra_bytes" in facts else "training"
        gpus = facts.get("processes", 1)
        cost[f"{part}_s"] += facts["seconds"] * gpus
        fast = facts.get("seconds_at_speed")
        known = fast is not None and cost[f"{part}_at_speed_s"] is not None
        cost[f"{part}_at_speed_s"] = cost[f"{part}_at_speed_s"] + fast * gpus if known else None
        cost["extra_bytes"] += facts.get("extra_bytes", 0)
        cost["steps"] += facts.get("steps", 0)
    return cost


def difference(a: Values, b: Values, draws: NDArray[np.int64]) -> tuple[float, float, float]:
    """Mean of a - b over worlds, and the 95 % interval of it over worlds drawn again [n worlds]."""
    apart = a - b
    drawn = apart[draws]
    with np.errstate(invalid="ignore"):
        low, high = np.nanpercentile(np.nanmean(drawn, axis=1), [2.5, 97.5])
    return float(np.nanmean(apart)), float(low), float(high)


def drawn_worlds(worlds: int) -> NDArray[np.int64]:
    """Numbers of worlds, drawn with replacement: [RESAMPLES worlds]."""
    return np.random.default_rng(SEED).integers(worlds, size=(RESAMPLES, worlds))


def page(table: Table) -> str:
    """Markdown."""
    config, how = table.config, table.circumstances
    head = [
        f"{steps_name(steps)}: h{config.near}, dB | h{config.far}, dB | seen | energy"
        for steps in config.steps
    ]
    lines = [
        "# What stage 3 begins with",
        "",
        f"{how['worlds']} held-out worlds, {how['context_frames']} true frames, {how['device']},"
        f" {how['dtype']}, torch {how['torch']}, commit {how['commit']}, seed {how['seed']}. dB: PSNR"
        f" above repeating the last true frame, {config.near} and {config.far} frames after it."
        f" The others at {config.far}. Seen: perceptual distance to the truth (0: equal). Energy:"
        " gradient energy of the picture, of the truth's (1: as sharp; a blurry picture wins in PSNR).",
    ]
    for title, group in (("After stage 3", table.after), ("Stage 2 alone", table.before)):
        rows = {name: students for name, students in group.items() if students}
        if not rows:
            continue
        lines += ["", f"## {title}", "", *_grid(["", *head], _cells(config, rows))]
        if config.reference in rows and len(rows) > 1:
            lines += [
                "",
                f"Difference from {config.reference} with as many steps, and its 95 % interval over"
                " worlds; bold where that leaves out 0:",
                "",
                *_grid(["", *head], _differences(config, rows, how["worlds"])),
            ]
    lines += ["", "## What the initialisation costs", "", *_costs(table)]
    if table.absent:
        lines += ["", f"Not there: {', '.join(table.absent)}."]
    return "\n".join(lines)


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; a head may stand for several columns, divided by |."""
    columns = " | ".join(head).count("|") + 1
    rows = [" | ".join(head), " | ".join(["---"] * columns), *(" | ".join(row) for row in body)]
    return [f"| {row} |" for row in rows]


def _cells(config: TableConfig, rows: Mapping[str, Students]) -> list[list[str]]:
    body = []
    for name, students in rows.items():
        cells = [name]
        for steps in config.steps:
            student = students.get(steps)
            if student is None:
                cells += [""] * len(MEASURES)
                continue
            near, far, seen, energy = (float(np.nanmean(getattr(student, k))) for k in MEASURES)
            cells += [f"{near:+.2f}", f"{far:+.2f}", f"{seen:.3f}", f"{energy:.2f}"]
        body.append(cells)
    return body


def _differences(config: TableConfig, rows: Mapping[str, Students], worlds: int) -> list[list[str]]:
    draws = drawn_worlds(worlds)
    body = []
    for name, students in rows.items():
        if name == config.reference:
            continue
        cells = [name]
        for steps in config.steps:
            found = _apart(students.get(steps), rows[config.reference].get(steps), draws)
            for key, (value, low, high) in found.items():
                digits = 3 if key == "seen" else 2
                text = f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
                cells.append(f"**{text}**" if low * high > 0 else text)
            cells += [""] * (len(MEASURES) - len(found))
        body.append(cells)
    return body


def _apart(
    student: Student | None, reference: Student | None, draws: NDArray[np.int64]
) -> dict[str, tuple[float, float, float]]:
    """By measure; nothing if one of the two was not measured."""
    if student is None or reference is None:
        return {}
    return {
        key: difference(getattr(student, key), getattr(reference, key), draws) for key in MEASURES
    }


def _costs(table: Table) -> list[str]:
    reference = _together(table.costs[table.config.reference])
    body = []
    for row in table.config.rows:
        cost = table.costs[row.name]
        both = _together(cost)
        share = f"{both / reference:.1f}" if both is not None and reference else ""
        seconds = [
            _seconds(cost[f"{part}_{kind}"])
            for kind in ("at_speed_s", "s")
            for part in ("curation", "training")
        ]
        stored = cost["extra_bytes"]
        bytes_text = "" if stored is None else f"{stored / 1e9:.2f}" if stored else "0"
        body.append([row.name, *seconds[:2], _seconds(both), share, *seconds[2:], bytes_text])
    head = [
        "",
        "curation, GPU-s",
        "training, GPU-s",
        "together",
        f"of {table.config.reference}'s",
        "curation with compilation, s",
        "training with compilation, s",
        "extra GB",
    ]
    return _grid(head, body)


def _together(cost: Mapping[str, Any]) -> float | None:
    parts = (cost["curation_at_speed_s"], cost["training_at_speed_s"])
    return None if None in parts else float(sum(parts))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def as_numbers(table: Table) -> dict[str, Any]:
    """The page as JSON, with the numbers of every world."""
    config = table.config
    draws = drawn_worlds(table.circumstances["worlds"])
    return {
        **table.circumstances,
        "reference": config.reference,
        "horizons": {"near": config.near, "far": config.far},
        "resamples": RESAMPLES,
        "after_stage_3": _group(table.after, config, draws),
        "stage_2_alone": _group(table.before, config, draws),
        "cost": table.costs,
        "absent": table.absent,
    }


def _group(
    group: Mapping[str, Students], config: TableConfig, draws: NDArray[np.int64]
) -> dict[str, Any]:
    reference = group[config.reference]
    return {
        name: {
            str(steps): {
                **{key: _mean(getattr(student, key)) for key in MEASURES},
                "difference": {
                    key: [round(x, 3) for x in three]
                    for key, three in _apart(student, reference.get(steps), draws).items()
                },
                "by_world": {key: _listed(getattr(student, key)) for key in MEASURES},
            }
            for steps, student in sorted(students.items())
        }
        for name, students in group.items()
    }


def _mean(values: Values) -> float:
    return round(float(np.nanmean(values)), 3)


def _listed(values: Values) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 3) for x in values]


def sheet(lines: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Labelled lines of frames below each other."""
    width = max(picture.width for _, picture in lines)
    height = sum(picture.height + LABEL_PX for _, picture in lines)
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    for label, picture in lines:
        ImageDraw.Draw(canvas).text((4, top + 1), label, "black")
        canvas.paste(picture, (0, top + LABEL_PX))
        top += LABEL_PX + picture.height
    return canvas


def _lines(config: TableConfig, runs: Path) -> Iterator[tuple[str, Image.Image]]:
    """A line of frames for every student that has one, the truth above all."""
    named = [(row.name, name) for row in config.rows for name in row.after]
    named += [(f"{row.name}, stage 2 alone", row.before) for row in config.rows if row.before]
    truth_shown = False
    for label, name in named:
        numbers, path = _margins(runs / name), runs / name / "margins.png"
        if numbers is None or not path.is_file():
            continue
        picture = Image.open(path).convert("RGB")
        height = picture.height // (1 + len(numbers["rows"]))
        if not truth_shown:
            truth_shown = True
            yield "truth", picture.crop((0, 0, picture.width, height))
        for nth, steps in enumerate(numbers["rows"], 1):
            box = (0, nth * height, picture.width, (nth + 1) * height)
            yield f"{label}, {steps_name(int(steps))}", picture.crop(box)
