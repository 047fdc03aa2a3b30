"""Sweep and export on a GPU, also where the sum does not fit beside the network."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from stunet.inference.segment import segment
from stunet.inference.sweep import Network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def body() -> nn.Module:
    layer = nn.Conv3d(1, 40, 1).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for p in layer.parameters():
        p.copy_(torch.randn(p.shape, generator=generator))
    return layer


def scan(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("paints", [(), tuple(range(40, 0, -1))], ids=["classes", "regions"])
def test_labels_are_those_of_the_cpu_up_to_ties(paints):
    image = scan((40, 50, 60))
    on_cpu, on_gpu = (
        segment(
            Network(body().to(device), device=device, paints=paints),
            image,
            (16, 16, 16),
            (61, 55, 120),
        )
        for device in ("cpu", "cuda")
    )
    assert (on_cpu != on_gpu).mean() < 1e-3


def test_a_sum_that_does_not_fit_is_kept_on_the_host(caplog):
    """One window takes 0.7 GB with its copies, the sum 1.3 GB; 1.6 GB are allowed."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.6 * 2**30 / total)
    try:
        image = scan((128, 256, 256))
        network = Network(body().cuda(), device="cuda")
        with caplog.at_level(logging.WARNING):
            found = segment(network, image, (128, 128, 128))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [record.message for record in caplog.records] == [
        "the sum over windows does not fit beside the network on cuda: kept on host"
    ]
    expected = segment(Network(body()), image, (128, 128, 128))
    assert np.mean(found != expected) < 1e-3
