"""Runs on every rank; `test_batch_dice.py` starts it.

usage: dice_worker.py TASK FOLDER
"""

import sys

import torch

from stunet.engine import distributed
from stunet.losses.dice_ce import dice_ce


def batch_dice() -> None:
    """The mean gradient of two ranks equals the gradient of one process on the joined batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, 7, 8, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (4, 6, 7, 8), generator=generator)
    annotated = torch.ones(4, 5, dtype=torch.bool)
    annotated[0, 3] = annotated[3, 4] = annotated[:, 2] = False
    label[~annotated[torch.arange(4)[:, None, None, None], label]] = 0

    whole = logits.clone().requires_grad_()
    expected = dice_ce(whole, label, annotated, batch_dice=True)
    expected.backward()

    mine = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    part = logits[mine].clone().requires_grad_()
    loss = dice_ce(
        part,
        label[mine],
        annotated[mine],
        batch_dice=True,
        sum_over_ranks=distributed.sum_over_ranks,
    )
    loss.backward()
    assert distributed.world() == 2
    mean = distributed.sum_over_ranks(loss) / 2
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(part.grad / 2, whole.grad[mine], rtol=1e-10, atol=1e-15)
    # Without the exchange it would not.
    alone = dice_ce(logits[mine], label[mine], annotated[mine], batch_dice=True)
    assert abs(distributed.sum_over_ranks(alone) / 2 - expected) > 1e-5


if __name__ == "__main__":
    assert sys.argv[1] == "batch_dice"
    distributed.start()
    batch_dice()
    distributed.stop()
