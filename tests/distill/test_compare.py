"""Evaluations side by side, and the pages they are shown on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from distill.__main__ import main
from distill.compare import compare, compare_samplers, names_of
from distill.plots import line_plot


def _evaluation(psnr: float = 24.0, **changes: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "commit": "abc",
        "device": "cpu",
        "steps": 2,
        "context_frames": 4,
        "worlds": 8,
        "seed": 1,
        "psnr_db": {"1": psnr, "8": psnr - 2},
        "camera_rotation_error_deg": 0.2,
        "frechet_distance": None,
        "ruler": {"digest": "r"},
        "rows": {},
    } | changes


def test_every_evaluation_stands_beside_the_first_with_its_difference() -> None:
    page = compare({"a": _evaluation(), "b": _evaluation(25.5, steps=1)})
    assert "|  | a (2 steps) | b (1 steps) |" in page
    assert "| PSNR at frame 1, dB | 24 | 25.5 (+1.5) |" in page
    assert "| camera rotation error, degrees | 0.2 | 0.2 (+0) |" in page
    assert "Fréchet" not in page  # nobody measured it
    assert "Not alike" not in page


def test_what_only_one_evaluation_measured_is_shown_without_a_difference() -> None:
    longer = _evaluation(psnr_db={"1": 24.0, "128": 18.0})
    assert "| PSNR at frame 128, dB |  | 18 |" in compare({"a": _evaluation(), "b": longer})


def test_a_difference_that_is_not_the_model_is_named() -> None:
    other = _evaluation(worlds=16, ruler={"digest": "s"})
    page = compare({"a": _evaluation(), "b": other})
    assert "Not alike: worlds" in page
    assert "other rulers" in page


def test_a_line_for_each_model_and_number_of_steps() -> None:
    rows = {
        name: {"psnr_db": {"1": 20.0 + i, "8": 18.0}, "psnr_margin_db": {"8": 1.0}, "frechet": 2.5}
        for i, name in enumerate(("autoencoder", "1 step", "2 steps", "wrong camera, 2 steps"))
    }
    camera = {name: {"rotation_error_deg": 0.31} for name in rows}
    page = compare_samplers({"a": _evaluation(rows=rows, camera=camera)})
    lines = [line for line in page.splitlines() if line.startswith("| a |")]
    assert [line.split(" | ")[1] for line in lines] == ["1 step", "2 steps"]
    assert lines[1].split(" | ")[2:4] == ["22.0", "18.0"]
    assert "0.31" in lines[0] and "2.50" in lines[0] and "+1.0" in lines[0]


def test_files_are_named_by_what_tells_them_apart() -> None:
    assert names_of([Path("x/a.json"), Path("x/b.json")]) == ["a", "b"]
    alike = [Path("one-evaluation/evaluation.json"), Path("two/evaluation.json")]
    assert names_of(alike) == ["one", "two"]


def test_evaluations_that_were_made_alike_say_so_in_one_line() -> None:
    page = compare({"a": _evaluation(), "b": _evaluation(), "c": _evaluation(commit="later")})
    assert [line[:6] for line in page.splitlines() if "commit" in line] == ["- a, b", "- c: m"]


def test_the_command_writes_the_table_and_overwrites_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(json.dumps(_evaluation()))
    out = tmp_path / "table.md"
    command = ["compare", *map(str, paths), "--out", str(out)]
    assert main(command) == 0
    written = out.read_text()
    assert "| PSNR at frame 8, dB | 22 | 22 (+0) |" in written
    assert main(command) == 2
    assert out.read_text() == written


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", "not valid JSON"), ("[1]", "not an evaluation")],
)
def test_what_is_no_evaluation_is_refused_in_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.json", tmp_path / "table.md"
    if text is not None:
        path.write_text(text)
    assert main(["compare", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def _points(svg: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    lines = root.iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, p.split(","))) for p in x.attrib["points"].split()] for x in lines]  # type: ignore[misc]


def test_a_plot_is_valid_svg_whose_lines_rise_where_the_numbers_rise() -> None:
    svg = line_plot("a < b", "x", {"up": [(1, 0.0), (10, 1.0)], "flat": [(1, 0.5), (10, 0.5)]})
    up, flat = _points(svg)
    assert up[0][0] < up[1][0] and up[0][1] > up[1][1]  # y points down in SVG
    assert flat[0][1] == flat[1][1] == pytest.approx((up[0][1] + up[1][1]) / 2)


def test_a_logarithmic_axis_gives_every_decade_the_same_room() -> None:
    (line,) = _points(line_plot("t", "x", {"a": [(1, 0), (10, 0), (100, 0)]}, log_x=True))
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.2)
    with pytest.raises(ValueError, match="begins at 1"):
        line_plot("t", "x", {"a": [(0, 0)]}, log_x=True)
