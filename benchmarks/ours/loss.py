"""Our side of the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.inputs import random_label, random_logits
from stunet.losses.dice_ce import dice_ce


def gradient(
    classes: int, side: int, device: str = "cpu", out: str | None = None
) -> Callable[[], None]:
    """Loss and gradient of random logits (1, classes, side, side, side), saved to `out`."""
    logits, label = _inputs(classes, side, device)

    def turn() -> None:
        dice_ce(logits, label).backward()
        assert logits.grad is not None
        if out is not None:
            np.save(out, logits.grad.cpu().numpy())
        logits.grad = None

    return turn


def one_hot_gradient(classes: int, side: int) -> Callable[[], None]:
    """The same definition in plain torch with a one-hot target, as most toolkits compute it."""
    logits, label = _inputs(classes, side, "cpu")

    def turn() -> None:
        target = one_hot(label.long(), classes).movedim(-1, 1).float()
        probability = logits.softmax(1)
        overlap = 2 * (probability * target).sum((2, 3, 4))
        dice = (overlap + 1e-5) / (probability.sum((2, 3, 4)) + target.sum((2, 3, 4)) + 1e-5)
        (cross_entropy(logits, label.long()) + 1 - dice[:, 1:].mean()).backward()
        logits.grad = None

    return turn


def _inputs(classes: int, side: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.from_numpy(random_logits(classes, (side,) * 3))[None]
    label = torch.from_numpy(random_label(classes, (side,) * 3))[None].short()
    return logits.to(device).requires_grad_(), label.to(device)
