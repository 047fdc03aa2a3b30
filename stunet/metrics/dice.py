"""Dice per class from voxel counts, under both conventions for classes a case lacks, and its means.

Hard labels only, also for regions, which are unions of them; training losses are `stunet.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from stunet.errors import DataError


@dataclass(frozen=True)
class ClassCounts:
    """Voxel counts per class, (K,) int64 each; counts of disjoint voxels add up with `+`."""

    tp: np.ndarray
    n_pred: np.ndarray
    n_ref: np.ndarray

    @property
    def fp(self) -> np.ndarray:
        """Voxels given the class that the reference gives another."""
        return self.n_pred - self.tp

    @property
    def fn(self) -> np.ndarray:
        """Voxels of the class that were given another."""
        return self.n_ref - self.tp

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(self.tp + other.tp, self.n_pred + other.n_pred, self.n_ref + other.n_ref)


def count_classes(
    prediction: np.ndarray, reference: np.ndarray, classes: int, ignore_label: int | None = None
) -> ClassCounts:
    """Count every class in one pass over the voxels, whatever their number.

    Args:
        prediction: Integer labels 0..classes-1, any shape.
        reference: The same shape; `ignore_label` is allowed too.
        classes: Number of classes, background included.
        ignore_label: Voxels the reference gives this label are left out.

    Raises:
        DataError: The shapes differ, or a label is outside 0..classes-1.
    """
    predicted, referred = _flat_pair(prediction, reference)
    counts = np.zeros((3, classes), np.int64)
    bad = _count(predicted, referred, _ignored(ignore_label), counts)
    _check_range(predicted, referred, classes, bad)
    return ClassCounts(*counts)


def count_regions(
    prediction: np.ndarray,
    reference: np.ndarray,
    regions: Sequence[Sequence[int]],
    classes: int,
    ignore_label: int | None = None,
) -> ClassCounts:
    """Count unions of labels, which may overlap, in one pass; a region stands for a class.

    Args:
        prediction: As in `count_classes`; so are the others not named here.
        reference: See there.
        regions: The label values that each region is the union of.
        classes: Number of label values.
        ignore_label: See there.

    Raises:
        DataError: As `count_classes`.
    """
    predicted, referred = _flat_pair(prediction, reference)
    inside_vr = np.zeros((classes, len(regions)), np.int64)
    for region, values in enumerate(regions):
        inside_vr[list(values), region] = 1
    counts = np.zeros((3, len(regions)), np.int64)
    bad = _count_inside(predicted, referred, _ignored(ignore_label), inside_vr, counts)
    _check_range(predicted, referred, classes, bad)
    return ClassCounts(*counts)


def _flat_pair(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if prediction.shape != reference.shape:
        raise DataError(
            f"prediction {prediction.shape} and reference {reference.shape} differ in shape; "
            "resample one onto the grid of the other"
        )
    predicted = np.ascontiguousarray(prediction, prediction.dtype.newbyteorder("=")).ravel()
    referred = np.ascontiguousarray(reference, reference.dtype.newbyteorder("=")).ravel()
    return predicted, referred


def _ignored(ignore_label: int | None) -> int:
    return int(np.iinfo(np.int64).min) if ignore_label is None else ignore_label


def _check_range(predicted: np.ndarray, referred: np.ndarray, classes: int, bad: int) -> None:
    """Raise about the voxel `bad`, unless it is -1."""
    if bad >= 0:
        what, label = "prediction", predicted[bad]
        if 0 <= label < classes:
            what, label = "reference", referred[bad]
        raise DataError(
            f"{what} holds label {label} but there are {classes} classes (0..{classes - 1}); "
            "check the label table"
        )


@numba.njit(cache=True)
def _count(prediction: np.ndarray, reference: np.ndarray, ignored: int, counts: np.ndarray) -> int:
    """Count tp, n_pred and n_ref; place of the first voxel with a label out of range, or -1."""
    classes = counts.shape[1]
    for i in range(len(reference)):
        p, r = np.int64(prediction[i]), np.int64(reference[i])
        if r == ignored:
            continue
        if not (0 <= p < classes and 0 <= r < classes):
            return i
        counts[0, p] += p == r
        counts[1, p] += 1
        counts[2, r] += 1
    return -1


@numba.njit(cache=True)
def _count_inside(
    prediction: np.ndarray,
    reference: np.ndarray,
    ignored: int,
    inside_vr: np.ndarray,
    counts: np.ndarray,
) -> int:
    """As `_count`, for regions: whether a label value is in them is looked up."""
    classes, regions = inside_vr.shape
    for i in range(len(reference)):
        p, r = np.int64(prediction[i]), np.int64(reference[i])
        if r == ignored:
            continue
        if not (0 <= p < classes and 0 <= r < classes):
            return i
        for k in range(regions):
            counts[0, k] += inside_vr[p, k] & inside_vr[r, k]
            counts[1, k] += inside_vr[p, k]
            counts[2, k] += inside_vr[r, k]
    return -1


def dice_per_class(counts: ClassCounts, absent_in_both: float = math.nan) -> np.ndarray:
    """Dice 2 TP / (2 TP + FP + FN), (K,) float64, as nnU-Net scores it.

    0 for a class that is predicted but absent from the reference.

    Args:
        counts: Of one case.
        absent_in_both: Score of a class that neither has: NaN leaves it out of means, 1 rewards it
            as some challenges do.
    """
    total = (counts.n_pred + counts.n_ref).astype(np.float64)
    return np.divide(
        2 * counts.tp, total, out=np.full(total.shape, absent_in_both), where=total > 0
    )


def dice_where_present(counts: ClassCounts) -> np.ndarray:
    """Dice of the classes the reference has, NaN for all others.

    For references that annotate a class only in some cases: a correct prediction of what was not
    annotated is left out rather than scored 0.
    """
    return np.where(counts.n_ref > 0, dice_per_class(counts), np.nan)


@dataclass(frozen=True)
class DiceSummary:
    """Means over cases and classes.

    Attributes:
        per_class: (K,) mean over the cases that have a score, NaN where none has.
        scored_cases: (K,) how many those are.
        foreground_mean: Mean of `per_class` without background and NaN; NaN if none is left.
    """

    per_class: np.ndarray
    scored_cases: np.ndarray
    foreground_mean: float


def summarise_dice(dice_nk: np.ndarray, background: int | None = 0) -> DiceSummary:
    """Mean over cases per class, then over foreground classes: every class weighs the same.

    Args:
        dice_nk: Dice of N cases and K classes or regions, NaN where not scored.
        background: The class that is no foreground; None: all are.
    """
    per_class = _nan_mean(dice_nk)
    scored_cases = np.isfinite(dice_nk).sum(0)
    foreground = per_class if background is None else np.delete(per_class, background)
    return DiceSummary(per_class, scored_cases, float(_nan_mean(foreground)))


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN, and no warning, where nothing else is there."""
    scored = np.isfinite(values)
    count = scored.sum(0)
    total = np.where(scored, values, 0.0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
