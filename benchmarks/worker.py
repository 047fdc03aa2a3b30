"""Work in a process of its own, in this or in the peers' environment: `Worker` and `Round`.

`benchmarks.serve` is the other end of the pipe and does the measuring, the same for both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """What one turn took.

    Attributes:
        cpu_ms: CPU time of the process, all threads.
        wall_ms: Elapsed time, until a GPU had finished too.
        peak_mb: Highest resident memory above that at the start.
        gpu_mb: Highest memory of tensors on a GPU, weights included.
        asked_mb: Bytes asked for by read calls; memory maps do not count.
        disk_mb: Bytes that came from the disk, read-ahead included.
        result: What the work returned, as JSON holds it.
    """

    cpu_ms: float
    wall_ms: float
    peak_mb: float
    gpu_mb: float
    asked_mb: float
    disk_mb: float
    result: Any


@dataclass(frozen=True)
class Round:
    """Work that a worker holds ready; call it to have it done once more."""

    worker: Worker
    number: int

    def __call__(self) -> Measured:
        """Have the work done once.

        Raises:
            RuntimeError: As `Worker.ask`.
        """
        return Measured(**self.worker.ask({"turn": self.number}))


class Worker:
    """A process with the interpreter `python` that holds work ready, one thread each.

    Use it as a context manager, which ends the process.

    Attributes:
        python: The interpreter.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.serve"],
            cwd=ROOT,
            env={**os.environ, **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.close()  # at which it ends
        self._process.stdout.close()
        self._process.wait()

    def open(self, factory: str, **arguments: Any) -> Round:
        """Make work ready.

        Args:
            factory: `module:function` below `benchmarks`; it returns a callable without arguments.
            arguments: For the factory; JSON values.
        """
        return Round(self, self.ask({"open": factory, "arguments": arguments}))

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: The work failed, with the traceback of the other side, or the process
                ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{request}: the worker ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{request}:\n{answer['error']}")
        return answer["value"]
