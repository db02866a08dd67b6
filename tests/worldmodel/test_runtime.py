"""Which software computes."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from worldmodel import runtime

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("installed", "vectors", "chosen"),
    [(True, "AVX512", "openvino"), (True, "DEFAULT", "torch"), (False, "AVX512", "torch")],
)
def test_auto_takes_openvino_where_it_is_installed_and_the_cpu_is_wide(
    monkeypatch: pytest.MonkeyPatch, installed: bool, vectors: str, chosen: str
) -> None:
    spec = importlib.util.find_spec("json") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert runtime.choose_runtime("auto", CPU) == chosen
    assert runtime.choose_runtime("auto", CUDA) == "torch"
    assert runtime.choose_runtime("torch", CPU) == "torch"


def test_a_runtime_that_was_asked_for_is_never_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="--device cpu"):
        runtime.choose_runtime("openvino", CUDA)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"not installed: pip install -e '.\[openvino\]'"):
        runtime.choose_runtime("openvino", CPU)


@pytest.mark.parametrize(("name", "threads"), [("openvino", 1), ("torch", 2)])
def test_torch_leaves_the_processor_to_openvino_and_to_nobody_else(
    name: runtime.Runtime, threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        runtime.spare_threads(name)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
