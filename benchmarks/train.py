"""The loss against plain torch: `python -m benchmarks.train --json FILE`.

The peer of the loss is the same definition with a one-hot target, as most toolkits compute it.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.rows import Row, compare, main
from stunet.losses.dice_ce import dice_ce


def measure() -> list[Row]:
    """All rows of this file."""
    return [_loss(classes) for classes in (3, 105)]


def _loss(classes: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, classes, 64, 64, 64, generator=generator, requires_grad=True)
    label = torch.randint(0, classes, (1, 64, 64, 64), generator=generator)

    def ours() -> None:
        logits.grad = None
        dice_ce(logits, label).backward()

    def peer() -> None:
        logits.grad = None
        _one_hot_dice_ce(logits, label).backward()

    return compare(
        f"Dice + CE, forward and backward, 64^3, {classes} classes",
        ours,
        peer,
        "plain torch with a one-hot target",
        repeats=5,
    )


def _one_hot_dice_ce(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    target = one_hot(label, logits.shape[1]).movedim(-1, 1).float()
    probability = logits.softmax(1)
    axes = (2, 3, 4)
    overlap = 2 * (probability * target).sum(axes)
    dice = (overlap + 1e-5) / (probability.sum(axes) + target.sum(axes) + 1e-5)
    return cross_entropy(logits, label) + 1 - dice[:, 1:].mean()


if __name__ == "__main__":
    main(measure)
