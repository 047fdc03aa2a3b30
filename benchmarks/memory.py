"""Peak memory as measured beside `stunet estimate`: `python -m benchmarks.memory [--json FILE]`.

Prints the table of docs/estimate.md. Each step runs in a process of its own: STU-Net-XS and -S on
the CPU, -B and -H on a GPU where there is one. Under torchrun (`torchrun --nproc-per-node 2 -m
benchmarks.memory`) it measures what ZeRO shares out over ranks, on CPUs, and rank 0 prints.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from benchmarks.ours.memory import Case, estimated_bytes, measured_bytes
from benchmarks.worker import Worker
from stunet.engine import distributed

CPU_PATCHES = ((32, 32, 64), (32, 64, 64), (64, 64, 64))
RECOMPUTE: tuple[Literal["none", "block"], ...] = ("none", "block")
GOAL = 0.15


def cases() -> Iterator[Case]:
    """All that can be measured here."""
    for size, patch, batch, recompute in product(("XS", "S"), CPU_PATCHES, (1, 2), RECOMPUTE):
        yield Case(size, patch, batch, recompute, "sgd" if batch == 1 else "adamw")
    for stage in (1, 2, 3):
        yield Case("S", CPU_PATCHES[0], 1, "none", "sgd", accumulation=2, zero_stage=stage)
    if torch.cuda.is_available():
        for size, batch, recompute in product(("B", "H"), (1, 2), RECOMPUTE):
            yield Case(size, (128, 128, 128), batch, recompute, device="cuda")


def shared_cases() -> Iterator[Case]:
    """What ranks share."""
    for stage, accumulation in product(range(4), (1, 2)):
        optimizer: Literal["sgd", "adamw"] = "sgd" if accumulation == 1 else "adamw"
        yield Case("S", CPU_PATCHES[0], 1, "block", optimizer, accumulation, stage)


def alone(case: Case) -> tuple[int, int]:
    """Bytes measured and estimated in a process of its own."""
    with Worker() as worker:
        measured, estimated = worker.open("ours.memory:peaks", **asdict(case))().result
    return measured, estimated


def together(case: Case) -> tuple[int, int]:
    """The same on this rank, beside the others."""
    distributed.start()
    return measured_bytes(case), estimated_bytes(case)


def main() -> None:
    """Measure, print a line per case and say what was not run."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rows = []
    for case in shared_cases() if ranks > 1 else cases():
        measured, estimated = together(case) if ranks > 1 else alone(case)
        where = torch.cuda.get_device_name() if case.device == "cuda" else f"{ranks} x cpu"
        rows.append({**asdict(case), "where": where, "measured": measured, "estimated": estimated})
        if not distributed.is_main():
            continue
        if len(rows) == 1:
            print("| step | where | measured MB | estimated MB | off by |\n|---|---|---|---|---|")
        off = round(estimated / measured - 1, 3) or 0.0  # no "-0.0%"
        print(
            f"| {case} | {where} | {measured / 1e6:.1f} | {estimated / 1e6:.1f} |"
            f" {off:+.1%}{'' if abs(off) <= GOAL else ' **missed**'} |",
            flush=True,
        )
    if ranks > 1:
        distributed.stop()
    elif not torch.cuda.is_available():
        print("\nSTU-Net-B and -H at 128^3 were not run: there is no CUDA GPU here.")
    if arguments.json is not None and os.environ.get("RANK", "0") == "0":
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
