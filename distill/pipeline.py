"""From clips to a measured model: the steps of a pipeline, in order, each one once.

What is done is skipped, what was interrupted is resumed by its own command, and what was done with
other settings is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from distill.lane import Lane
from distill.pipeline_steps import Given, PipelineConfig, Step, TrainStep
from worldmodel import config as strict

Command = Callable[[list[str]], int]  # arguments of `python -m distill` -> exit code
RECORD = "pipeline.json"
_WITHOUT_DEVICE = ("render", "export", "compare", "table")
_INTO_A_FOLDER = ("evaluate", "margins", "compare", "table")  # a file of which is the result


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the pipeline may use."""

    processes: int = 1  # of every training step, through torchrun: one per GPU
    lanes: int = 1  # steps at once that do not wait for each other, each on GPUs of its own
    workers: int = 0  # rendering processes; 0: one per CPU core, less a few
    device: str | None = None
    here: bool = False  # run all commands in this process: faster to start, for tests
    keep_going: bool = False  # after a failure, with the steps that do not read what failed
    renew: bool = False  # a new process for every step of a lane

    def __post_init__(self) -> None:
        if min(self.processes, self.lanes) < 1 or self.workers < 0:
            raise ValueError("--processes and --lanes must be at least 1, --workers not negative")
        if self.here and max(self.processes, self.lanes) > 1:
            raise ValueError("--here is for one process; drop it, --processes or --lanes")

    def environment(self, lane: int, gpus: Sequence[str]) -> dict[str, str]:
        """Which of the `gpus` are a lane's; more lanes than GPUs share them.

        Raises:
            ValueError: if lanes of several processes would have to share.
        """
        if not gpus:
            return {}
        if self.processes > 1 and self.lanes * self.processes > len(gpus):
            raise ValueError(
                f"--lanes {self.lanes} of --processes {self.processes} each, but here are"
                f" {len(gpus)} GPUs; lanes share GPUs with --processes 1 only"
            )
        first = lane * self.processes
        own = [gpus[(first + i) % len(gpus)] for i in range(self.processes)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(index) for index in range(torch.cuda.device_count())]


def run_pipeline(
    config: PipelineConfig,
    out: Path,
    machine: Machine,
    command: Command,
    only: str | None = None,
) -> None:
    """Run the steps that `out` does not hold yet. `command` is `python -m distill` in this process.

    A step that only finished steps read is not run again: its folder may be deleted to save space.
    `only` is a pattern of names: of steps to run, with those that they read.

    Raises:
        ValueError: if a finished step had other settings, no step is called so, or a step fails.
    """
    steps = config.all_steps()
    wanted = {step.name: _settings(step) for step in steps}
    record = _read_record(out)
    _refuse_other_settings(out, wanted, record)
    missing = list(_missing(steps, out, only))
    for step in missing:
        if isinstance(step, Given):
            raise ValueError(f"{step.name}: {step.path} is needed, and has no {step.done}")
    out.mkdir(parents=True, exist_ok=True)
    given = {step.name: wanted[step.name] for step in steps if isinstance(step, Given)}
    record |= {name: settings for name, settings in given.items() if settings}
    places = {step.name: _place(out, step) for step in steps}
    gpus = [] if machine.device == "cpu" or machine.lanes == 1 else visible_gpus()
    apart = [machine.environment(lane, gpus) for lane in range(machine.lanes)]
    lanes = [Lane(environment, renew=machine.renew) for environment in apart]
    began = time.monotonic()

    def run(step: Step, lane: int) -> None:
        print(f"pipeline: {step.name}", flush=True)
        code = _run(step, places, machine, command, lanes[lane], apart[lane])
        if code != 0 or not _result(out, step).is_file():
            log = f"{places[step.name]}.log" if machine.lanes > 1 else "above"
            raise ValueError(f"step {step.name!r} failed (exit code {code}); see {log}")
        if machine.lanes > 1:
            print(f"pipeline: {step.name} done after {time.monotonic() - began:.0f} s", flush=True)

    try:
        for step in in_lanes(missing, machine.lanes, run, keep_going=machine.keep_going):
            record = record | {step.name: wanted[step.name]}
            _write(out / RECORD, json.dumps(record, indent=1))
    finally:
        for lane in lanes:
            lane.close()
    page = summary(steps, out)
    _write(out / "training.md", page)
    print(page)


def in_lanes(
    steps: Sequence[Step],
    lanes: int,
    run: Callable[[Step, int], None],
    *,
    keep_going: bool = False,
) -> Iterator[Step]:
    """Run `steps`, `lanes` of them at once, each when all it reads is done; yields what is done.

    The earliest step that can begin takes the next free lane. After a failure no other begins or, with
    `keep_going`, none that reads what is missing then.

    Raises:
        ValueError: what the steps that failed raised, when those under way have ended.
    """
    waiting, free = list(steps), list(range(lanes))
    under_way: dict[Future[None], tuple[Step, int]] = {}
    failures: dict[str, str] = {}  # what was raised, by step
    with ThreadPoolExecutor(lanes) as pool:
        while waiting or under_way:
            blocked = {step.name for step in waiting} | {s.name for s, _ in under_way.values()}
            blocked |= failures.keys()
            ready = [step for step in waiting if not blocked & set(step.reads)]
            for step in ready[: len(free)] if keep_going or not failures else ():
                lane = free.pop(0)
                waiting.remove(step)
                under_way[pool.submit(run, step, lane)] = step, lane
            if not under_way:
                break
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                step, lane = under_way.pop(future)
                free.append(lane)
                try:
                    future.result()
                except ValueError as error:
                    failures[step.name] = str(error)
                    print(f"pipeline: {error}", flush=True)
                    continue
                yield step
    if failures:
        raise ValueError("; ".join(failures.values()))


