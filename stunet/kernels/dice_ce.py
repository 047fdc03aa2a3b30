"""The passes of `dice_ce` over logits on a GPU: each logit is read once forward and once backward.

A program holds all classes of some voxels in registers, so that softmax, sums and gradient need no
memory of their own beside the gradient. The same functions in plain torch, and what they return,
are those of `stunet.losses.slabs`; what the sums mean stands in `stunet.losses.dice_ce`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_ELEMENTS = 4096  # logits that a program holds; with twice as many, registers spill (sm_90)
_WARPS = 8
_PROGRAMS = 1024  # that share the voxels of a sample, several per multiprocessor


def class_sums(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    ignore_label: int | None,
    annotated_bk: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sums over the counted voxels, as `stunet.losses.slabs.class_sums`."""
    logits = _dense(logits_bkdhw)
    batch, classes = logits.shape[:2]
    options = _options(logits, ignore_label, annotated_bk)
    voxels = label_bdhw[0].numel()
    programs = min(_PROGRAMS, triton.cdiv(voxels, options["VOXELS"]))
    # A row per program instead of atomic additions, whose order differs from run to run.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    sums = logits.new_empty((batch, programs, 3, classes), dtype=dtype)
    totals = logits.new_empty((batch, programs, 2), dtype=dtype)
    _sum_classes[(programs, batch)](
        logits, label_bdhw.contiguous(), _owners(annotated_bk), sums, totals,
        voxels, classes, programs, *_strides(logits), ignore_label or 0, **options,
    )  # fmt: skip
    sums_b3k, total = sums.sum(1, dtype=torch.float64), totals.sum((0, 1), dtype=torch.float64)
    return sums_b3k.transpose(0, 1), total


def gradient(
    logits_bkdhw: Tensor,
    label_bdhw: Tensor,
    ignore_label: int | None,
    annotated_bk: Tensor | None,
    slope_bk: Tensor,
    gain_bk: Tensor,
    ce_weight: Tensor,
) -> Tensor:
    """Derivative of the loss by the logits, as `stunet.losses.slabs.gradient`, in their layout."""
    logits = _dense(logits_bkdhw)
    batch, classes = logits.shape[:2]
    options = _options(logits, ignore_label, annotated_bk)
    voxels = label_bdhw[0].numel()
    whole = torch.empty_like(logits)
    assert whole.stride() == logits.stride()
    _write_gradient[(triton.cdiv(voxels, options["VOXELS"]), batch)](
        logits, label_bdhw.contiguous(), _owners(annotated_bk),
        slope_bk.contiguous(), gain_bk.contiguous(), ce_weight, whole,
        voxels, classes, *_strides(logits), ignore_label or 0, **options,
    )  # fmt: skip
    return whole


def _dense(logits: Tensor) -> Tensor:
    """Logits whose voxels lie in one line, classes first or last."""
    last = logits.is_contiguous(memory_format=torch.channels_last_3d)
    return logits if last else logits.contiguous()


def _strides(logits: Tensor) -> tuple[int, int, int]:
    """Of a sample, of a class and of a voxel."""
    return logits.stride(0), logits.stride(1), logits.stride(4)


def _owners(annotated_bk: Tensor | None) -> Tensor | None:
    """(B, K) int32, the class that each class counts as: itself, or 0 if it is not annotated."""
    if annotated_bk is None:
        return None
    return (torch.arange(annotated_bk.shape[1], device=annotated_bk.device) * annotated_bk).int()


