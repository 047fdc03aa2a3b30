"""One training step. It logs nothing, saves nothing and asks for no rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stunet.engine.arrival import DeviceClock, patches_on
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

LossFunction = Callable[..., torch.Tensor]
"""(logits or list of logits, label_bdhw) -> scalar loss; annotated_bk follows if it is not None."""

Reject = Callable[[torch.Tensor], bool]
"""(losses of this rank's micro-batches) -> whether to skip the step; the same on every rank."""


@dataclass(frozen=True)
class StepResult:
    """What a step did; tensors stay on the device until somebody wants to read them.

    Attributes:
        losses: (micro-batches,) loss of each of this rank's micro-batches.
        grad_norm: () norm of the whole gradient before clipping; not finite if skipped.
        skipped: Whether the weights stayed, because a loss or gradient on any rank was not finite
            or the step was rejected.
        rejected: Whether `reject` said so.
        lr: Learning rate of this step.
        augment_s: Mean seconds that a patch was augmented for on the device; 0 where the loader
            did it.
    """

    losses: torch.Tensor
    grad_norm: torch.Tensor
    skipped: bool
    rejected: bool
    lr: float
    augment_s: float = 0.0


def train_step(
    engine: TrainEngine,
    batches: Sequence[Batch | WindowBatch],
    loss_function: LossFunction,
    reject: Reject = lambda losses: False,
) -> StepResult:
    """Forward, loss and backward on each micro-batch, augmented if it is not yet, then one update.

    `reject` is asked once, when all losses are known and the last gradient is not.
    """
    losses: list[torch.Tensor] = []
    rejected = False
    clock = DeviceClock(engine.device)
    for arrived in batches:
        batch = patches_on(engine.device, arrived, clock)
        logits = engine.forward(batch.image_bcdhw)
        wanted = [batch.label_bdhw]
        if batch.annotated_bk is not None:
            wanted.append(batch.annotated_bk)
        loss = loss_function(logits, *(t.to(engine.device, non_blocking=True) for t in wanted))
        losses.append(loss.detach())
        if len(losses) == len(batches):
            rejected = reject(torch.stack(losses))
        if rejected:
            loss = loss * torch.nan  # the engine skips the step, as for any loss that is not finite
        engine.backward(loss)
    update = engine.step()
    augment_s = clock.seconds() / sum(len(batch.sample_ids) for batch in batches)
    return StepResult(
        torch.stack(losses), update.grad_norm, update.skipped, rejected, update.lr, augment_s
    )
