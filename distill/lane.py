"""A lane of a pipeline: one process that runs commands of `python -m distill` one after another.

Python, torch and the context of a GPU take seconds to begin with, which a step of half a minute should
not pay again. A command that fails takes the process with it, and the next one begins in a new one:
after an error a GPU's context is of no use.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Lane:
    """Runs commands in a process of its own, which begins with the first one."""

    def __init__(self, environment: Mapping[str, str], *, renew: bool = False) -> None:
        """`environment` is added to ours. With `renew` every command gets a new process."""
        self._environment, self._renew = os.environ | dict(environment), renew
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """The exit code of a command; what it says goes to `log`."""
        process = self._process or self._begin()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([list(arguments), str(log)]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        code = int(answer) if answer else process.wait() or 1  # it ended without an answer
        if code != 0 or self._renew:
            self.close()
        return code

    def close(self) -> None:
        """End the process, which is waiting for a command or has ended."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

    def _begin(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "distill.lane"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._process


def serve() -> None:
    """Run the commands that standard input names, a line each, and answer with their exit codes."""
    from distill.__main__ import main

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing but answers goes there
    for line in sys.stdin:
        arguments, log = json.loads(line)
        with Path(log).open("w", encoding="utf-8") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
        code = main(arguments)
        forget()
        sys.stdout.flush()
        answers.write(f"{code}\n")
        answers.flush()


def forget() -> None:
    """Let go of what a command leaves: compiled code of networks that are gone, and a GPU's memory."""
    import torch

    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    serve()
