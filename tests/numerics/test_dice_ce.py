"""Dice + cross-entropy against an independent one-hot implementation: value and gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stunet.losses.dice_ce import dice_ce


def reference(
    logits: Tensor,
    label: Tensor,
    annotated: Tensor | None = None,
    *,
    ignore_label: int | None = None,
    batch_dice: bool = False,
) -> Tensor:
    """Written out over a one-hot target, left to autograd."""
    batch, classes = logits.shape[:2]
    counted = torch.ones_like(label, dtype=torch.bool)
    if ignore_label is not None:
        counted = label != ignore_label
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    one_hot = torch.stack([label == k for k in range(classes)], 1).to(logits.dtype)
    if annotated is None:
        annotated = torch.ones(batch, classes, dtype=torch.bool)
    known = annotated.to(logits.dtype)[:, :, None, None, None]
    in_background = ((1 - known) * p).sum(1, keepdim=True)
    likelihood = torch.cat([p[:, :1] + in_background, (known * p)[:, 1:]], 1)
    # No logarithm of 0, whose slope is NaN even where it is not looked at.
    likelihood = torch.where(one_hot > 0, likelihood, 1)

    cross_entropy = torch.zeros((), dtype=logits.dtype)
    if counted.any():
        cross_entropy = -likelihood.log().sum(1)[counted].mean()

    groups = [list(range(batch))] if batch_dice else [[b] for b in range(batch)]
    dices = []
    for group in groups:
        p_kn = torch.cat([(known * p)[b][:, counted[b]] for b in group], 1)
        y_kn = torch.cat([one_hot[b][:, counted[b]] for b in group], 1)
        overlap, total = (p_kn * y_kn).sum(1), p_kn.sum(1) + y_kn.sum(1)
        y_and_p = (2 * overlap + 1e-5) / (total + 1e-5)
        dices += [y_and_p[k] for k in range(1, classes) if annotated[group, k].any()]
    return cross_entropy + (1 - torch.stack(dices).mean() if dices else 0)


def random_label(shape: tuple[int, ...], classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, classes, shape, generator=generator, dtype=torch.int16)


def random_logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2


def value_and_gradient(
    loss: Callable[..., Tensor], logits: Tensor, *args: object, **options: object
) -> list[Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *args, **options) * 1.7  # an upstream gradient that is not 1
    value.backward()
    assert logits.grad is not None
    return [value.detach(), logits.grad]


def absent_class(label: Tensor) -> Tensor:
    return torch.where(label == 2, 0, label).to(torch.int16)


def absent_in_one_sample(label: Tensor) -> Tensor:
    label = label.clone()
    label[0][label[0] == 3] = 1
    return label


LABELS = {
    "plain": (lambda label: label, None),
    "class absent": (absent_class, None),
    "class absent from one sample": (absent_in_one_sample, None),
    "all background": (torch.zeros_like, None),
    "ignored voxels": (lambda label: label.masked_fill(label == 4, 255), 255),
    "ignore label -1": (lambda label: label.masked_fill(label == 1, -1), -1),
    "ignore label not present": (lambda label: label, 255),
    "one sample ignored": (lambda label: torch.cat([label[:1] * 0 + 255, label[1:]]), 255),
    "all ignored": (lambda label: label * 0 + 255, 255),
}


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("case", LABELS)
def test_equals_the_one_hot_loss(case: str, batch_dice: bool) -> None:
    change, ignore_label = LABELS[case]
    label = change(random_label((2, 5, 6, 7), 5))
    logits = random_logits(2, 5, 5, 6, 7)
    options = {"ignore_label": ignore_label, "batch_dice": batch_dice}
    ours, theirs = (value_and_gradient(f, logits, label, **options) for f in (dice_ce, reference))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-14)


# Classes that are not annotated in each of two samples; their voxels then have label 0.
MISSING = {
    "one class of one sample": ((3,), ()),
    "other classes in each": ((1, 4), (2,)),
    "the same class in both": ((2,), (2,)),
    "no structure in one sample": ((1, 2, 3, 4), ()),
    "no structure at all": ((1, 2, 3, 4), (1, 2, 3, 4)),
}


@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("case", MISSING)
def test_partly_annotated_samples_equal_the_one_hot_loss(
    case: str, batch_dice: bool, ignore_label: int | None
) -> None:
    label = random_label((2, 5, 6, 7), 5)
    annotated = torch.ones(2, 5, dtype=torch.bool)
    for sample, missing in enumerate(MISSING[case]):
        for value in missing:
            annotated[sample, value] = False
            label[sample][label[sample] == value] = 0
    if ignore_label is not None:
        label[:, :2] = ignore_label
    logits = random_logits(2, 5, 5, 6, 7)
    options = {"ignore_label": ignore_label, "batch_dice": batch_dice}
    ours, theirs = (
        value_and_gradient(f, logits, label, annotated, **options) for f in (dice_ce, reference)
    )
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-14)


def test_an_unannotated_class_may_be_found_in_the_background_at_no_cost() -> None:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.int16)
    annotated = torch.tensor([[True, True, False]])
    logits = torch.tensor([-20.0, -20.0, 20.0])[None, :, None, None, None].expand(1, 3, 4, 4, 4)
    value, gradient = value_and_gradient(dice_ce, logits, label, annotated)
    assert value.item() < 1e-6 and gradient.abs().max() < 1e-6
    punished, _ = value_and_gradient(dice_ce, logits, label)
    assert punished.item() > 40


def test_no_background_probability_left_is_still_finite() -> None:
    label = torch.zeros(1, 2, 2, 2, dtype=torch.int16)
    annotated = torch.tensor([[True, True, False]])
    logits = torch.tensor([-400.0, 400.0, -401.0])[None, :, None, None, None].expand(1, 3, 2, 2, 2)
    value, gradient = value_and_gradient(dice_ce, logits.float(), label, annotated)
    likelier = math.log(1 + math.exp(-1))
    assert value.item() == pytest.approx(1.7 * (800 - likelier + 1), rel=1e-6)
    split = torch.tensor([1, math.exp(-1)]) / (1 + math.exp(-1))
    torch.testing.assert_close(gradient[0, [0, 2], 0, 0, 0], -1.7 / 8 * split)


def test_several_slabs_and_many_classes() -> None:
    label = random_label((1, 45, 32, 32), 105)
    logits = random_logits(1, 105, 45, 32, 32, dtype=torch.float32)
    ours = value_and_gradient(dice_ce, logits, label)
    theirs = value_and_gradient(reference, logits.double(), label)
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=1e-6, atol=0)
    assert (ours[1] - theirs[1]).abs().max() < 1e-6 * theirs[1].abs().max()


def test_numerical_gradient() -> None:
    label = random_label((2, 2, 3, 2), 3).masked_fill(random_label((2, 2, 3, 2), 7) == 0, 9)
    logits = random_logits(2, 3, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dice_ce(x, label, ignore_label=9), (logits,))


def test_memory_layout_does_not_matter() -> None:
    label = random_label((2, 4, 6, 8), 5)
    logits = random_logits(2, 5, 4, 6, 8)
    expected = value_and_gradient(dice_ce, logits, label)
    layouts = (
        logits.contiguous(memory_format=torch.channels_last_3d),
        logits.transpose(2, 4).contiguous().transpose(2, 4),
    )
    for layout in layouts:
        for one, other in zip(value_and_gradient(dice_ce, layout, label), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_low_precision_logits_are_computed_in_float32() -> None:
    label = random_label((1, 8, 8, 8), 5)
    logits = random_logits(1, 5, 8, 8, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(dice_ce, logits, label)
    expected, slope = value_and_gradient(reference, logits.double(), label)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=2**-8, atol=1e-9)


def test_perfect_and_hopeless_logits_stay_finite() -> None:
    label = random_label((1, 6, 6, 6), 4)
    perfect = torch.nn.functional.one_hot(label.long(), 4).movedim(-1, 1).float() * 1e4
    # Hopeless: the three wrong classes tie.
    for logits, expected in ((perfect, 0.0), (-perfect, 1e4 + math.log(3) + 1)):
        value, gradient = value_and_gradient(dice_ce, logits, label)
        assert value.item() == pytest.approx(1.7 * expected, rel=1e-6, abs=1e-4)
        assert gradient.isfinite().all()
