"""A measured row, how it is timed, and how rows become JSON.

CPU time of this process, since wall time on a shared machine measures its other users. Ours and the
peer take turns, so that whatever slows the machine slows both; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        work: What both did.
        ours, peer: Medians in `unit`.
        peer_name: Whom we compared with.
        unit: Of both.
        ratio: How many times better ours is.
        goal: The ratio to reach, or None where none was set.
        where: `cpu` or the GPU's name.
    """

    work: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    goal: float | None
    where: str


def compare(
    work: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    peer_name: str,
    repeats: int,
) -> Row:
    """Run both in turn `repeats` times, after one unmeasured run each."""
    times_ms: tuple[list[float], list[float]] = ([], [])
    for attempt in range(repeats + 1):
        for call, measured in zip((ours, peer), times_ms, strict=True):
            began = time.process_time()
            call()
            if attempt > 0:
                measured.append(1000 * (time.process_time() - began))
    mine, theirs = (statistics.median(measured) for measured in times_ms)
    return Row(work, mine, theirs, peer_name, "CPU ms", theirs / mine, None, "cpu")


def main(measure: Callable[[], list[Row]]) -> None:
    """Measure on one thread and write the rows where `--json FILE` says, else print them."""
    parser = argparse.ArgumentParser(description="Run a benchmark.")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [asdict(row) for row in measure()]
    text = json.dumps(rows, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    for row in rows:
        print(
            f"{row['work']}: {row['ours']:.1f} {row['unit']}, {row['peer_name']} "
            f"{row['peer']:.1f}, {row['ratio']:.1f}x ({platform.machine()})"
        )
