from __future__ import annotations

import pytest

from launch.gpus import GpuSoftware
from launch.preflight_machine import misfit


@pytest.mark.parametrize(
    ("software", "words"),
    [
        (GpuSoftware("12.4", "2.13.0", "13.0", "2.27.0"), ["13.0", "12.4"]),
        (GpuSoftware("12.4", "2.13.0", "12.8", "2.27.0"), []),
        (GpuSoftware("12.4", "2.13.0", "12.8", None), ["NCCL"]),
    ],
)
def test_driver_and_torch_must_be_of_one_cuda(software: GpuSoftware, words: list[str]) -> None:
    problem, advice = misfit(software)
    assert bool(problem) == bool(words) == bool(advice)
    assert all(word in problem for word in words)
