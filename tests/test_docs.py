"""The tutorials promise commands and code: files and flags exist, and the code does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from distill.__main__ import main
from distill.clip_facts import facts, problems
from distill.clips import ClipSet
from distill.importers.formats import FORMATS
from distill.pipeline_steps import load_pipeline
from tests.test_readme import ROOT, flags_of

TUTORIALS = ("your-own-world.md", "reproduce-the-paper.md", "clips.md")
TEXTS = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in TUTORIALS}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[name], flags=re.DOTALL | re.MULTILINE)


COMMANDS = [
    shlex.split(line)
    for name in TUTORIALS
    for block in blocks(name, "sh")
    for line in block.splitlines()
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_a_tutorial_names_files_and_flags_that_exist(words: list[str]) -> None:
    assert words[0] == "python"
    script = words[1:4] if words[1] == "-m" else words[1:2]
    known = flags_of(*script)
    for argument in words[1 + len(script) :]:
        if argument.startswith("--"):
            assert argument in known
        elif argument.startswith("configs/"):
            assert (ROOT / argument).is_file(), argument


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if "pipeline" in words], ids=" ".join
)
def test_a_pipeline_of_a_tutorial_is_one(words: list[str]) -> None:
    said = [word for word in words if "=" in word]
    assert load_pipeline(ROOT / words[4], said).all_steps()


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_path_in_a_tutorial_exists(name: str) -> None:
    for path in re.findall(r"`((?:configs|distill|docs|tests)/[\w./-]+\w)`", TEXTS[name]):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+)\)", TEXTS[name]):
        assert (ROOT / "docs" / link).exists(), link


def test_every_format_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `([\w]+)` \|", TEXTS["your-own-world.md"], flags=re.MULTILINE))
    assert told >= {"recording", *FORMATS}


def test_the_game_of_the_tutorial_becomes_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks("your-own-world.md", "python")
    (tmp_path / "hall.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    (command,) = [words for words in COMMANDS if "hall:make" in words]
    words = [word.replace("runs/hall", str(tmp_path / "clips")) for word in command[3:]]
    words[words.index("--episodes") + 1] = "4"
    words[words.index("--episode-frames") + 1] = "24"
    assert main([*words, "--frames-per-clip", "8"]) == 0
    assert not list(problems(tmp_path / "clips"))
    found = facts(ClipSet(tmp_path / "clips"))
    assert found["frame_px"] == [128, 224]
    assert found["field_of_view_deg"] == pytest.approx([80, 80], abs=0.1)
    assert found["step_m"]["most"] <= 0.4 + 1e-6, "nobody runs faster than 4.8 m/s"
