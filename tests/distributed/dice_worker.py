"""Runs on every rank; `test_batch_dice.py` starts it.

usage: dice_worker.py TASK FOLDER
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from stunet.engine import distributed
from stunet.losses.dice_ce import dice_ce
from stunet.losses.region_dice_bce import region_dice_bce

REGIONS = ((1, 2, 3, 4), (2, 3), (3, 4), (4,), (1,))


def batch_dice(loss: Callable[..., torch.Tensor]) -> None:
    """The mean gradient of two ranks equals the gradient of one process on the joined batch.

    As many outputs are annotated on either rank, so that the means of the cross-entropy agree too.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, 7, 8, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (4, 6, 7, 8), generator=generator)
    annotated = torch.ones(4, 5, dtype=torch.bool)
    annotated[0, 3] = annotated[3, 4] = annotated[:, 2] = False
    label[~annotated[torch.arange(4)[:, None, None, None], label]] = 0

    whole = logits.clone().requires_grad_()
    expected = loss(whole, label, annotated, batch_dice=True)
    expected.backward()

    mine = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    part = logits[mine].clone().requires_grad_()
    found = loss(
        part,
        label[mine],
        annotated[mine],
        batch_dice=True,
        sum_over_ranks=distributed.sum_over_ranks,
    )
    found.backward()
    assert distributed.world() == 2
    mean = distributed.sum_over_ranks(found) / 2
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(part.grad / 2, whole.grad[mine], rtol=1e-10, atol=1e-15)
    # Without the exchange it would not.
    alone = loss(logits[mine], label[mine], annotated[mine], batch_dice=True)
    assert abs(distributed.sum_over_ranks(alone) / 2 - expected) > 1e-5


if __name__ == "__main__":
    assert sys.argv[1] == "batch_dice"
    distributed.start()
    batch_dice(dice_ce)
    batch_dice(partial(region_dice_bce, regions=REGIONS))
    distributed.stop()
