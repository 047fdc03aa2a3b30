"""The passes of the loss as kernels against those in plain torch, which `numerics` tests."""

import pytest
import torch
from torch import Tensor

from stunet.losses import slabs


def inputs(classes: int, device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (5, 6, 7)
    logits = torch.randn(2, classes, *shape, generator=generator) * 3
    label = torch.randint(0, classes, (2, *shape), generator=generator, dtype=torch.int16)
    annotated = torch.rand(2, classes, generator=generator) < 0.7
    annotated[:, 0] = True
    return logits.to(device, dtype), label.to(device), annotated.to(device)


def compare(
    logits: Tensor, label: Tensor, ignore_label: int | None, annotated: Tensor | None, rtol: float
) -> None:
    from stunet.kernels import dice_ce as kernels

    generator = torch.Generator().manual_seed(1)
    slope, gain = torch.rand(2, *logits.shape[:2], generator=generator, dtype=torch.float64).to(
        logits.device
    )
    weight = torch.tensor(1.3, dtype=torch.float64, device=logits.device)
    common = (logits, label, ignore_label, annotated)
    for ours, theirs in zip(kernels.class_sums(*common), slabs.class_sums(*common), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    theirs = slabs.gradient(*common, slope, -gain, weight)
    ours = kernels.gradient(*common, slope, -gain, weight)
    assert ours.dtype == theirs.dtype == logits.dtype
    assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("ignore_label", [None, 0, 2, -1])
@pytest.mark.parametrize("classes", [2, 5, 105])
def test_equals_the_slabs(
    device: str, classes: int, ignore_label: int | None, partial: bool
) -> None:
    logits, label, annotated = inputs(classes, device)
    if ignore_label == -1:
        label[:, 1] = -1
    compare(logits, label, ignore_label, annotated if partial else None, rtol=1e-6)


def test_all_ignored_and_nothing_annotated(device: str) -> None:
    logits, label, annotated = inputs(5, device)
    compare(logits, torch.full_like(label, 9), 9, annotated, rtol=1e-6)
    annotated[:, 1:] = False
    compare(logits, label, None, annotated, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(device: str, dtype: torch.dtype) -> None:
    logits, label, annotated = inputs(5, device, dtype)
    rtol = 2**-7 if dtype == torch.bfloat16 else 1e-12
    compare(logits, label, None, annotated, rtol)


def test_other_memory_layouts(device: str) -> None:
    logits, label, annotated = inputs(5, device)
    wide = label.repeat_interleave(2, dim=1)[:, ::2]
    compare(logits, wide, None, annotated, rtol=1e-6)
    last = logits.contiguous(memory_format=torch.channels_last_3d)
    compare(last, label, None, None, rtol=1e-6)
    compare(logits.transpose(2, 4).contiguous().transpose(2, 4), label, None, None, rtol=1e-6)


def test_large_logits_stay_finite(device: str) -> None:
    logits, label, annotated = inputs(5, device)
    compare(logits * 1e3, label, None, None, rtol=1e-6)
    compare(logits * 1e3, label, None, annotated, rtol=1e-6)
