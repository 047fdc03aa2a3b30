"""The estimated peak of a training step against every allocation that torch's profiler sees."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product

import pytest
import torch

from benchmarks.ours.memory import Case, estimated_bytes, measured_bytes
from stunet.engine import distributed

OFF_BY = 0.15
PATCHES = ((32, 32, 64), (32, 64, 64))
CHOICES = [*product(PATCHES, (1, 2), ("none", "block"))]
CASES = [
    Case("XS", *choice, optimizer=("sgd", "adamw")[(number + number // 2) % 2])
    for number, choice in enumerate(CHOICES)
] + [
    Case("S", *choice, optimizer=("adamw", "sgd")[number % 2])
    for number, choice in enumerate([*CHOICES[:4], CHOICES[4], CHOICES[7]])
]
SHARED = [
    Case("XS", PATCHES[0], 1, "none", "sgd", accumulation, stage)
    for accumulation, stage in ((1, 1), (2, 2), (2, 3))
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread_in_a_group_of_its_own() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # what other tests left need not be looked at between the steps
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
    distributed.stop()


@pytest.mark.parametrize("case", CASES + SHARED, ids=str)
def test_a_step_takes_what_was_foretold(case: Case) -> None:
    assert estimated_bytes(case) == pytest.approx(measured_bytes(case), rel=OFF_BY)
