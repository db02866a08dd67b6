"""Who may import whom, and what no file may contain.

L0  worldmodel/{types,config,motion,trajectory,prompts}   numpy and PyYAML, never torch
L1  worldmodel/{flow,prope,rope,...}              tensor functions
L2  worldmodel/{kv_cache,eight_bits,attention,frame_attention,transformer,wan,autoencoder,...}
L3  worldmodel/{cuda_graph,compiled,captured,fp8,fp8_attention,checkpoint,models,convert,session}
    the running world
L4  engine/, distill/                             neither knows the other
L5  play.py, distill/commands/bringing.py         where the two sides meet
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("worldmodel", "engine", "distill", "examples", "tests")
SOURCES = [
    ROOT / "play.py",
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
]
PLAIN = {"types", "motion", "trajectory", "config", "prompts"}
TENSOR_FILES = (
    "flow",
    "prope",
    "rope",
    "kv_cache",
    "eight_bits",
    "attention",
    "frame_attention",
    "transformer",
    "autoencoder",
    "sampler",
    "wan",
    "tiny_decoder",
)
TORCH = {"torch", "torchvision", "einops", "safetensors"}


def sources_of(*folders: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] in folders]


TESTS = sources_of("tests")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def imports_of(path: Path) -> set[str]:
    """Dotted names of all a file imports, also inside functions; relative ones made absolute."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sources_of("engine"), ids=name_of)
def test_the_engine_knows_only_plain_types_of_the_world_model(path: Path) -> None:
    imported = imports_of(path)
    assert not tops(imported) & {"distill", "tests", "play", *TORCH}
    ours = {name for name in imported if name.partition(".")[0] == "worldmodel"}
    assert {(name + ".").split(".")[1] for name in ours} <= PLAIN


@pytest.mark.parametrize("path", sources_of("distill"), ids=name_of)
def test_distillation_never_imports_the_engine(path: Path) -> None:
    root = path == ROOT / "distill" / "commands" / "bringing.py"  # it reads recordings
    assert not tops(imports_of(path)) & ({"tests", "play"} if root else {"engine", "tests", "play"})


@pytest.mark.parametrize("path", sources_of("worldmodel"), ids=name_of)
def test_the_world_model_imports_neither_side(path: Path) -> None:
    assert not tops(imports_of(path)) & {"engine", "distill", "tests", "play"}


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_plain_modules_import_plain_modules_only(name: str) -> None:
    imported = imports_of(ROOT / "worldmodel" / f"{name}.py")
    assert not tops(imported) & TORCH
    ours = {name.split(".")[1] for name in imported if name.startswith("worldmodel.")}
    assert ours <= PLAIN


@pytest.mark.parametrize("package", ["worldmodel", "engine", "distill"])
def test_a_package_imports_nothing_by_itself(package: str) -> None:
    assert not imports_of(ROOT / package / "__init__.py")


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_tensor_code_never_asks_how_it_is_run(name: str) -> None:
    path = ROOT / "worldmodel" / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    for question in ("is_compiling", "is_current_stream_capturing", "is_available"):
        assert question not in text
    assert not list(defaulted_reads(path))


def defaulted_reads(path: Path) -> Iterator[int]:
    """Lines with `getattr(x, name, default)` or `hasattr`: a config without the key would pass."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "getattr" and len(node.args) == 3:
                yield node.lineno
            if node.func.id == "hasattr":
                yield node.lineno


def test_no_file_collects_what_has_no_owner() -> None:
    assert not [name_of(path) for path in SOURCES if path.stem in ("util", "utils", "helpers")]


def test_blanket_excepts_give_a_reason() -> None:
    reasoned = re.compile(r":\s*#\s*(noqa: BLE001 - )?(?!noqa)\w+ \w+")
    found = []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node):
                line = lines[node.lineno - 1]
                if not reasoned.search(line):
                    found.append(f"{name_of(path)}:{node.lineno}")
    assert not found


def catches_everything(node: ast.ExceptHandler) -> bool:
    if node.type is None:
        return True
    types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    names = {kind.id for kind in types if isinstance(kind, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unpickles(path: Path) -> None:
    """A weights or clips file from elsewhere must not be able to run code."""
    assert not tops(imports_of(path)) & {"pickle", "cPickle", "dill", "joblib", "cloudpickle"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("weights_only") == "True", f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and path not in TESTS:
            assert ast.unparse(node.value) == "False", f"line {node.value.lineno}"


def test_the_engine_runs_without_torch() -> None:
    code = (
        "import sys, engine.loop, engine.headless, worldmodel.types, worldmodel.config\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
