"""nnU-Net v2: its default loss for label maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from benchmarks.inputs import random_label, random_logits


def dice_ce() -> DC_and_CE_loss:
    """Return the loss as `nnUNetTrainer._build_loss` makes it on one device, not compiled."""
    return DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=None,
        dice_class=MemoryEfficientSoftDiceLoss,
    )


def deep_supervision(outputs: int) -> DeepSupervisionWrapper:
    """Return the loss over `outputs` resolutions with the trainer's weights."""
    weights = np.array([1 / 2**level for level in range(outputs)])
    weights[-1] = 0
    return DeepSupervisionWrapper(dice_ce(), weights / weights.sum())


def gradient(
    classes: int, side: int, device: str = "cpu", out: str | None = None
) -> Callable[[], None]:
    """Loss and gradient of random logits (1, classes, side, side, side), saved to `out`."""
    logits = torch.from_numpy(random_logits(classes, (side,) * 3))[None].to(device)
    logits.requires_grad_()
    label = torch.from_numpy(random_label(classes, (side,) * 3))[None, None].short().to(device)
    loss = dice_ce()

    def turn() -> None:
        loss(logits, label).backward()
        assert logits.grad is not None
        if out is not None:
            np.save(out, logits.grad.cpu().numpy())
        logits.grad = None

    return turn
