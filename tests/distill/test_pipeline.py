"""The whole way at nano size: render, autoencoder, stages 0 to 3, export, sample, measure, play."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest
import torch
from PIL import Image

from distill.__main__ import main
from distill.clips import ClipSet
from distill.pipeline import Machine, _settings, in_lanes, run_pipeline, summary
from distill.pipeline_steps import ExportStep, Given, PipelineConfig, Step
from distill.run import averaged_transformer, load_transformer
from tests.distill.clip_maker import write_clips
from worldmodel import config as strict
from worldmodel.session import load_session
from worldmodel.types import Camera, Start

NANO = "configs/pipeline/nano.yaml"
HERE = ("--here", "--device", "cpu", "--workers", "2")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole nano pipeline ran, in less than a minute of one core."""
    out = tmp_path_factory.mktemp("nano") / "run"
    began = time.process_time()
    assert main(["pipeline", NANO, "--out", str(out), *HERE]) == 0
    assert time.process_time() - began < 60
    return out


@pytest.mark.slow
def test_nano_goes_from_nothing_to_a_world_that_plays(nano: Path) -> None:
    result = json.loads((nano / "evaluation" / "evaluation.json").read_text())
    assert set(result["rows"]) == {
        "autoencoder", "repeat last true frame", "2 steps", "wrong camera, 2 steps"
    }  # fmt: skip
    assert 5 < result["rows"]["2 steps"]["psnr_db"]["8"] < 60
    sheet = str(nano / "sheet.png")
    columns = ["--clips", "2", "--columns", "0,1,8", "--device", "cpu"]
    command = ["sample", str(nano / "model"), "--data", str(nano / "clips"), "--out", sheet]
    assert main([*command, *columns, "--overwrite"]) == 0
    assert Image.open(sheet).size == (3 * 112, 2 * (2 * 64 + 4))
    for name, commit, factor in (("model", "clean", 2), ("own-memory-model", "own", 1)):
        session = load_session(nano / name, device="cpu")
        assert session.playable.rollout.commit == commit
        camera = Camera(np.eye(4), session.spec.intrinsics)
        session.reset(Start(seed=1), camera)
        assert session.step([camera]).shape == (1, factor * 64, factor * 112, 3)