def _options(
    logits: Tensor, ignore_label: int | None, annotated_bk: Tensor | None
) -> dict[str, Any]:
    padded = triton.next_power_of_2(logits.shape[1])
    return {
        "IGNORE": ignore_label is not None,
        "PARTIAL": annotated_bk is not None,
        "DTYPE": tl.float64 if logits.dtype == torch.float64 else tl.float32,
        "CLASSES": padded,
        "VOXELS": max(16, _TILE_ELEMENTS // padded),
        "num_warps": _WARPS,
    }


@triton.jit
def _load_target(  # type: ignore[no-untyped-def]
    label_ptr, owner_ptr, sample, at, voxels, classes, ignore_label,
    IGNORE: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """The class that each voxel counts as, and whether it counts."""
    counts = at < voxels
    target = tl.load(label_ptr + sample * voxels + at, mask=counts, other=0).to(tl.int32)
    if IGNORE:
        counts = counts & (target != ignore_label)
        target = tl.where(counts, target, 0)
    if PARTIAL:
        target = tl.load(owner_ptr + sample * classes + target)
    return target, counts


@triton.jit
def _load_logits(  # type: ignore[no-untyped-def]
    logits_ptr, owner_ptr, sample, at, voxels, classes, sample_stride, class_stride, voxel_stride,
    PARTIAL: tl.constexpr, DTYPE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits in which the background stands for all classes that may hide in it, their shares.

    The others of those classes have the logit -inf, as has what is only padding. Without partial
    labels the shares mean nothing.
    """
    rows = tl.arange(0, CLASSES)
    places = rows.to(tl.int64)[:, None] * class_stride + at.to(tl.int64)[None, :] * voxel_stride
    inside = (rows[:, None] < classes) & (at[None, :] < voxels)
    z = tl.load(logits_ptr + sample * sample_stride + places, mask=inside, other=0).to(DTYPE)
    z = tl.where(rows[:, None] < classes, z, float("-inf"))
    share = z
    if PARTIAL:
        owner = tl.load(owner_ptr + sample * classes + rows, mask=rows < classes, other=1)
        hidden = tl.where(owner[:, None] == 0, z, float("-inf"))
        peak = tl.max(hidden, 0)
        share = tl.exp(hidden - peak[None, :])
        total = tl.sum(share, 0)
        share = share / total[None, :]
        merged = tl.where(rows[:, None] == 0, (peak + tl.log(total))[None, :], float("-inf"))
        z = tl.where(owner[:, None] == 0, merged, z)
    return z, share


@triton.jit
def _sum_classes(  # type: ignore[no-untyped-def]
    logits_ptr, label_ptr, owner_ptr, sums_ptr, totals_ptr,
    voxels, classes, programs, sample_stride, class_stride, voxel_stride, ignore_label,
    IGNORE: tl.constexpr, PARTIAL: tl.constexpr, DTYPE: tl.constexpr,
    CLASSES: tl.constexpr, VOXELS: tl.constexpr,
):  # fmt: skip
    program, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, CLASSES)
    intersection = tl.zeros([CLASSES], DTYPE)
    predicted = tl.zeros([CLASSES], DTYPE)
    reference = tl.zeros([CLASSES], DTYPE)
    cross_entropy = tl.zeros([VOXELS], DTYPE)
    counted = tl.zeros([VOXELS], DTYPE)
    for start in range(program * VOXELS, voxels, programs * VOXELS):
        at = start + tl.arange(0, VOXELS)
        target, counts = _load_target(
            label_ptr, owner_ptr, sample, at, voxels, classes, ignore_label, IGNORE, PARTIAL
        )
        z, _ = _load_logits(
            logits_ptr, owner_ptr, sample, at, voxels, classes,
            sample_stride, class_stride, voxel_stride, PARTIAL, DTYPE, CLASSES,
        )  # fmt: skip
        z -= tl.max(z, 0)[None, :]
        is_target = rows[:, None] == target[None, :]
        at_target = tl.sum(tl.where(is_target, z, 0), 0)
        p = tl.exp(z)
        total = tl.sum(p, 0)
        p = tl.where(counts[None, :], p / total[None, :], 0)
        cross_entropy += tl.where(counts, tl.log(total) - at_target, 0)
        counted += counts.to(DTYPE)
        predicted += tl.sum(p, 1)
        intersection += tl.sum(tl.where(is_target, p, 0), 1)
        reference += tl.sum((is_target & counts[None, :]).to(DTYPE), 1)
    sums_ptr += (sample * programs + program) * 3 * classes + rows
    tl.store(sums_ptr, intersection, mask=rows < classes)
    tl.store(sums_ptr + classes, predicted, mask=rows < classes)
    tl.store(sums_ptr + 2 * classes, reference, mask=rows < classes)
    totals_ptr += (sample * programs + program) * 2
    tl.store(totals_ptr, tl.sum(cross_entropy, 0))
    tl.store(totals_ptr + 1, tl.sum(counted, 0))


@triton.jit
def _write_gradient(  # type: ignore[no-untyped-def]
    logits_ptr, label_ptr, owner_ptr, slope_ptr, gain_ptr, ce_weight_ptr, gradient_ptr,
    voxels, classes, sample_stride, class_stride, voxel_stride, ignore_label,
    IGNORE: tl.constexpr, PARTIAL: tl.constexpr, DTYPE: tl.constexpr,
    CLASSES: tl.constexpr, VOXELS: tl.constexpr,
):  # fmt: skip
    """The formula is that of `stunet.losses.slabs._slab_gradient`."""
    sample = tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, CLASSES)
    at = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    target, counts = _load_target(
        label_ptr, owner_ptr, sample, at, voxels, classes, ignore_label, IGNORE, PARTIAL
    )
    z, share = _load_logits(
        logits_ptr, owner_ptr, sample, at, voxels, classes,
        sample_stride, class_stride, voxel_stride, PARTIAL, DTYPE, CLASSES,
    )  # fmt: skip
    p = tl.exp(z - tl.max(z, 0)[None, :])
    p = p / tl.sum(p, 0)[None, :]
    slope_ptr += sample * classes + rows
    slope = tl.load(slope_ptr, mask=rows < classes, other=0).to(DTYPE)
    gain = tl.load(gain_ptr + sample * classes + target).to(DTYPE)
    is_target = rows[:, None] == target[None, :]
    at_target = gain * tl.sum(tl.where(is_target, p, 0), 0) - tl.load(ce_weight_ptr).to(DTYPE)
    common = tl.sum(p * slope[:, None], 0) + at_target
    result = p * slope[:, None] - p * common[None, :]
    result += tl.where(is_target, at_target[None, :], 0)
    if PARTIAL:
        owner = tl.load(owner_ptr + sample * classes + rows, mask=rows < classes, other=1)
        background = tl.sum(tl.where(rows[:, None] == 0, result, 0), 0)
        result = tl.where(owner[:, None] == 0, share * background[None, :], result)
    result = tl.where(counts[None, :], result, 0)
    places = rows.to(tl.int64)[:, None] * class_stride + at.to(tl.int64)[None, :] * voxel_stride
    inside = (rows[:, None] < classes) & (at[None, :] < voxels)
    tl.store(gradient_ptr + sample * sample_stride + places, result, mask=inside)
