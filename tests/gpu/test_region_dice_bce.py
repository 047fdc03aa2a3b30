"""The loss over regions on a GPU: that of the CPU, whose parity is shown in tests/numerics."""

import pytest
import torch

from stunet.losses.region_dice_bce import region_dice_bce

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("batch_dice", [False, True])
def test_value_and_gradient_are_those_of_the_cpu(batch_dice: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 40, 50, 60, generator=generator)
    label = torch.randint(0, 6, (2, 40, 50, 60), generator=generator, dtype=torch.int16)
    annotated = torch.tensor([[True, True, True], [True, False, True]])
    found = []
    for device in ("cpu", "cuda"):
        here = logits.detach().to(device).requires_grad_()
        value = region_dice_bce(
            here, label.to(device), annotated.to(device), regions=((1, 2, 3), (2, 3), (4,)),
            ignore_label=5, batch_dice=batch_dice,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(value, here)
        found.append((value.item(), gradient.cpu()))
    (expected, slope), (value, gradient) = found
    assert value == pytest.approx(expected, rel=1e-6)
    assert (gradient - slope).abs().max() < 1e-6 * slope.abs().max()
