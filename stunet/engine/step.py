"""One training step. It logs nothing, saves nothing and asks for no rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stunet.types import Batch

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

LossFunction = Callable[[Any, torch.Tensor], torch.Tensor]
"""(logits or list of logits, label_bdhw) -> scalar loss."""


@dataclass(frozen=True)
class StepResult:
    """What a step did; tensors stay on the device until somebody wants to read them.

    Attributes:
        losses: (micro-batches,) loss of each of this rank's micro-batches.
        grad_norm: () norm of the whole gradient before clipping; not finite if skipped.
        skipped: Whether a loss or gradient on any rank was not finite and the weights stayed.
        lr: Learning rate of this step.
    """

    losses: torch.Tensor
    grad_norm: torch.Tensor
    skipped: bool
    lr: float


def train_step(
    engine: TrainEngine, batches: Sequence[Batch], loss_function: LossFunction
) -> StepResult:
    """Forward, loss and backward on each micro-batch, then one optimiser step."""
    losses = []
    for batch in batches:
        logits = engine.forward(batch.image_bcdhw)
        loss = loss_function(logits, batch.label_bdhw.to(engine.device, non_blocking=True))
        engine.backward(loss)
        losses.append(loss.detach())
    update = engine.step()
    return StepResult(torch.stack(losses), update.grad_norm, update.skipped, update.lr)
