"""Cross-entropy plus soft Dice over a softmax, in memory that does not grow with a one-hot target.

Source: nnU-Net's default loss (Isensee et al. 2021), sample Dice without background. Where nnU-Net
adds `-Dice`, this adds `1 - Dice`, so that a perfect prediction has loss 0: the value is nnU-Net's
plus 1, the gradient is the same.

Here stands the definition. The Dice term is that of `stunet.losses.soft_dice`; the passes over the
logits are those of `stunet.losses.slabs`, or on a GPU those of `stunet.kernels.dice_ce`. Not for
second derivatives, nor for regions, which overlap: those are `stunet.losses.region_dice_bce`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stunet.kernels.availability import kernels_run_on
from stunet.losses import slabs
from stunet.losses.soft_dice import SumOverRanks, dice_term


def dice_ce(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    annotated_bk: Tensor | None = None,
    *,
    ignore_label: int | None = None,
    batch_dice: bool = False,
    sum_over_ranks: SumOverRanks | None = None,
) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice of the foreground classes.

    Args:
        logits_bkdhw: Network output, class 0 the background; any float type. Computed in float32
            (float64 logits in float64), autocast or not.
        label_bdhw: Integer labels 0..K-1, or `ignore_label`.
        annotated_bk: bool, the classes that are annotated in each sample; None: all. The others
            count as background: there the network may say either at no cost, and they have no Dice.
            Source: the marginal loss of Shi et al. 2021 (arXiv 2007.03868).
        ignore_label: Voxels with this label count in neither term. A patch of nothing else has
            loss 0.
        batch_dice: Sum over the batch before forming the fraction, instead of a fraction per
            sample.
        sum_over_ranks: With `batch_dice`, the batch is that of all ranks. Every rank then has the
            same Dice term, and the mean of their gradients is the gradient of the joined batch.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits).
    """
    assert label_bdhw.shape == logits_bkdhw.shape[:1] + logits_bkdhw.shape[2:]
    assert annotated_bk is None or annotated_bk.shape == logits_bkdhw.shape[:2]
    return _DiceCE.apply(
        logits_bkdhw, label_bdhw, annotated_bk, ignore_label, batch_dice, sum_over_ranks
    )


class _DiceCE(torch.autograd.Function):
    """With p the softmax, y the one-hot label and N the counted voxels, the loss is
    -sum(log p_label) / N  plus the term of `dice_term`, whose derivative by a probability of a
    foreground class is  slope + gain y.  The softmax turns that and the cross-entropy into the
    gradient.

    Classes that are not annotated are merged: with q the softmax in which the background has their
    probability too, the loss is the one above for q, and a member k of the background gets
    p_k / q_0 of the background's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        annotated: Tensor | None,
        ignore_label: int | None,
        batch_dice: bool,
        sum_over_ranks: SumOverRanks | None,
    ) -> Tensor:
        sums_3bk, totals = _passes(logits).class_sums(logits, label, ignore_label, annotated)
        cross_entropy, counted = totals.unbind()
        counted = counted.clamp(min=1)
        has_dice_bk = sums_3bk.new_ones(logits.shape[:2])
        if annotated is not None:
            has_dice_bk *= annotated
        has_dice_bk[:, 0] = 0  # the background has no fraction
        dice, slope, gain = dice_term(sums_3bk, has_dice_bk, batch_dice, sum_over_ranks)

        ctx.save_for_backward(logits, label, annotated, slope, gain, counted)
        ctx.ignore_label = ignore_label
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return (cross_entropy / counted + dice).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, label, annotated, slope, gain, counted = ctx.saved_tensors
        upstream = grad_outputs[0].double()
        slope, gain = ((upstream * s).expand(logits.shape[:2]) for s in (slope, gain))
        gradient = _passes(logits).gradient(
            logits, label, ctx.ignore_label, annotated, slope, gain, upstream / counted
        )
        return gradient, None, None, None, None, None


def _passes(logits: Tensor) -> ModuleType:
    """The two passes over logits that are fastest where they lie."""
    if kernels_run_on(logits):
        from stunet.kernels import dice_ce as kernels  # where Triton is installed

        return kernels
    return slabs
