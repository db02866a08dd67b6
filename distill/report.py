"""An evaluation for people: a page with tables and plots, contact sheets and videos beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.evaluate import Extent, Model, Truth
from distill.pictures import write_pictures, write_videos
from distill.plots import line_plot
from distill.result import Evaluation, write_atomically, write_result

Result = Mapping[str, Any]
AGAINST_TRUTH = (
    ("psnr_db", "PSNR to the renderer's truth, dB", "{:.1f}"),
    ("psnr_margin_db", "PSNR above repeating the last true frame, dB", "{:+.1f}"),
    ("ssim", "SSIM", "{:.3f}"),
    ("perceptual", "Perceptual distance (0: equal)", "{:.3f}"),
    ("gradient_energy_ratio", "Gradient energy, of truth's", "{:.2f}"),
    ("colour_drift", "Relative difference of the mean colour", "{:.3f}"),
    ("colour_variance_drift", "Relative difference of the colour variance", "{:.3f}"),
)


def write_report(
    evaluation: Evaluation, model: Model, truth: Truth, extent: Extent, path: Path, *, videos: int
) -> None:
    """Write `path` (JSON); a page of the same name, sheets and videos of some walks beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(evaluation.numbers, path)
    played = evaluation.played
    sheets = write_pictures(model, truth, evaluation, extent, path)
    films = write_videos(model, played, videos, path)
    lines = [page(evaluation.numbers), "## Plots", ""]
    for name, svg in plots(evaluation.numbers).items():
        target = path.with_name(f"{path.stem}-{name}.svg")
        write_atomically(svg, target)
        lines += [f"![{name}]({target.name})", ""]
    lines += ["## Pictures", ""]
    for name, title in sheets.items():
        lines += [f"{title}:", "", f"![{title}]({name})", ""]
    if films:
        lines.append("Videos of walks: " + ", ".join(f"[{name}]({name})" for name in films))
    write_atomically("\n".join(lines) + "\n", path.with_suffix(".md"))


def plots(result: Result) -> dict[str, str]:
    """SVG pictures by name."""
    curve = result["long_play"]["curve"]

    def along(key: str) -> list[tuple[float, float]]:
        return list(zip(curve["frame"], curve[key], strict=True))

    def by_horizon(key: str) -> dict[str, list[tuple[float, float]]]:
        rows = result["rows"].items()
        return {name: [(float(h), value) for h, value in row[key].items()] for name, row in rows}

    walked = ("gradient_energy_ratio", "motion_ratio", "colour_drift", "colour_variance_drift")
    named = {key.replace("_", " "): along(key) for key in walked}
    frame = "frames after the last true one"
    asked = result["prompt_change"]
    change = {} if asked is None else {"prompts": _plot_of_change(asked["curve"])}
    return {
        "psnr": line_plot("PSNR to truth, dB", frame, by_horizon("psnr_db"), log_x=True),
        "sharpness": line_plot(
            "Gradient energy, of truth's", frame, by_horizon("gradient_energy_ratio"), log_x=True
        ),
        "long-play": line_plot("Self-generated walks against truth", frame, named),
        **change,
    }


def _plot_of_change(curve: Mapping[str, Sequence[float]]) -> str:
    lines = {
        name: [(float(frame), share) for frame, share in enumerate(shares, 1)]
        for name, shares in curve.items()
    }
    return line_plot("Walks judged as the new word", "frames after the change of prompt", lines)


