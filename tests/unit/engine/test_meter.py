from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from stunet.engine import distributed
from stunet.engine.hardware import peak_flops
from stunet.engine.meter import Meter, Reading
from stunet.engine.step import StepResult
from stunet.types import Batch

CPU = torch.device("cpu")
LOSSES = torch.tensor([1.0, 2.0])


@pytest.fixture(autouse=True)
def _group() -> None:
    distributed.start()


def late(batches: Iterator[Batch], wait_s: float) -> Iterator[Batch]:
    for batch in batches:
        time.sleep(wait_s)
        yield batch


def one_step(meter: Meter, stream: Iterator[Batch], work_s: float) -> Reading:
    meter.draw(stream, 1)
    assert meter.exchange(LOSSES) == 1.5
    time.sleep(work_s)
    meter.add(StepResult(LOSSES, torch.tensor(0.5), skipped=False, rejected=False, lr=0.1))
    return meter.read()


def test_what_limits_a_run_is_said_when_it_changes(
    make_batch: Callable[[int], Batch],
) -> None:
    batch = replace(make_batch(0), patch_s=0.025, augment_s=0.02)
    slow, fast = late(repeat(batch), 0.3), repeat(batch)
    meter = Meter(2, CPU, flops_per_patch=None)
    first = one_step(meter, slow, 0.1)
    assert first.limit.startswith("limited by data: ")
    assert first.limit.endswith("of the time waits for patches; raise loader.workers")
    assert first.values["data_wait_fraction"] > 0.5
    assert first.values["patch_ms"] == pytest.approx(25)
    assert first.values["augment_ms"] == pytest.approx(20)
    assert one_step(meter, slow, 0.1).limit == ""
    third = one_step(meter, fast, 0.3)
    assert third.limit.startswith("limited by computing: ")
    assert third.values["samples_per_s"] < 2 / 0.3
    assert "mfu" not in third.values  # a CPU has no peak to compare with


def test_a_pause_is_not_counted(make_batch: Callable[[int], Batch]) -> None:
    meter = Meter(2, CPU, flops_per_patch=None)
    with meter.paused():
        time.sleep(0.5)
    assert one_step(meter, repeat(make_batch(0)), 0.0).values["samples_per_s"] > 2 / 0.4


def test_peak_memory_is_that_of_the_process(make_batch: Callable[[int], Batch]) -> None:
    psutil = pytest.importorskip("psutil")
    values = one_step(Meter(2, CPU, None), repeat(make_batch(0)), 0.0).values
    now_gb = psutil.Process().memory_info().rss / 1e9
    assert now_gb * 0.99 <= values["peak_memory_gb"] < now_gb + 8


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla V100-SXM2-32GB", 125),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, tera: int) -> None:
    assert peak_flops(name) == tera * 1e12


def test_an_unknown_gpu_has_no_peak() -> None:
    assert peak_flops("NVIDIA GeForce GT 710") is None
