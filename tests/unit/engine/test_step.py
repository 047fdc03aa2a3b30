from collections.abc import Callable
from dataclasses import replace

import torch

from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.step import train_step
from stunet.types import Batch


def test_the_loss_is_told_what_is_annotated_where_not_everything_is(
    make_engine: Callable[..., TrainEngine], make_batch: Callable[..., Batch]
) -> None:
    told: list[tuple[torch.Tensor, ...]] = []

    def loss(logits: torch.Tensor, label: torch.Tensor, *annotated: torch.Tensor) -> torch.Tensor:
        told.append(annotated)
        return logits.square().mean()

    engine = make_engine()
    batch = make_batch(0)
    annotated_bk = torch.tensor([[True, False]] * len(batch.label_bdhw))
    train_step(engine, [batch], loss)
    train_step(engine, [replace(batch, annotated_bk=annotated_bk)], loss)
    assert told[0] == ()
    assert torch.equal(told[1][0], annotated_bk)