def summary(steps: Sequence[Step], out: Path) -> str:
    """Seconds, throughput, memory and bytes of the steps that report them, as a Markdown table."""
    keys = ("seconds", "steps", "clips_per_second", "peak_memory_gib", "extra_bytes")
    lines = ["| step | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for step in steps:
        if step.kind in ("train", "trajectories") and _result(out, step).is_file():
            facts = json.loads(_result(out, step).read_text(encoding="utf-8"))
            cells = ["" if facts.get(key) is None else str(facts[key]) for key in keys]
            lines.append("| " + " | ".join([step.name, *cells]) + " |")
    return "\n".join(lines)


def _missing(steps: Sequence[Step], out: Path, only: str | None = None) -> Iterator[Step]:
    """The steps to run, in order.

    Raises:
        ValueError: if no step is called as `only` says.
    """
    named = [step.name for step in steps if only is None or fnmatchcase(step.name, only)]
    if not named:
        raise ValueError(f"--only {only}: no step is called so")
    wanted: set[str] = set()
    read: set[str] = set()
    for step in reversed(steps):
        is_read = any(step.name in other.reads for other in steps)
        left_out = isinstance(step, TrainStep) and step.only_if_read and not is_read
        if left_out or _result(out, step).is_file():
            continue
        if step.name in read or (step.name in named if only else not is_read):
            wanted.add(step.name)
            read |= set(step.reads)
    return (step for step in steps if step.name in wanted)


def _run(
    step: Step,
    places: Mapping[str, Path],
    machine: Machine,
    command: Command,
    lane: Lane,
    apart: Mapping[str, str],
) -> int:
    """The exit code of a step; `apart` is what the environment of its lane has of its own."""
    assert not isinstance(step, Given)
    target = places[step.name]
    if step.kind in _INTO_A_FOLDER:
        target.mkdir(exist_ok=True)
        target = target / step.done
    arguments = [step.kind, *step.arguments(lambda name: str(places[name])), "--out", str(target)]
    if step.kind == "render":
        gpus = 1 if machine.device == "cpu" else machine.processes
        arguments += ["--workers", str(machine.workers or _workers()), "--devices", str(gpus)]
    elif machine.device is not None and step.kind not in _WITHOUT_DEVICE:
        arguments += ["--device", machine.device]
    if machine.here:
        return command(arguments)
    log = Path(f"{places[step.name]}.log")
    if machine.lanes > 1 and machine.processes == 1:
        return lane.run(arguments, log)
    launch = [sys.executable, "-m"]
    if machine.processes > 1 and step.kind in ("train", "encode", "trajectories"):
        many = ["--standalone", "--nproc_per_node", str(machine.processes), "-m"]
        launch += ["torch.distributed.run", *many]
    launch += ["distill", *arguments]
    if machine.lanes == 1:
        return subprocess.run(launch, check=False).returncode
    environment = os.environ | dict(apart)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            launch, check=False, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    return done.returncode


def _place(out: Path, step: Step) -> Path:
    return step.path if isinstance(step, Given) else out / step.name


def _result(out: Path, step: Step) -> Path:
    """The file that exists when the step is done."""
    return _place(out, step) / step.done


def _settings(step: Step) -> dict[str, Any]:
    """The step, and what its config file says: what must not change once it is done."""
    plain: dict[str, Any] = strict.to_plain(step)
    if isinstance(step, Given):  # where it lies may change, what it is may not
        file = step.path / step.done
        return {"digest": _digest(file)} if file.is_file() else {}
    plain.pop("only_if_read", None)
    if step.settings is None:
        return plain
    loaded = strict.load(step.config, step.settings, step.overrides)
    inner = {f"settings.{key}": value for key, value in strict.to_plain(loaded).items()}
    comparable: dict[str, Any] = json.loads(json.dumps(plain | inner))
    return comparable


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_other_settings(
    out: Path, wanted: Mapping[str, dict[str, Any]], record: Mapping[str, dict[str, Any]]
) -> None:
    for name, now in wanted.items():
        then = record.get(name, now) if now else now
        changed = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
        if changed:
            raise ValueError(
                f"{out / name}: done with other settings ({', '.join(changed)} differ); choose"
                " another --out, or delete this folder and those made from it, and its entry in"
                f" {out / RECORD}"
            )


def _read_record(out: Path) -> dict[str, Any]:
    path = out / RECORD
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    return record


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _workers() -> int:
    cores = os.cpu_count() or 1
    return cores - 4 if cores > 8 else cores
