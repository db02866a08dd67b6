"""Several evaluations as one table, each beside the first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.report import table

Tree = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the comparison."""

    label: str
    path: tuple[str, ...]  # keys down to a number, or to numbers by horizon
    unit: str = ""


MEASURES = (
    Measure("PSNR", ("psnr_db",), "dB"),
    Measure("above repeating the last true frame", ("psnr_margin_db",), "dB"),
    Measure("SSIM", ("ssim",)),
    Measure("perceptual distance", ("perceptual",)),
    Measure("gradient energy, of truth's", ("gradient_energy_ratio",)),
    Measure("colour drift", ("colour_drift",)),
    Measure("colour variance drift", ("colour_variance_drift",)),
    Measure("motion, of truth's", ("motion_ratio",)),
    Measure("camera rotation error", ("camera_rotation_error_deg",), "degrees"),
    Measure("camera direction error", ("camera_direction_error_deg",), "degrees"),
    Measure("Fréchet distance", ("frechet_distance",)),
    Measure("still camera, PSNR to its first frame", ("still", "psnr_to_first_db"), "dB"),
    Measure("recognised after a full turn, share", ("returning", "full turn", "recognised")),
    Measure("recognised after out and back, share", ("returning", "out and back", "recognised")),
    Measure("Fréchet distance of frames straight ahead", ("ahead", "frame_frechet")),
    Measure("changed prompt seen, share", ("prompt_change_visible",)),
    Measure("walks that collapsed", ("long_play", "collapse", "collapsed_walks")),
    Measure("autoencoder PSNR", ("autoencoder_psnr_db",), "dB"),
    Measure("autoencoder gradient energy, of truth's", ("autoencoder_gradient_energy_ratio",)),
    Measure("autoencoder checkerboard, of truth's", ("autoencoder_checkerboard_ratio",)),
)  # fmt: skip
BY_SAMPLER = (  # column, key of the row, horizon, form
    ("PSNR h1", "psnr_db", "1", "{:.1f}"),
    ("h8", "psnr_db", "8", "{:.1f}"),
    ("h32", "psnr_db", "32", "{:.1f}"),
    ("above repeating h8", "psnr_margin_db", "8", "{:+.1f}"),
    ("h32", "psnr_margin_db", "32", "{:+.1f}"),
    ("SSIM h8", "ssim", "8", "{:.3f}"),
    ("perceptual h8", "perceptual", "8", "{:.3f}"),
    ("gradient energy h32", "gradient_energy_ratio", "32", "{:.2f}"),
    ("h128", "gradient_energy_ratio", "128", "{:.2f}"),
    ("motion", "motion_ratio", "", "{:.2f}"),
    ("Fréchet", "frechet", "", "{:.2f}"),
    ("rotation error, degrees", "rotation_error_deg", "", "{:.2f}"),
    ("heading error", "heading_error_deg", "", "{:.1f}"),
)
SAME = ("worlds", "context_frames", "seed")
RULED = ("perceptual distance", "Fréchet distance")


def load_evaluation(path: Path) -> dict[str, Any]:
    """Read what `python -m distill evaluate` wrote.

    Raises:
        ValueError: if the file is missing, no JSON, or no evaluation.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `python -m distill evaluate` writes one")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict) or not {"model", "rows", "psnr_db", "steps"} <= found.keys():
        raise ValueError(f"{path}: not an evaluation of this version; evaluate the model again")
    return found


def compare(evaluations: Mapping[str, Tree]) -> str:
    """Markdown: numbers of the first evaluation, then of each other with its difference to them."""
    first, *others = evaluations.values()
    head = ["", *(f"{name} ({found['steps']} steps)" for name, found in evaluations.items())]
    body = []
    for measure in MEASURES:
        found = [_numbers(evaluation, measure.path) for evaluation in evaluations.values()]
        for moment in dict.fromkeys(m for numbers in found for m in numbers):
            values = [numbers.get(moment) for numbers in found]
            body.append([_label(measure, moment), *_cells(values)])
    return "\n".join(
        [
            "# Evaluations compared",
            "",
            "In brackets the difference from the first column.",
            "",
            *table(head, body),
            "",
            *_circumstances(evaluations),
            *_cautions(first, others),
        ]
    )


def compare_samplers(evaluations: Mapping[str, Tree]) -> str:
    """Markdown: a line for each model and number of steps, as ablations are read."""
    body = []
    for name, found in evaluations.items():
        for sampler, row in found["rows"].items():
            if sampler[0].isdigit():
                row = {**row, **found["camera"][sampler]}
                body.append([name, sampler, *(_cell(row, *what) for _, *what in BY_SAMPLER)])
    first, *others = evaluations.values()
    head = ["", "steps", *(column for column, *_ in BY_SAMPLER)]
    return "\n".join(
        [
            "# Models and steps compared",
            "",
            *table(head, body),
            "",
            *_circumstances(evaluations),
            *_cautions(first, others),
        ]
    )


def _cell(row: Tree, key: str, horizon: str, form: str) -> str:
    found = _numbers(row, (key,))
    return form.format(found[horizon]) if horizon in found else ""


def _numbers(evaluation: Tree, path: Sequence[str]) -> dict[str, float]:
    """The numbers at `path`, by horizon; a lone number has the empty horizon; missing: none."""
    found: Any = evaluation
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return {}
        found = found[key]
    if isinstance(found, Mapping):
        return {str(moment): float(value) for moment, value in found.items()}
    return {} if found is None else {"": float(found)}


def _label(measure: Measure, moment: str) -> str:
    frame = f" at frame {moment}" if moment else ""
    return measure.label + frame + (f", {measure.unit}" if measure.unit else "")


def _cells(values: Sequence[float | None]) -> list[str]:
    base = values[0]
    cells = ["" if base is None else f"{base:g}"]
    for value in values[1:]:
        if value is None:
            cells.append("")
        elif base is None:
            cells.append(f"{value:g}")
        else:
            cells.append(f"{value:g} ({value - base:+.3g})")
    return cells


def _circumstances(evaluations: Mapping[str, Tree]) -> list[str]:
    """How each was measured; those measured alike share a line."""
    alike: dict[str, list[str]] = {}
    for name, found in evaluations.items():
        how = (
            f"model {found['model']}, commit {found['commit']}, {found['device']},"
            f" {found['worlds']} worlds, {found['context_frames']} true frames, seed {found['seed']},"
            f" told the words {found.get('words', 'of no clip')}"  # older ones told none
        )
        alike.setdefault(how, []).append(name)
    return [f"- {', '.join(names)}: {how}" for how, names in alike.items()]


def _cautions(first: Tree, others: Sequence[Tree]) -> list[str]:
    """What makes columns differ that is not the model."""
    lines = [
        f"- Not alike: {key}. Differences may come from that."
        for key in SAME
        if any(other[key] != first[key] for other in others)
    ]
    if any(other["ruler"]["digest"] != first["ruler"]["digest"] for other in others):
        lines.append(
            f"- Measured by other rulers: {' and '.join(RULED)} do not compare; evaluate all with"
            " one --ruler."
        )
    return lines


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name for each file: its stem, or its folder's where stems are alike."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    parents = [path.resolve().parent.name.removesuffix("-evaluation") for path in paths]
    return parents if len(set(parents)) == len(parents) else [str(path) for path in paths]