@pytest.mark.slow
def test_an_evaluation_holds_the_keys_pictures_and_films_it_promises(nano: Path) -> None:
    folder = nano / "evaluation"
    result = json.loads((folder / "evaluation.json").read_text())
    asked = {
        "model", "commit", "device", "steps", "context_frames", "worlds", "psnr_db",
        "psnr_margin_db", "ssim", "perceptual", "gradient_energy_ratio", "colour_drift",
        "camera_rotation_error_deg", "camera_direction_error_deg", "autoencoder_psnr_db", "baselines",
    }  # fmt: skip
    assert asked <= result.keys()
    assert Image.open(folder / "evaluation-frames.jpg").size == (4 * 112, 2 * (2 * 64 + 4))
    assert Image.open(folder / "evaluation-walks.jpg").size == (2 * 112, 2 * 64)
    with av.open(folder / "evaluation-walk-1.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == 20
    assert result["camera"]["renderer's truth"]["rotation_error_deg"] < 0.5
    page = (folder / "evaluation.md").read_text()
    assert "evaluation-walks.jpg" in page and "| 2 steps |" in page


@pytest.mark.slow
def test_every_initialisation_leads_to_a_student_of_its_own(nano: Path) -> None:
    students = {
        path.parent.name: load_transformer(path.parent).state_dict()
        for path in nano.glob("3-from-*/report.json")
    }
    assert len(students) == 5
    first = [weights["blocks.0.q.weight"] for weights in students.values()]
    assert all(not a.equal(b) for i, a in enumerate(first) for b in first[:i])


@pytest.mark.slow
def test_causal_consistency_stores_nothing_and_regression_says_what_it_stores(nano: Path) -> None:
    steps = strict.load(NANO, PipelineConfig).all_steps()
    rows = {line.split(" | ")[0][2:]: line for line in summary(steps, nano).splitlines()[2:]}
    assert rows["2-causal-cd"].endswith("|  |")
    assert rows["2-causal-cd"] in (nano / "training.md").read_text().splitlines()
    assert "| 2 steps |" in (nano / "table" / "comparison.md").read_text()
    stored = sum(
        np.prod(ClipSet(nano / "causal-paths").array("paths", clip).shape) * 2 for clip in range(4)
    )
    assert rows["causal-paths"].endswith(f"| {stored} |")


@pytest.mark.slow
def test_the_comparison_begins_with_weights_that_are_there(nano: Path, tmp_path: Path) -> None:
    alone = tmp_path / "weights"  # as they come from elsewhere: no report beside them
    shutil.copytree(nano / "stage-0", alone, ignore=lambda _, names: {"report.json"} & {*names})
    words = [
        f"data={nano}/latents", f"held_out={nano}/clips", f"base={nano}/model",
        f"stage_0={alone}", f"stage_1={nano}/stage-1", "stages=configs/stage/nano",
        "trajectories=configs/trajectories/nano", "player=configs/export/nano.yaml",
        "causal_ode_steps=61", "causal_paths=4", "bidirectional_paths=2", "stage_3_steps=3",
        "stage_3_clips=2", "clips=3", "longest=16",
    ]  # fmt: skip
    out = tmp_path / "run"
    command = ["pipeline", "configs/pipeline/initialisations.yaml", *words, "--out", str(out)]
    assert main([*command, *HERE, "--only", "margins-3-from-2-causal-ode-1"]) == 0
    report = json.loads((out / "2-causal-ode" / "report.json").read_text())
    assert 0 < report["seconds_at_speed"] < report["seconds"] + 1
    paths = json.loads((out / "causal-paths" / "manifest.json").read_text())
    assert paths["seconds_at_speed"] > 0
    table = ["table", "configs/table/initialisations.yaml", "far=16", "--runs", str(out)]
    assert main([*table, "--out", str(out / "table.md")]) == 0
    (row,) = json.loads((out / "table.json").read_text())["after_stage_3"]["causal ODE"].values()
    assert len(row["by_world"]["near"]) == 3


@pytest.mark.slow
def test_what_is_done_is_not_done_again(nano: Path) -> None:
    ran: list[str] = []
    config, machine = strict.load(NANO, PipelineConfig), Machine(here=True, device="cpu")

    def watched(arguments: list[str]) -> int:
        ran.append(Path(arguments[arguments.index("--out") + 1]).name)
        return main(arguments)

    run_pipeline(config, nano, machine, watched)
    assert ran == []
    hidden = nano / "hidden"
    (nano / "causal-paths").rename(hidden)  # read by finished steps only
    run_pipeline(config, nano, machine, watched)
    assert ran == []
    hidden.rename(nano / "causal-paths")
    (nano / "own-memory-model" / "model.yaml").unlink()
    run_pipeline(config, nano, machine, watched)
    assert ran == ["own-memory-model"]


@pytest.mark.slow
def test_a_finished_step_with_other_settings_is_refused(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(
        Path(NANO).read_text().replace("overrides: [steps=20]", "overrides: [steps=21]")
    )
    before = (nano / "stage-0" / "report.json").read_bytes()
    assert main(["pipeline", str(other), "--out", str(nano), *HERE]) == 2
    error = capsys.readouterr().err
    assert "done with other settings (overrides, settings.steps differ)" in error
    assert len(error.strip().splitlines()) == 1
    assert (nano / "stage-0" / "report.json").read_bytes() == before


def test_a_step_that_fails_stops_the_pipeline(tmp_path: Path) -> None:
    config, out = strict.load(NANO, PipelineConfig), tmp_path / "run"
    with pytest.raises(ValueError, match=r"step 'clips' failed \(exit code 3\)"):
        run_pipeline(config, out, Machine(here=True), lambda _: 3)
    assert not (out / "pipeline.json").exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("{kind: encode, name: a, data: b, autoencoder: b}", "reads 'b', which is no earlier step"),
        ("{kind: render, name: ../a, config: configs/data/nano.yaml}", "a name is a folder's"),
        ("{kind: render, name: a, confg: x}", "did you mean 'config'"),
        ("{kind: paint, name: a}", "expected one of clips, model, weights, render"),
        (
            "{kind: each, of: {x: [a]}, steps: [{kind: render, name: '{y}', config: z.yaml}]}",
            "neither `words` nor `of` has 'y'",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused(steps: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"steps:\n  - {steps}\n")
    with pytest.raises(ValueError, match=message):
        strict.load(path, PipelineConfig)


@pytest.mark.parametrize("path", sorted(Path("configs/pipeline").glob("*.yaml")), ids=str)
def test_the_settings_of_every_pipeline_are_read_before_its_first_step(path: Path) -> None:
    config = strict.load(path, PipelineConfig)
    steps = config.all_steps()
    assert steps[0].kind in ("render", "clips")
    assert all(_settings(step) for step in steps if not isinstance(step, Given))


def test_words_are_written_into_the_texts_of_steps_and_changed_on_the_command_line() -> None:
    path = "configs/pipeline/pocket.yaml"
    for overrides, seconds in (((), "410.0"), (("words.stage_1_s=30.0",), "30.0")):
        steps = strict.load(path, PipelineConfig, overrides).all_steps()
        (stage_1,) = (step for step in steps if step.name == "stage-1")
        assert stage_1.kind == "train"
        assert f"time_budget_s={seconds}" in stage_1.overrides


def test_each_writes_its_steps_out_for_every_combination() -> None:
    names = [
        step.name for step in strict.load("configs/pipeline/nano.yaml", PipelineConfig).all_steps()
    ]
    assert [name for name in names if name.startswith("3-from-")] == [
        "3-from-2-causal-cd",
        "3-from-2-causal-ode",
        "3-from-2-bidirectional-ode",
        "3-from-2-causal-dmd",
        "3-from-stage-1",
    ]
    paper = strict.load("configs/pipeline/initialisations.yaml", PipelineConfig).all_steps()
    table = [
        step.name for step in paper if step.kind == "train" and step.name.startswith("3-from-")
    ]
    assert len(table) == len(set(table)) == 5 * 3
    measured = {step.name for step in paper if step.kind == "margins"}
    assert measured == {name for name in paper[-1].reads if name.startswith("margins-")}


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Through the pipeline, as on two GPUs: gradients of a rollout are averaged like any other."""
    from tests.distill.clip_maker import write_clips

    out, path = tmp_path / "run", tmp_path / "pipeline.yaml"
    data = str(write_clips(out / "latents", latents=True))
    for stage, init in (("0", []), ("1", ["--init", str(out / "0")])):
        command = ["train", f"configs/stage/nano/{stage}.yaml", "steps=2", "--data", data, *init]
        assert main([*command, "--out", str(out / stage), "--device", "cpu"]) == 0
    path.write_text(
        """
steps:
  - {kind: render, name: latents, config: configs/data/nano.yaml}
  - {kind: train, name: "0", config: configs/stage/nano/0.yaml, data: latents}
  - {kind: train, name: "1", config: configs/stage/nano/1.yaml, data: latents}
  - kind: train
    name: stage-3
    config: configs/stage/nano/3.yaml
    overrides: [steps=6, accumulate=2, checkpoint_every_s=0.1, objective.invented_share=0.5]
    data: latents
    init: "1"
    teacher: "0"
"""
    )
    command = [sys.executable, "-m", "distill", "pipeline", str(path), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--processes", "2", "--device", "cpu"],
        capture_output=True, text=True, timeout=150, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "stage-3" / "report.json").read_text())
    assert report["processes"] == 2
    assert report["steps"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "configs/stage/none.yaml", "--data", "x", "--out", "OUT"],
            "no such config file",
        ),
        (
            ["train", "configs/stage/1.yaml", "stepz=3", "--data", "x", "--out", "OUT"],
            "did you mean",
        ),
        (
            ["train", "configs/stage/1.yaml", "--data", "nowhere", "--out", "OUT"],
            "no manifest.json",
        ),
        (["encode", "nowhere", "--autoencoder", "x", "--out", "OUT"], "no manifest.json"),
        (["evaluate", "nowhere", "--data", "x", "--out", "OUT"], "must end in .json"),
        (["evaluate", "nowhere", "--data", "x", "--out", "OUT.json"], "no manifest.json"),
        (["evaluate", "x", "--data", "x", "--out", "OUT.json", "--steps", "2,x"], "numbers"),
        (["evaluate", "x", "--data", "x", "--out", "OUT.json", "--clips", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([argument.replace("OUT", str(out)) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def _stage_1(folder: Path, latents: Path, *words: str) -> Path:
    command = ["train", "configs/stage/nano/1.yaml", "steps=1", *words, "--data", str(latents)]
    assert main([*command, "--out", str(folder), "--device", "cpu"]) == 0
    return folder


def test_an_exported_transformer_may_be_the_mean_of_some(tmp_path: Path) -> None:
    latents = write_clips(tmp_path / "latents", latents=True)
    one, other = (_stage_1(tmp_path / str(n), latents, f"seed={n}") for n in (1, 2))
    mean, (a, b) = averaged_transformer([one, other]), map(load_transformer, (one, other))
    states = [network.state_dict() for network in (mean, a, b)]
    for key, found in states[0].items():
        torch.testing.assert_close(found, (states[1][key] + states[2][key]) / 2)
    assert any(not torch.equal(states[1][key], states[2][key]) for key in states[0])


def test_transformers_of_different_shapes_have_no_mean(tmp_path: Path) -> None:
    latents = write_clips(tmp_path / "latents", latents=True)
    with pytest.raises(ValueError, match=r"cannot be averaged with .*assets/pocket"):
        averaged_transformer([Path("assets/pocket"), _stage_1(tmp_path / "1", latents)])


def test_a_pipeline_waits_for_all_that_an_export_is_the_mean_of() -> None:
    step = replace(_steps(a=("x", "y"))[0], averaged_with=("z",))
    assert step.reads == ("x", "y", "z")
    words = step.arguments(lambda name: f"/{name}")
    assert words[words.index("--averaged-with") + 1] == "/z"


def _steps(**reads: tuple[str, ...]) -> list[ExportStep]:
    made = []
    for name, parts in reads.items():
        first, second = (*parts, "x", "x")[:2]
        made.append(
            ExportStep(
                kind="export",
                name=name,
                config=Path("configs/export/nano.yaml"),
                autoencoder=first,
                transformer=second,
            )
        )
    return made


def test_lanes_run_at_once_what_does_not_wait_for_each_other() -> None:
    together = Barrier(2, timeout=20.0)  # breaks if b and c are not under way at the same time
    lanes: dict[str, int] = {}

    def run(step: Step, lane: int) -> None:
        lanes[step.name] = lane
        if step.name in ("b", "c"):
            together.wait()

    steps = _steps(a=(), b=("a",), c=("a",), d=("b", "c"))
    done = [step.name for step in in_lanes(steps, 2, run)]
    assert done[0] == "a" and set(done[1:3]) == {"b", "c"} and done[3] == "d"
    assert {lanes["b"], lanes["c"]} == {0, 1}


def test_after_a_failure_no_lane_begins_another_step() -> None:
    begun: list[str] = []

    def run(step: Step, _lane: int) -> None:
        begun.append(step.name)
        if step.name == "a":
            raise ValueError("step 'a' failed")

    done: list[Step] = []
    with pytest.raises(ValueError, match="step 'a' failed"):
        done.extend(in_lanes(_steps(a=(), b=(), c=("b",), d=("c",)), 2, run))
    assert "d" not in begun
    assert "a" not in [step.name for step in done]


def test_with_keep_going_only_what_reads_a_failed_step_is_left_out() -> None:
    begun: list[str] = []

    def run(step: Step, _lane: int) -> None:
        begun.append(step.name)
        if step.name in ("a", "c"):
            raise ValueError(f"step {step.name!r} failed")

    steps = _steps(a=(), b=("a",), c=(), d=(), e=("b", "d"), f=("d",))
    done: list[Step] = []
    with pytest.raises(ValueError, match="step 'a' failed; step 'c' failed"):
        done.extend(in_lanes(steps, 1, run, keep_going=True))
    assert begun == ["a", "c", "d", "f"]
    assert [step.name for step in done] == ["d", "f"]


def test_every_lane_has_gpus_of_its_own_as_long_as_there_are_some() -> None:
    def gpus(machine: Machine, there: list[str]) -> list[str]:
        lanes = [machine.environment(lane, there) for lane in range(machine.lanes)]
        return [lane["CUDA_VISIBLE_DEVICES"] for lane in lanes]

    assert gpus(Machine(processes=2, lanes=2), ["0", "1", "2", "3"]) == ["0,1", "2,3"]
    assert gpus(Machine(lanes=4), ["4", "7"]) == ["4", "7", "4", "7"]
    assert Machine(lanes=4).environment(3, []) == {}
    with pytest.raises(ValueError, match="lanes share GPUs with --processes 1 only"):
        gpus(Machine(processes=2, lanes=2), ["0", "1"])
    with pytest.raises(ValueError, match="--here is for one process"):
        Machine(lanes=2, here=True)


def test_only_named_steps_are_run_with_those_they_read(tmp_path: Path) -> None:
    ran: list[str] = []

    def pretend(arguments: list[str]) -> int:
        out = Path(arguments[arguments.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / ("report.json" if arguments[0] == "train" else "manifest.json")).write_text("{}")
        ran.append(out.name)
        return 0

    config, machine = strict.load(NANO, PipelineConfig), Machine(here=True)
    run_pipeline(config, tmp_path / "run", machine, pretend, "2-*-cd")
    assert ran == ["clips", "autoencoder", "latents", "stage-0", "stage-1", "2-causal-cd"]
    with pytest.raises(ValueError, match="--only 4-\\*: no step is called so"):
        run_pipeline(config, tmp_path / "run", machine, pretend, "4-*")
