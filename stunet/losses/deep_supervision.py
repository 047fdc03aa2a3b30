"""The loss summed over the resolutions a network predicts at.

Source: nnU-Net v1. Weights halve from scale to scale, the coarsest counts for nothing, and scales
follow from the strides actually used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from torch import Tensor

from stunet.losses.dice_ce import dice_ce
from stunet.types import Size3

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits_bkdhw, label_bdhw, annotated_bk) -> scalar."""


def deep_supervision_weights(count: int) -> tuple[float, ...]:
    """Weights of `count` outputs, full resolution first; they sum to 1.

    The last output has weight 0 unless it is the only one, so its head keeps its initial values.

    >>> [round(15 * weight) for weight in deep_supervision_weights(5)]
    [8, 4, 2, 1, 0]
    """
    weights = [0.5**scale for scale in range(count)]
    if count > 1:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


def deep_supervision_scales(strides: Sequence[Size3]) -> tuple[Size3, ...]:
    """Input voxels per output voxel, for one output per stride, full resolution first.

    The last stride leads to the bottleneck, which has no output.

    >>> deep_supervision_scales([(2, 2, 2), (1, 2, 2), (2, 2, 2)])
    ((1, 1, 1), (2, 2, 2), (2, 4, 4))
    """

    def coarser(scale: Size3, stride: Size3) -> Size3:
        return scale[0] * stride[0], scale[1] * stride[1], scale[2] * stride[2]

    return tuple(accumulate(strides[:-1], coarser, initial=(1, 1, 1)))


def downsample_label(label_bdhw: Tensor, scale: Size3) -> Tensor:
    """Nearest-neighbour labels at a coarser scale: a view, nothing is copied.

    The voxel at or just above the centre of each cell, index `s // 2` of `s`: what order-0
    resizing with aligned cell edges picks (nnU-Net, `nearest-exact`, scipy's grid mode).
    """
    z, y, x = scale
    return label_bdhw[:, z // 2 :: z, y // 2 :: y, x // 2 :: x]


def deep_supervision_loss(
    logits: Sequence[Tensor],
    label_bdhw: Tensor,
    annotated_bk: Tensor | None = None,
    *,
    strides: Sequence[Size3],
    loss: Loss = dice_ce,
) -> Tensor:
    """Weighted sum of a loss over the outputs of a network in training mode.

    Args:
        logits: (B, K, d, h, w) each, full resolution first, one per stride.
        label_bdhw: Integer labels at full resolution.
        annotated_bk: As in `dice_ce`.
        strides: The network's strides, finest first.
        loss: Of one resolution.

    Returns:
        Scalar >= 0. Outputs of weight 0 are not looked at and get no gradient.
    """
    scales = deep_supervision_scales(strides)
    assert len(logits) == len(scales), f"{len(logits)} outputs for {len(scales)} strides"
    weights = deep_supervision_weights(len(logits))
    terms = [
        weight * loss(output, downsample_label(label_bdhw, scale), annotated_bk)
        for output, scale, weight in zip(logits, scales, weights, strict=True)
        if weight > 0
    ]
    return sum(terms[1:], start=terms[0])
