"""Tests that need a device say so instead of failing where there is none."""

from __future__ import annotations

import os

import pytest

# tests run side by side, one process a core: threads of one would wait for those of the other
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch  # seconds that a run without such tests need not wait for

    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in on_gpu:
        item.add_marker(skip)
