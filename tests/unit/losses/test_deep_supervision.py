from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import torch

from stunet.losses.deep_supervision import (
    deep_supervision_loss,
    deep_supervision_scales,
    deep_supervision_weights,
    downsample_label,
)
from stunet.losses.dice_ce import dice_ce
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Size3

RELEASED_STRIDES: tuple[Size3, ...] = ((2, 2, 2),) * 4 + ((1, 1, 2),)


def test_published_weights() -> None:
    assert deep_supervision_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert deep_supervision_weights(1) == (1.0,)


@pytest.mark.parametrize(
    ("strides", "coarsest"),
    [
        (((2, 2, 2),) * 5, (16, 16, 16)),
        (RELEASED_STRIDES, (16, 16, 16)),
        (((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)), (4, 16, 16)),
    ],
)
def test_scales_follow_the_strides(strides: tuple[Size3, ...], coarsest: Size3) -> None:
    scales = deep_supervision_scales(strides)
    assert len(scales) == 5
    assert scales[0] == (1, 1, 1)
    assert scales[-1] == coarsest


@pytest.mark.parametrize("scale", [(1, 1, 1), (2, 2, 2), (4, 4, 4), (1, 2, 8), (3, 1, 16)])
def test_labels_are_those_of_order_0_resizing(scale: Size3) -> None:
    shape = (12 * scale[0], 4 * scale[1], 3 * scale[2])
    label = torch.randint(0, 9, (2, *shape), generator=torch.Generator().manual_seed(0))
    ours = downsample_label(label, scale)
    assert ours.shape == (2, 12, 4, 3)
    torch_picks = torch.nn.functional.interpolate(
        label[:, None].float(), size=(12, 4, 3), mode="nearest-exact"
    )
    assert torch.equal(ours, torch_picks[:, 0].long())
    scipy_picks = scipy.ndimage.zoom(
        label[0].numpy(), 1 / np.array(scale), order=0, grid_mode=True, mode="nearest"
    )
    assert np.array_equal(ours[0].numpy(), scipy_picks)


def test_loss_is_the_weighted_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    shapes = [(4, 8, 8), (4, 4, 4), (2, 2, 2)]
    logits = [torch.randn(2, 3, *shape, generator=generator) for shape in shapes]
    label = torch.randint(0, 3, (2, 4, 8, 8), generator=generator)
    label[0, 0] = 9
    annotated = torch.tensor([[True, False, True], [True, True, True]])
    for batch_dice in (False, True):
        loss = partial(dice_ce, ignore_label=9, batch_dice=batch_dice)
        fine = loss(logits[0], label, annotated)
        half = loss(logits[1], label[:, :, 1::2, 1::2], annotated)
        total = deep_supervision_loss(logits, label, annotated, strides=strides, loss=loss)
        torch.testing.assert_close(total, (2 * fine + half) / 3)


def test_only_the_coarsest_head_is_never_trained() -> None:
    config = ModelConfig(size="XS", in_channels=1, classes=3, strides=RELEASED_STRIDES)
    model = build_model(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, 32, 16, 32, generator=generator)
    label = torch.randint(0, 3, (1, 32, 16, 32), generator=generator)
    deep_supervision_loss(model(image), label, strides=config.strides).backward()
    untrained = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert untrained == ["seg_outputs.0.weight", "seg_outputs.0.bias"]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_ten_steps_reduce_the_loss() -> None:
    config = ModelConfig(size="XS", in_channels=1, classes=2, strides=RELEASED_STRIDES)
    model = build_model(config, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)
    label = torch.zeros(1, 32, 16, 32, dtype=torch.int16)
    label[:, 8:24, 4:12, 8:24] = 1
    noise = torch.randn(1, 1, 32, 16, 32, generator=torch.Generator().manual_seed(0))
    image = label[:, None].float() + 0.3 * noise
    losses = []
    for _ in range(11):
        loss = deep_supervision_loss(model(image), label, strides=config.strides)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
