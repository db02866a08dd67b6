"""The README promises commands: they are those the checks run, and their files and flags exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from engine.bindings import KeyBindings
from engine.settings import PlayConfig
from worldmodel.config import to_plain

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [part.strip() for block in BLOCKS for part in re.split(r"\n|&&", block) if part.strip()]
OURS = [words for words in map(shlex.split, COMMANDS) if {"play.py", "distill"} & set(words)]
MADE_BY_A_COMMAND = ("runs/", "poses.npy", "my-picture.jpg", "walk.mp4", "my-walk")


def test_the_first_two_commands_install_and_play_and_install_and_test() -> None:
    play, check = BLOCKS[0].split("&&"), BLOCKS[1].split("&&")
    assert len(BLOCKS[0].splitlines()) == len(BLOCKS[1].splitlines()) == 1
    assert play[0] == check[0]
    assert play[2].strip() == ".venv/bin/python play.py"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    ci = ROOT / ".ci" / "run"
    parts = dict(re.findall(r'^(install|test)="(.*)"$', ci.read_text("utf-8"), flags=re.MULTILINE))
    assert f"{parts['install']} && {parts['test']}" == BLOCKS[1].strip()
    assert ci.stat().st_mode & 0o111


def test_the_pinned_pytorch_is_the_one_of_the_cpu_hint() -> None:
    pin = re.search(r"^torch==\S+$", (ROOT / ".ci/requirements-cpu.txt").read_text("utf-8"), re.M)
    assert pin is not None
    assert set(re.findall(r"torch==\S+", README)) == {pin.group()}


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_names_files_and_flags_that_exist(words: list[str]) -> None:
    script = words[1:3] + words[3:4] if words[1] == "-m" else words[1:2]
    arguments = words[1 + len(script) :]
    known = flags_of(*script)
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in known
        elif "/" in argument and "=" not in argument and not argument.startswith(MADE_BY_A_COMMAND):
            assert (ROOT / argument).exists(), argument


PATHS = sorted(set(re.findall(r"(?:configs|docs|\.ci)/[\w./-]+\w", README)))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_the_text_exists(path: str) -> None:
    if path == "docs/images/play.png" and not (ROOT / path).exists():
        pytest.skip("the picture comes with the shipped weights")
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("action", "keys"), sorted(to_plain(KeyBindings()).items()))
def test_every_key_is_in_the_table(action: str, keys: list[str]) -> None:
    named = {key.lower() for key in re.findall(r"`([^`]+)`", README.split("\n## ")[1])}
    assert set(keys) <= named, action


def test_a_key_in_an_override_is_one_of_the_config() -> None:
    for words in OURS:
        for name, equals, _ in (word.partition("=") for word in words if words[1] == "play.py"):
            if equals:
                section, _, key = name.partition(".")
                assert key in to_plain(PlayConfig())[section]


@cache
def flags_of(*script: str) -> frozenset[str]:
    command = [sys.executable, *script, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return frozenset(re.findall(r"--[\w-]+", result.stdout))
