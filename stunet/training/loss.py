"""The loss of a run, as its data ask for it: over classes, or over the regions of the store."""

from __future__ import annotations

from functools import partial

from stunet.engine import distributed
from stunet.engine.step import LossFunction
from stunet.io.manifest import DatasetInfo
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.losses.dice_ce import dice_ce
from stunet.losses.region_dice_bce import region_dice_bce
from stunet.models.spec import ModelConfig


def training_loss(info: DatasetInfo, network: ModelConfig, batch_dice: bool) -> LossFunction:
    """Of all outputs of a network in training mode.

    Args:
        info: What the data sets share.
        network: What is trained on them.
        batch_dice: Dice over the micro-batches of all ranks as one volume.
    """
    loss = (
        partial(region_dice_bce, regions=tuple(info.regions.values())) if info.regions else dice_ce
    )
    of_one_resolution = partial(
        loss,
        ignore_label=info.ignore_label,
        batch_dice=batch_dice,
        sum_over_ranks=distributed.sum_over_ranks,
    )
    return partial(deep_supervision_loss, strides=network.strides, loss=of_one_resolution)