def page(result: Result) -> str:
    """The evaluation as Markdown."""
    lines = [
        f"# Evaluation of {result['model']}",
        "",
        f"{result['worlds']} held-out worlds, {result['context_frames']} true context frames,"
        f" played with {result['steps']} steps, {result['device']}, {result['dtype']}, torch"
        f" {result['torch']}, commit {result['commit']}, seed {result['seed']}. Columns are frames"
        " after the last true one; clips whose camera has not moved by then are left out of PSNR,"
        f" SSIM and perceptual distance. The model was told the words {result['words']}.",
    ]
    for key, title, form in AGAINST_TRUTH:
        lines += ["", f"## {title}", "", *_by_horizon(result["rows"], key, form)]
    lines += ["", "## Camera", "", *_camera(result["camera"])]
    lines += ["", "## Over whole clips", "", *_over_clips(result)]
    lines += ["", "## Long play", "", *_long_play(result)]
    if result["prompt_change"] is not None:
        lines += ["", "## Changes of the prompt", "", *_prompt_change(result["prompt_change"])]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _by_horizon(rows: Mapping[str, Any], key: str, form: str) -> list[str]:
    horizons = list(dict.fromkeys(h for row in rows.values() for h in row[key]))
    body = [
        [name, *(form.format(row[key][h]) if h in row[key] else "" for h in horizons)]
        for name, row in rows.items()
    ]
    return table(["", *(f"h{h}" for h in horizons)], body)


CAMERA = (
    ("rotation_error_deg", "rotation, mean"),
    ("rotation_error_median_deg", "median"),
    ("heading_error_deg", "heading, mean"),
    ("heading_error_median_deg", "median"),
    ("direction_error_deg", "direction, mean"),
    ("direction_error_median_deg", "median"),
)


def _camera(rows: Mapping[str, Any]) -> list[str]:
    first = next(iter(rows.values()))
    body = [
        [
            name,
            *(f"{row[key]:.2f}" if key in row else "" for key, _ in CAMERA),
            f"{row['tracked']:.2f}",
        ]
        for name, row in rows.items()
    ]
    return [
        f"The motion seen in {first['pairs']} pairs of neighbouring frames against the commanded"
        " one, in degrees per frame, measured by tracked corners and epipolar geometry. The first"
        " row is what the measuring itself errs by in true frames. Direction of travel counts in"
        f" {first['pairs_with_direction']} pairs and heading, its part in the horizontal plane (a"
        f" commanded pose does not hold the ground), in {first['pairs_with_heading']}: those that"
        " move and whose true frames show enough parallax.",
        "",
        *table(["", *(label for _, label in CAMERA), "share of corners tracked"], body),
    ]


def _over_clips(result: Result) -> list[str]:
    keys = ("motion_ratio", "frechet")
    body = [
        [name, *(f"{row[key]:.2f}" if key in row else "" for key in keys)]
        for name, row in result["rows"].items()
    ]
    lines = table(["", "motion, of truth's", "Fréchet distance"], body)
    found, ruler = result["frechet"], result["ruler"]
    lines += [
        "",
        f"Perceptual and Fréchet distances are taken in the {ruler['network']} (digest"
        f" {ruler['digest']}), trained on {ruler['trained_on']}.",
    ]
    if found is None:
        return [*lines, "Too few clips for a Fréchet distance."]
    return [
        *lines,
        f"Fréchet: {found['clips']} clips of {found['frames_per_clip']} frames,"
        f" {found['numbers_per_clip']} numbers each; half of the true worlds against the other half"
        f" give {found['floor_of_true_halves']:.2f}.",
    ]


def _long_play(result: Result) -> list[str]:
    played, still = result["long_play"], result["still"]
    keys = (*played["asked"], "motion_ratio")
    moments = list(played[keys[0]])
    floor = played["floor"] or {}
    asked = {key: "{:g} to {:g}".format(*bounds) for key, bounds in played["asked"].items()}
    body = [
        [
            key.replace("_", " "),
            *(f"{played[key][m]:.3f}" for m in moments),
            f"{floor[key]:.3f}" if floor else "",
            asked.get(key, ""),
        ]
        for key in keys
    ]
    body.append(["collapsed walks", *(str(n) for n in played["collapsed_walks"].values()), "", ""])
    lines = [
        f"{played['walks']} self-generated walks of {played['frames']} frames, with"
        f" {played['steps']} steps; statistics of the last 50 frames before each moment against the"
        " true frames of the same worlds. Floor: the true clips' own last 50 frames.",
        "",
        *table(["", *(f"frame {m}" for m in moments), "floor", "asked"], body),
        "",
        f"After {played['collapse']['at_frame']} frames: {played['collapse']['statement']}"
        f" ({played['collapse']['rule']}).",
        "",
        f"A camera at rest for {still['frames']} frames (the model's own drift, `static_world` not"
        " used), PSNR in dB:",
        "",
    ]
    names = list(still["psnr_to_first_db"])
    rest = [
        [label, *(f"{still[key][n]:.1f}" for n in names)]
        for label, key in (
            ("to its first generated frame", "psnr_to_first_db"),
            ("to the true frame", "psnr_to_truth_db"),
        )
    ]
    return [
        *lines,
        *table(["", *(f"frame {n}" for n in names)], rest),
        "",
        *_ahead(result),
        *_returning(result),
    ]


