"""Processes that share the machine among themselves: threads inside them would only fight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}


@contextmanager
def single_threaded() -> Iterator[None]:
    """Processes that are started inside it compute with one thread each."""
    before = {name: os.environ.get(name) for name in SINGLE_THREADED}
    os.environ.update(SINGLE_THREADED)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
