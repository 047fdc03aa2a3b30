"""Dice + binary cross-entropy over regions against masks of all regions and autograd."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.losses.region_dice_bce import region_dice_bce

# Nested, overlapping, disjoint, and one of a label that others are made of.
REGIONS = ((1, 2, 3), (2, 3), (3, 4), (4,))


def reference(
    logits: Tensor,
    label: Tensor,
    annotated: Tensor | None = None,
    *,
    regions: tuple[tuple[int, ...], ...] = REGIONS,
    ignore_label: int | None = None,
    batch_dice: bool = False,
) -> Tensor:
    """Written out over a mask per sample and region, left to autograd."""
    batch = len(logits)
    pairs, voxels = [], 0
    fractions: dict[int, list[list[Tensor]]] = {}
    for r, values in enumerate(regions):
        for b in range(batch):
            if annotated is not None and not annotated[b, r]:
                continue
            counted = torch.ones_like(label[b], dtype=torch.bool)
            if ignore_label is not None:
                counted = label[b] != ignore_label
            y = torch.stack([label[b] == value for value in values]).any(0)[counted]
            p = 1 / (1 + torch.exp(-logits[b, r][counted]))
            pairs.append(-torch.where(y, p, 1 - p).log().sum())
            voxels += int(counted.sum())
            group = r if batch_dice else r * batch + b
            fractions.setdefault(group, []).append([(p * y).sum(), p.sum(), y.sum()])
    cross_entropy = sum(pairs) / voxels if voxels else torch.zeros((), dtype=logits.dtype)
    dices = []
    for parts in fractions.values():
        overlap, predicted, true = (sum(column) for column in zip(*parts, strict=True))
        dices.append((2 * overlap + 1e-5) / (predicted + true + 1e-5))
    return cross_entropy + (1 - torch.stack(dices).mean() if dices else 0)


ours = partial(region_dice_bce, regions=REGIONS)


def random_label(shape: tuple[int, ...], values: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, values, shape, generator=generator, dtype=torch.int16)


def random_logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2


def value_and_gradient(
    loss: Callable[..., Tensor], logits: Tensor, *args: object, **options: object
) -> list[Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *args, **options) * 1.7  # an upstream gradient that is not 1
    if value.requires_grad:
        value.backward()
    gradient = torch.zeros_like(logits) if logits.grad is None else logits.grad
    return [value.detach(), gradient]


def assert_equal(logits: Tensor, *args: object, **options: object) -> None:
    found, expected = (value_and_gradient(f, logits, *args, **options) for f in (ours, reference))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-14)


LABELS = {
    "plain": (lambda label: label, None),
    "a region absent": (lambda label: label.masked_fill(label == 4, 0), None),
    "all background": (torch.zeros_like, None),
    "labels of no region": (lambda label: torch.where(label == 4, 60, label), None),
    "ignored voxels": (lambda label: label.masked_fill(label == 0, 5), 5),
    "ignore label -1": (lambda label: label.masked_fill(label == 1, -1), -1),
    "ignore label not present": (lambda label: label, 255),
    "one sample ignored": (lambda label: torch.cat([label[:1] * 0 + 255, label[1:]]), 255),
    "all ignored": (lambda label: label * 0 + 255, 255),
}


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("case", LABELS)
def test_equals_the_loss_over_masks(case: str, batch_dice: bool) -> None:
    change, ignore_label = LABELS[case]
    label = change(random_label((2, 5, 6, 7)))
    before = label.clone()
    assert_equal(
        random_logits(2, 4, 5, 6, 7), label, ignore_label=ignore_label, batch_dice=batch_dice
    )
    assert torch.equal(label, before)


@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("missing", [((3,), ()), ((0, 1, 2), (1,)), ((2,), (2,)), (range(4),) * 2])
def test_regions_that_are_not_annotated_do_not_count(
    missing: tuple[tuple[int, ...], ...], batch_dice: bool, ignore_label: int | None
) -> None:
    label = random_label((2, 5, 6, 7))
    if ignore_label is not None:
        label[0, :2] = ignore_label  # another share in each sample
    annotated = torch.ones(2, 4, dtype=torch.bool)
    for sample, regions in enumerate(missing):
        annotated[sample, list(regions)] = False
    logits = random_logits(2, 4, 5, 6, 7)
    assert_equal(logits, label, annotated, ignore_label=ignore_label, batch_dice=batch_dice)
    _, gradient = value_and_gradient(ours, logits, label, annotated, batch_dice=batch_dice)
    assert not gradient[~annotated].any()


def test_an_ignore_label_that_no_voxel_has_changes_nothing() -> None:
    logits, label = random_logits(2, 4, 5, 6, 7), random_label((2, 5, 6, 7))
    with_it, without = (value_and_gradient(ours, logits, label, ignore_label=i) for i in (9, None))
    assert torch.equal(with_it[0], without[0]) and torch.equal(with_it[1], without[1])


def test_several_slabs_in_float32() -> None:
    regions = (*REGIONS, tuple(range(1, 60)), (7, 50, 104))
    label, logits = random_label((2, 33, 40, 56), 105), random_logits(2, 6, 33, 40, 56).float()
    found = value_and_gradient(region_dice_bce, logits, label, regions=regions)
    expected = value_and_gradient(reference, logits.double(), label, regions=regions)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=0)
    assert (found[1] - expected[1]).abs().max() < 1e-6 * expected[1].abs().max()


def test_numerical_gradient() -> None:
    label = random_label((2, 2, 3, 2)).masked_fill(random_label((2, 2, 3, 2), 7) == 0, 9)
    logits = random_logits(2, 4, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ours(x, label, ignore_label=9), (logits,))


def test_memory_layout_does_not_matter() -> None:
    label, logits = random_label((2, 4, 6, 8)), random_logits(2, 4, 4, 6, 8)
    expected = value_and_gradient(ours, logits, label)
    layouts = (
        logits.contiguous(memory_format=torch.channels_last_3d),
        logits.transpose(2, 4).contiguous().transpose(2, 4),
    )
    for layout in layouts:
        for one, other in zip(value_and_gradient(ours, layout, label), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_low_precision_logits_are_computed_in_float32() -> None:
    label, logits = random_label((1, 8, 8, 8)), random_logits(1, 4, 8, 8, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(ours, logits, label)
    expected, slope = value_and_gradient(reference, logits.double(), label)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=2**-8, atol=1e-9)


def test_perfect_and_hopeless_logits_stay_finite() -> None:
    label = random_label((1, 6, 6, 6))
    inside = torch.stack([torch.isin(label, torch.tensor(values)) for values in REGIONS], 1)
    perfect = (2.0 * inside - 1) * 1e4
    for logits, expected in ((perfect, 0.0), (-perfect, 1e4 + 1)):
        value, gradient = value_and_gradient(ours, logits, label)
        assert value.item() == pytest.approx(1.7 * expected, rel=1e-6, abs=1e-4)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_deep_supervision(batch_dice: bool) -> None:
    strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    outputs = [random_logits(2, 4, *shape) for shape in ((4, 8, 8), (4, 4, 4), (2, 2, 2))]
    label = random_label((2, 4, 8, 8)).masked_fill(random_label((2, 4, 8, 8), 7) == 0, 5)
    annotated = torch.tensor([[True, False, True, True], [True] * 4])
    options = {"ignore_label": 5, "batch_dice": batch_dice}
    total = deep_supervision_loss(
        outputs, label, annotated, strides=strides, loss=partial(ours, **options)
    )
    masks_at = {0: label, 1: label[:, :, 1::2, 1::2]}
    fine, half = (reference(outputs[i], masks_at[i], annotated, **options) for i in masks_at)
    torch.testing.assert_close(total, (2 * fine + half) / 3, rtol=1e-12, atol=0)


def test_nothing_of_full_size_is_kept_for_the_backward_pass() -> None:
    kept = []
    label, logits = random_label((1, 32, 32, 32)), random_logits(1, 4, 32, 32, 32).float()
    logits.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(logits, label)
    whole = [tensor for tensor in kept if tensor.numel() >= label.numel()]
    assert {tensor.data_ptr() for tensor in whole} == {logits.data_ptr(), label.data_ptr()}