def _ahead(result: Result) -> list[str]:
    found = result["ahead"]
    keys = [key for key, value in found.items() if isinstance(value, dict)]
    moments = list(found[keys[0]])
    body = [[key.replace("_", " "), *(f"{found[key][m]:.3f}" for m in moments)] for key in keys]
    return [
        f"Straight ahead in {found['walks']} worlds, with W held and {found['steps']} steps; the 64"
        " frames up to each moment against all true frames of the same worlds:",
        "",
        *table(["", *(f"frame {m}" for m in moments)], body),
        "",
    ]


def _returning(result: Result) -> list[str]:
    keys = ("frames", "psnr_to_start_db", "perceptual_to_start", "perceptual_to_other_worlds")
    found = result["returning"]
    body = [
        [name, *(f"{way[key]:g}" for key in keys), f"{way['recognised']:.0%}"]
        for name, way in found.items()
    ]
    chance = next(iter(found.values()))["by_chance"]
    head = ["", "frames", "PSNR to the start, dB", "perceptual", "to other worlds", "recognised"]
    return [
        "Ways that end where they began, from one true frame: the last frame against it. Recognised:"
        f" its own world's first frame is the nearest (by chance {chance:.0%}).",
        "",
        *table(head, body),
    ]


def _prompt_change(found: Mapping[str, Any]) -> list[str]:
    within = list(found["visible"])
    judge = found["judge"]
    columns = ("visible", "not_asked", "stays")
    body = [
        [
            head,
            str(row["walks"]),
            *(f"{row[key][n]:.0%}" for key in columns for n in within),
        ]
        for head, row in found["by_head"].items()
    ]
    titles = ("new word seen", "without the change", "old word seen without the change")
    words = [
        [word, str(row["walks"]), f"{row['visible']:.0%}"]
        for head in found["by_head"].values()
        for word, row in head["by_word"].items()
    ]
    seen = ", ".join(f"{share:.0%} by frame {n}" for n, share in found["visible"].items())
    return [
        f"In {found['walks']} walks the hour or the weather of the prompt changes after"
        f" {found['frames_before']} generated frames. A judge sees the new word in {seen}: "
        f"{found['rule']}.",
        "",
        *table(["", "walks", *(f"{t}, frame {n}" for t in titles for n in within)], body),
        "",
        *table(["changed to", "walks", f"new word seen by frame {within[-1]}"], words),
        "",
        *_of_judge(judge, found),
    ]


def _of_judge(judge: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    held_out = judge["held_out"]
    rows = {
        f"{held_out['frames']} true frames it has not seen": held_out["accuracy"],
        "the last true frames here": found["accuracy_on_true_frames"],
        "the same through the autoencoder": found["accuracy_on_reconstructed_frames"],
    }
    heads = list(held_out["accuracy"])
    body = [
        [name, *("" if row.get(head) is None else f"{row[head]:.0%}" for head in heads)]
        for name, row in rows.items()
    ]
    changes = held_out["true_changes"]
    limit = (
        "Its held-out clips have no changes."
        if changes is None
        else f"Of {changes['changes']} changes in true renders it sees "
        + ", ".join(f"{share:.0%} by frame {n}" for n, share in changes["visible"].items())
        + "."
    )
    return [
        f"The judge (digest {judge['digest']}, trained on {judge['trained_on']}) is right in:",
        "",
        *table(["", *heads], body),
        "",
        limit,
    ]
