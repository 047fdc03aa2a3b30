"""Cross-entropy plus soft Dice over a softmax, in memory that does not grow with a one-hot target.

Source: nnU-Net's default loss (Isensee et al. 2021), sample Dice without background. Where nnU-Net
adds `-Dice`, this adds `1 - Dice`, so that a perfect prediction has loss 0: the value is nnU-Net's
plus 1, the gradient is the same.

Logits are visited slab by slab and the gradient is written in closed form, so that beside the
gradient itself only a few slabs are ever alive. Not for second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMOOTH = 1e-5  # added to both sides of the Dice fraction, as in nnU-Net
_SLAB_ELEMENTS = 2**18  # logits handled at once: 1 MB in float32 stays in a core's cache


def dice_ce(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    ignore_label: int | None = None,
    batch_dice: bool = False,
) -> Tensor:
    """Mean cross-entropy plus one minus the mean soft Dice of the foreground classes.

    Args:
        logits_bkdhw: Network output, class 0 the background; any float type. Computed in float32
            (float64 logits in float64), autocast or not.
        label_bdhw: Integer labels 0..K-1, or `ignore_label`.
        ignore_label: Voxels with this label count in neither term. A patch of nothing else has
            loss 0.
        batch_dice: Sum over the batch before forming the fraction, instead of a fraction per
            sample. Only the samples given: never over ranks.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits).
    """
    assert label_bdhw.shape == logits_bkdhw.shape[:1] + logits_bkdhw.shape[2:]
    return _DiceCE.apply(logits_bkdhw, label_bdhw, ignore_label, batch_dice)


class _DiceCE(torch.autograd.Function):
    """With p the softmax, y the one-hot label, N the counted voxels and, per sample and class,

        I = sum(p y),   S = sum(p) + sum(y) + smooth,   Dice = (2 I + smooth) / S,

    the loss is  -sum(log p_label) / N + 1 - mean(Dice)  and its derivative by a probability of a
    foreground class is  slope + gain y  with  gain = -2 / (M S),  slope = Dice / (M S),  M the
    number of fractions averaged. The softmax turns that and the cross-entropy into the gradient
    `_slab_gradient` writes.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, ignore_label: int | None, batch_dice: bool
    ) -> Tensor:
        batch, classes = logits.shape[:2]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        # Sums of up to 10^8 probabilities: float64.
        intersection, predicted, reference = logits.new_zeros(
            (3, batch, classes), dtype=torch.float64
        )
        cross_entropy, counted = logits.new_zeros(2, dtype=torch.float64)
        for sample, logits_kn, label_n in _slabs(logits, label):
            target_n, mask_n = _target(label_n, ignore_label)
            shifted_kn = _contiguous(logits_kn, dtype)
            shifted_kn -= shifted_kn.amax(0)
            log_p_target = shifted_kn.gather(0, target_n[None])[0]
            exp_kn = shifted_kn.exp_()
            total_n = exp_kn.sum(0)
            log_p_target = (log_p_target - total_n.log()) * mask_n
            cross_entropy -= log_p_target.sum()
            counted += mask_n.sum()
            predicted[sample] += exp_kn.mul_(mask_n / total_n).sum(1)
            mask_n = mask_n.double()
            intersection[sample].scatter_add_(0, target_n, log_p_target.double().exp() * mask_n)
            reference[sample].scatter_add_(0, target_n, mask_n)

        counted.clamp_(min=1)
        if batch_dice:
            sums = (intersection, predicted, reference)
            intersection, predicted, reference = (s.sum(0, keepdim=True) for s in sums)
        total = predicted + reference + SMOOTH
        dice = (2 * intersection + SMOOTH) / total
        fractions = dice[:, 1:].numel()
        slope, gain = dice / (fractions * total), -2 / (fractions * total)
        slope[:, 0] = gain[:, 0] = 0  # the background has no fraction

        ctx.save_for_backward(logits, label, slope, gain, counted)
        ctx.ignore_label = ignore_label
        return (cross_entropy / counted + 1 - dice[:, 1:].mean()).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        logits, label, slope, gain, counted = ctx.saved_tensors
        upstream = grad_outputs[0].double()
        dtype = torch.promote_types(logits.dtype, torch.float32)
        slope, gain = ((upstream * s).to(dtype).expand(logits.shape[:2]) for s in (slope, gain))
        ce_weight = (upstream / counted).to(dtype)
        # Contiguous whatever the logits are, so that its slabs are views to write into.
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for (sample, logits_kn, label_n), (_, gradient_kn, _) in zip(
            _slabs(logits, label), _slabs(gradient, label), strict=True
        ):
            target_n, mask_n = _target(label_n, ctx.ignore_label)
            p = torch.softmax(_contiguous(logits_kn, dtype), 0)
            slab = _slab_gradient(p, target_n, slope[sample], gain[sample], ce_weight)
            gradient_kn.copy_(slab * mask_n if ctx.ignore_label is not None else slab)
        return gradient, None, None, None


def _contiguous(logits_kn: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy with its classes close together: in the volume they lie a power of two apart, which
    drives one another out of a core's cache.
    """
    return logits_kn.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _slab_gradient(
    p_kn: Tensor, target_n: Tensor, slope_k: Tensor, gain_k: Tensor, ce_weight: Tensor
) -> Tensor:
    """Derivative of the loss by the logits of a slab.

    With g = slope + gain y the derivative by p, and r = gain p at the target, the chain rule gives
    p (g - sum(p g)) + ce_weight (p - y)  =  p (slope - sum(p slope) - r + ce_weight)
    plus, in the row of the target only, r - ce_weight.
    """
    at_target_n = gain_k[target_n] * p_kn.gather(0, target_n[None])[0] - ce_weight
    slab = p_kn * slope_k[:, None]
    common_n = slab.sum(0) + at_target_n
    slab.addcmul_(p_kn, common_n.expand_as(p_kn), value=-1)
    return slab.scatter_add_(0, target_n[None], at_target_n[None])


def _slabs(logits_bkdhw: Tensor, label_bdhw: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Views (sample, logits (K, n), label (n)) that cover the volume, at most a slab at a time."""
    batch, classes, depth, height, width = logits_bkdhw.shape
    voxels = max(1, _SLAB_ELEMENTS // classes)
    thickness = max(1, voxels // (height * width))
    for sample in range(batch):
        for below in range(0, depth, thickness):
            above = below + thickness
            logits_kn = logits_bkdhw[sample, :, below:above].flatten(1)
            label_n = label_bdhw[sample, below:above].flatten()
            pieces = zip(logits_kn.split(voxels, 1), label_n.split(voxels), strict=True)
            yield from ((sample, *piece) for piece in pieces)


def _target(label_n: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """Indices valid for every voxel, and which voxels count."""
    if ignore_label is None:
        return label_n.long(), torch.ones_like(label_n, dtype=torch.bool)
    mask_n = label_n != ignore_label
    return label_n.long() * mask_n, mask_n
