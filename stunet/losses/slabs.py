"""The passes of `dice_ce` over logits in plain torch: slab by slab, on any device.

Beside the gradient itself only a few slabs are ever alive. `stunet.kernels.dice_ce` makes the same
passes on a GPU; what the sums mean stands in `stunet.losses.dice_ce`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_SLAB_ELEMENTS = 2**18  # logits handled at once: 1 MB in float32 stays in a core's cache


def class_sums(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    ignore_label: int | None,
    annotated_bk: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sums over the counted voxels.

    Returns:
        (3, B, K) float64 sums of p y, of p and of y, and (2,) float64: the cross-entropy, summed,
        and the number of counted voxels.
    """
    batch, classes = logits_bkdhw.shape[:2]
    dtype = torch.promote_types(logits_bkdhw.dtype, torch.float32)
    # Sums of up to 10^8 probabilities: float64.
    sums = logits_bkdhw.new_zeros((3, batch, classes), dtype=torch.float64)
    intersection, predicted, reference = sums
    totals = logits_bkdhw.new_zeros(2, dtype=torch.float64)
    merged = _merged_classes(annotated_bk, batch)
    for sample, logits_kn, label_n in slabs_of(logits_bkdhw, label_bdhw):
        target_n, mask_n = counted_target(label_n, ignore_label)
        shifted_kn = contiguous_copy(logits_kn, dtype)
        shifted_kn -= shifted_kn.amax(0)
        if (members := merged[sample]) is not None:
            target_n = _owners(members, classes)[target_n]
            _merge(shifted_kn, members)
        log_p_target = shifted_kn.gather(0, target_n[None])[0]
        exp_kn = shifted_kn.exp_()
        total_n = exp_kn.sum(0)
        log_p_target = (log_p_target - total_n.log()) * mask_n
        totals[0] -= log_p_target.sum()
        totals[1] += mask_n.sum()
        predicted[sample] += exp_kn.mul_(mask_n / total_n).sum(1)
        mask_n = mask_n.double()
        intersection[sample].scatter_add_(0, target_n, log_p_target.double().exp() * mask_n)
        reference[sample].scatter_add_(0, target_n, mask_n)
    return sums, totals


def gradient(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    ignore_label: int | None,
    annotated_bk: Tensor | None,
    slope_bk: Tensor,
    gain_bk: Tensor,
    ce_weight: Tensor,
) -> Tensor:
    """Derivative of the loss by the logits.

    Args:
        logits_bkdhw: As given to `class_sums`; so are the next three.
        label_bdhw: Labels.
        ignore_label: Its voxels get no gradient.
        annotated_bk: Annotated classes.
        slope_bk: The derivative of the Dice term by p is `slope + gain y`.
        gain_bk: See there.
        ce_weight: () derivative of the loss by a voxel's cross-entropy.

    Returns:
        Shape and type of the logits.
    """
    classes = logits_bkdhw.shape[1]
    dtype = torch.promote_types(logits_bkdhw.dtype, torch.float32)
    slope_bk, gain_bk, ce_weight = (s.to(dtype) for s in (slope_bk, gain_bk, ce_weight))
    merged = _merged_classes(annotated_bk, len(logits_bkdhw))
    # Contiguous whatever the logits are, so that its slabs are views to write into.
    whole = torch.empty_like(logits_bkdhw, memory_format=torch.contiguous_format)
    for (sample, logits_kn, label_n), (_, gradient_kn, _) in zip(
        slabs_of(logits_bkdhw, label_bdhw), slabs_of(whole, label_bdhw), strict=True
    ):
        target_n, mask_n = counted_target(label_n, ignore_label)
        p_kn = contiguous_copy(logits_kn, dtype)
        if (members := merged[sample]) is not None:
            target_n = _owners(members, classes)[target_n]
            share_mn = p_kn[members].softmax(0)
            _merge(p_kn, members)
        p_kn = torch.softmax(p_kn, 0)
        slab = _slab_gradient(p_kn, target_n, slope_bk[sample], gain_bk[sample], ce_weight)
        if members is not None:
            slab[members] = share_mn * slab[0]
        gradient_kn.copy_(slab * mask_n if ignore_label is not None else slab)
    return whole


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


def _merged_classes(annotated_bk: Tensor | None, batch: int) -> list[Tensor | None]:
    """Per sample the background and the classes that may hide in it, None if it is alone."""
    if annotated_bk is None:
        return [None] * batch
    hidden_bk = ~annotated_bk
    hidden_bk[:, 0] = True
    members = [row.nonzero()[:, 0] for row in hidden_bk]
    return [row if len(row) > 1 else None for row in members]


def _owners(members: Tensor, classes: int) -> Tensor:
    """The class that each class counts as."""
    return torch.arange(classes, device=members.device).index_fill_(0, members, 0)


def _merge(logits_kn: Tensor, members: Tensor) -> None:
    """Give the background, in place, the probability of all members, and the others none."""
    logits_kn[0] = logits_kn[members].logsumexp(0)
    logits_kn[members[1:]] = -torch.inf


def contiguous_copy(logits_kn: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy with its classes close together: in the volume they lie a power of two apart, which
    drives one another out of a core's cache.
    """
    return logits_kn.to(dtype, copy=True, memory_format=torch.contiguous_format)


def slabs_of(logits_bkdhw: Tensor, label_bdhw: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
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


def counted_target(label_n: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """Indices valid for every voxel, and which voxels count."""
    if ignore_label is None:
        return label_n.long(), torch.ones_like(label_n, dtype=torch.bool)
    mask_n = label_n != ignore_label
    return label_n.long() * mask_n, mask_n
