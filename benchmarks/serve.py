"""The far end of a `Worker`: a JSON request per line on stdin, a JSON answer per line on stdout.

Runs in our environment and in the peers': it imports what both have. What the work prints goes to
stderr. Linux only: memory and bytes read are asked of /proc.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

MB = 1e6
PROC = Path("/proc/self")


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Do the work once and tell what it took; the keys are those of `worker.Measured`."""
    ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier would hide what this work needs
    (PROC / "clear_refs").write_text("5")  # the peak of resident memory starts anew
    resident, asked, read = _status("VmRSS"), _io("rchar"), _io("read_bytes")
    with_gpu = torch.cuda.is_initialized()
    if with_gpu:
        torch.cuda.reset_peak_memory_stats()
    began_cpu, began = time.process_time(), time.perf_counter()
    result = work()
    if with_gpu:
        torch.cuda.synchronize()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "cpu_ms": 1000 * cpu_s,
        "wall_ms": 1000 * wall_s,
        "peak_mb": (_status("VmHWM") - resident) * 1024 / MB,
        "gpu_mb": torch.cuda.max_memory_allocated() / MB if with_gpu else 0.0,
        "asked_mb": (_io("rchar") - asked) / MB,
        "disk_mb": (_io("read_bytes") - read) / MB,
        "result": result,
    }


def _status(name: str) -> int:
    """A size from /proc/self/status in KiB."""
    return _number(PROC / "status", name)


def _io(name: str) -> int:
    """A byte count from /proc/self/io."""
    return _number(PROC / "io", name)


def _number(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(f"{file} has no {name}")


def _answer(request: dict[str, Any], ready: list[Callable[[], Any]]) -> Any:
    if "turn" in request:
        return measured(ready[request["turn"]])
    module, _, function = request["open"].partition(":")
    factory = attrgetter(function)(importlib.import_module(f"benchmarks.{module}"))
    arguments = {  # JSON knows no tuples
        name: tuple(value) if isinstance(value, list) else value
        for name, value in request["arguments"].items()
    }
    ready.append(factory(**arguments))
    return len(ready) - 1


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready: list[Callable[[], Any]] = []
    for line in sys.stdin:
        try:
            answer = {"value": _answer(json.loads(line), ready)}
        except Exception:  # the other end raises it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
