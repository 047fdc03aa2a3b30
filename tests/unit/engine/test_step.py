from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.step import train_step
from stunet.transforms.intensity import ChannelDraw, IntensityDraw
from stunet.transforms.windows import Augmentation, Window, WindowBatch
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


def test_windows_are_augmented_before_the_network_sees_them(
    make_engine: Callable[..., TrainEngine], make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch(0)
    brighter = IntensityDraw(None, 0, (0, 1, 2), (ChannelDraw(brightness=2.0),))
    todo = Augmentation(None, (False, True, False), brighter)
    windows = [
        Window(image.flip(2) / 2, label.flip(1), todo)
        for image, label in zip(batch.image_bcdhw, batch.label_bdhw, strict=True)
    ]
    sent = WindowBatch(tuple(windows), batch.sample_ids, batch.case_ids, None, 0.0, 0.0)

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits.float(), label.long())

    from_patches = train_step(make_engine(seed=1), [batch], loss)
    from_windows = train_step(make_engine(seed=1), [sent], loss)
    assert torch.equal(from_windows.losses, from_patches.losses)
    assert from_windows.augment_s > 0 == from_patches.augment_s
