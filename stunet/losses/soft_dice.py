"""The soft Dice term of the losses, in closed form from sums over voxels: value and derivative.

Which sums, and how a derivative by probabilities becomes one by logits, is the business of
`stunet.losses.dice_ce` and `stunet.losses.region_dice_bce`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SMOOTH = 1e-5  # added to both sides of the Dice fraction, as in nnU-Net

SumOverRanks = Callable[[Tensor], Tensor]
"""A tensor of this rank to the sum of all ranks' tensors, on all of them."""


def dice_term(
    sums_3bk: Tensor,
    has_dice_bk: Tensor,
    batch_dice: bool,
    sum_over_ranks: SumOverRanks | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One minus the mean of the fractions  Dice = (2 I + smooth) / S.

    With p a probability, y its target (0 or 1) and, per sample and class,

        I = sum(p y),   S = sum(p) + sum(y) + smooth,

    the derivative by p is  slope + gain y  with  gain = -2 / (M S),  slope = Dice / (M S),  M the
    number of fractions averaged.

    Args:
        sums_3bk: Sums of p y, of p and of y over the counted voxels, float64.
        has_dice_bk: 1 where there is a fraction, 0 where there is none.
        batch_dice: Sum over the batch before forming the fraction.
        sum_over_ranks: With `batch_dice`, the batch is that of all ranks.

    Returns:
        () the term, and slope and gain, (B, K) or (1, K).
    """
    ranks: float | Tensor = 1.0
    if batch_dice:
        sums_3bk, has_dice_bk, ranks = _joined(sums_3bk, has_dice_bk, sum_over_ranks)
    intersection, predicted, reference = sums_3bk
    total = predicted + reference + SMOOTH
    dice = (2 * intersection + SMOOTH) / total
    share = has_dice_bk / has_dice_bk.sum().clamp(min=1)
    slope, gain = ranks * share * dice / total, -2 * ranks * share / total
    return (share * (1 - dice)).sum(), slope, gain


def _joined(
    sums_3bk: Tensor, has_dice_bk: Tensor, sum_over_ranks: SumOverRanks | None
) -> tuple[Tensor, Tensor, float | Tensor]:
    """The sums (3, 1, K) of the whole batch, which classes (1, K) have a fraction, and how many
    ranks there are: the engine takes the mean over ranks of gradients that belong to one sum.
    """
    rows = torch.cat([sums_3bk, has_dice_bk[None]]).sum(1, keepdim=True)
    ranks: float | Tensor = 1.0
    if sum_over_ranks is not None:
        everywhere = sum_over_ranks(torch.cat([rows.flatten(), rows.new_ones(1)]))
        rows, ranks = everywhere[:-1].view_as(rows), everywhere[-1]
    return rows[:3], rows[3].clamp(max=1), ranks
