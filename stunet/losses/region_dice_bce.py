"""Binary cross-entropy plus soft Dice over regions: sigmoid outputs that may overlap.

A region is a union of label values. Its mask is looked up in the label map slab by slab and never
exists for a whole volume.

Source: nnU-Net's loss for regions. As in `stunet.losses.dice_ce`, `1 - Dice` is added where nnU-Net
adds `-Dice`. With an ignore label nnU-Net sums the cross-entropy over regions; here it is the mean
with and without, see docs/decisions/0010-regions-weigh-the-same-with-an-ignore-label.md. Not for
second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits

from stunet.losses.slabs import contiguous_copy, counted_target, slabs_of
from stunet.losses.soft_dice import SumOverRanks, dice_term


def region_dice_bce(
    logits_brdhw: Tensor,
    label_bdhw: Tensor,
    annotated_br: Tensor | None = None,
    *,
    regions: Sequence[Sequence[int]],
    ignore_label: int | None = None,
    batch_dice: bool = False,
    sum_over_ranks: SumOverRanks | None = None,
) -> Tensor:
    """Mean binary cross-entropy plus one minus the mean soft Dice, over all regions.

    Args:
        logits_brdhw: Network output, a channel per region; any float type. Computed in float32
            (float64 logits in float64), autocast or not.
        label_bdhw: Integer labels >= 0, or `ignore_label`.
        annotated_br: bool, the regions of which every label is annotated in each sample; None: all.
            The others count in neither term.
        regions: The label values that each region is the union of.
        ignore_label: Voxels with this label count in neither term. A patch of nothing else has
            loss 0.
        batch_dice: As in `dice_ce`.
        sum_over_ranks: As in `dice_ce`.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits).
    """
    assert label_bdhw.shape == logits_brdhw.shape[:1] + logits_brdhw.shape[2:]
    assert logits_brdhw.shape[1] == len(regions)
    assert annotated_br is None or annotated_br.shape == logits_brdhw.shape[:2]
    inside_rv = _inside(regions).to(logits_brdhw.device)
    return _RegionDiceBCE.apply(
        logits_brdhw, label_bdhw, inside_rv, annotated_br, ignore_label, batch_dice, sum_over_ranks
    )


class _RegionDiceBCE(torch.autograd.Function):
    """With p the sigmoid of a logit, y whether the voxel is in the region and N the counted pairs
    of a voxel and an annotated region, the loss is  -sum(y log p + (1 - y) log(1 - p)) / N  plus
    the term of `dice_term`.

    Its derivative by the logit is  (p - y) / N + p (1 - p) (slope + gain y).
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        inside_rv: Tensor,
        annotated: Tensor | None,
        ignore_label: int | None,
        batch_dice: bool,
        sum_over_ranks: SumOverRanks | None,
    ) -> Tensor:
        sums_4br, counted_b = _region_sums(logits, label, inside_rv, ignore_label)
        known_br = sums_4br.new_ones(logits.shape[:2])
        if annotated is not None:
            known_br *= annotated
            sums_4br *= known_br
        counted = (known_br * counted_b[:, None]).sum().clamp(min=1)
        dice, slope, gain = dice_term(sums_4br[:3], known_br, batch_dice, sum_over_ranks)

        ctx.save_for_backward(logits, label, inside_rv, known_br, slope, gain, counted)
        ctx.ignore_label = ignore_label
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return (sums_4br[3].sum() / counted + dice).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, label, inside_rv, known_br, slope, gain, counted = ctx.saved_tensors
        weights_3br = torch.stack([known_br * s for s in (slope, gain, 1 / counted)])
        weights_3br *= grad_outputs[0].double()
        gradient = _gradient(logits, label, inside_rv, ctx.ignore_label, weights_3br)
        return gradient, None, None, None, None, None, None


def _inside(regions: Sequence[Sequence[int]]) -> Tensor:
    """Whether a label value is in a region, bool (R, V); the last value stands for all above."""
    inside_rv = torch.zeros(len(regions), max(map(max, regions)) + 2, dtype=torch.bool)
    for row, values in zip(inside_rv, regions, strict=True):
        row[list(values)] = True
    return inside_rv


def _region_sums(
    logits_brdhw: Tensor, label_bdhw: Tensor, inside_rv: Tensor, ignore_label: int | None
) -> tuple[Tensor, Tensor]:
    """Sums over the counted voxels in float64.

    Returns:
        (4, B, R) sums of p y, of p, of y and of the cross-entropy, and (B,) how many voxels count.
    """
    batch, regions = logits_brdhw.shape[:2]
    dtype = torch.promote_types(logits_brdhw.dtype, torch.float32)
    sums_4br = logits_brdhw.new_zeros((4, batch, regions), dtype=torch.float64)
    counted_b = sums_4br.new_zeros(batch)
    for sample, logits_rn, label_n in slabs_of(logits_brdhw, label_bdhw):
        z_rn = contiguous_copy(logits_rn, dtype)
        y_rn, mask_n = _target(label_n, inside_rv, ignore_label, dtype)
        cross_entropy_rn = binary_cross_entropy_with_logits(z_rn, y_rn, reduction="none")
        p_rn = z_rn.sigmoid_()
        terms = (p_rn * y_rn, p_rn, y_rn, cross_entropy_rn)
        sums_4br[:, sample] += torch.stack([term.mul_(mask_n).sum(1) for term in terms])
        counted_b[sample] += mask_n.sum()
    return sums_4br, counted_b


def _gradient(
    logits_brdhw: Tensor,
    label_bdhw: Tensor,
    inside_rv: Tensor,
    ignore_label: int | None,
    weights_3br: Tensor,
) -> Tensor:
    """Derivative of the loss by the logits; the weights are slope, gain and that of a voxel's
    cross-entropy.
    """
    dtype = torch.promote_types(logits_brdhw.dtype, torch.float32)
    slope_br, gain_br, weight_br = weights_3br.to(dtype)[..., None]
    # Contiguous whatever the logits are, so that its slabs are views to write into.
    whole = torch.empty_like(logits_brdhw, memory_format=torch.contiguous_format)
    for (sample, logits_rn, label_n), (_, gradient_rn, _) in zip(
        slabs_of(logits_brdhw, label_bdhw), slabs_of(whole, label_bdhw), strict=True
    ):
        y_rn, mask_n = _target(label_n, inside_rv, ignore_label, dtype)
        p_rn = contiguous_copy(logits_rn, dtype).sigmoid_()
        by_p_rn = gain_br[sample] * y_rn + slope_br[sample]
        by_p_rn *= p_rn * (1 - p_rn)
        by_p_rn += weight_br[sample] * (p_rn - y_rn)
        gradient_rn.copy_(by_p_rn * mask_n)
    return whole


def _target(
    label_n: Tensor, inside_rv: Tensor, ignore_label: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Whether each voxel is in each region, (R, n) 0 or 1, and which voxels count."""
    target_n, mask_n = counted_target(label_n, ignore_label)
    return inside_rv[:, target_n.clamp(max=inside_rv.shape[1] - 1)].to(dtype), mask_n
