"""Normalised surface Dice and the 95% Hausdorff distance per class, as `surface-distance` has them.

The surfaces of all classes are found together (`surfels.py`), then each class costs what the box
around its surfaces costs (`nearest.py`). Overlap of volumes is `dice.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stunet.errors import DataError
from stunet.metrics.nearest import nearest_distances
from stunet.metrics.surfels import Surfels, find_surfels, surfel_areas
from stunet.types import Spacing


@dataclass(frozen=True)
class SurfaceScores:
    """How well the surface of one class of one case was met.

    Attributes:
        nsd: Share of both surfaces, by area, that lies within the tolerance of the other, 0..1.
            NaN if neither has the class, 0 if only one has it.
        hd95_mm: The larger of the two directed distances that 95% of a surface, by area, do not
            exceed. NaN if either lacks the class: there is nothing to measure a distance to, and
            the infinity of `surface-distance` would swallow every mean.
    """

    nsd: float
    hd95_mm: float


def surface_scores(
    reference_zyx: np.ndarray,
    prediction_zyx: np.ndarray,
    classes: Sequence[int],
    spacing_mm: Spacing,
    tolerance_mm: float | Mapping[int, float],
) -> dict[int, SurfaceScores]:
    """Score the surfaces of all classes; what lies outside the volume is in no class.

    A surface that leaves the volume is closed along the border, so both maps must cover the same
    field of view.

    Args:
        reference_zyx: Integer labels.
        prediction_zyx: Integer labels on the same grid.
        classes: Label values to score; others count as not labelled.
        spacing_mm: Voxel spacing z y x.
        tolerance_mm: Distance up to which a surface counts as met; one for all or one per class.

    Returns:
        A record per class, in the order given.

    Raises:
        DataError: The maps differ in shape, are not 3D integers, or spacing or tolerance is wrong.

    Source: Nikolov et al., arXiv 1809.04430; DeepMind's `surface-distance`.
    """
    _check_maps(reference_zyx, prediction_zyx)
    _check_numbers(classes, spacing_mm)
    sz, sy, sx = spacing_mm
    spacing = float(sz), float(sy), float(sx)
    tolerances = _tolerances(classes, tolerance_mm)
    areas = surfel_areas(spacing)
    references = find_surfels(reference_zyx, classes)
    predictions = find_surfels(prediction_zyx, classes)
    rows = zip(classes, references, predictions, tolerances, strict=True)
    return {
        value: _score(reference, prediction, areas, spacing, tolerance)
        for value, reference, prediction, tolerance in rows
    }


def _score(
    reference: Surfels,
    prediction: Surfels,
    areas: np.ndarray,
    spacing_mm: Spacing,
    tolerance: float,
) -> SurfaceScores:
    pairs = ((reference, prediction), (prediction, reference))
    distances = [nearest_distances(a.corner, b.corner, spacing_mm) for a, b in pairs]
    weights = [areas[surface.code] for surface, _ in pairs]
    total = sum(w.sum() for w in weights)
    if total == 0:
        return SurfaceScores(math.nan, math.nan)
    met = sum(w[d <= tolerance].sum() for d, w in zip(distances, weights, strict=True))
    if not all(len(w) for w in weights):
        return SurfaceScores(0.0, math.nan)
    hd95 = max(_percentile(d, w, 0.95) for d, w in zip(distances, weights, strict=True))
    return SurfaceScores(float(met / total), hd95)


def _percentile(distances: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Smallest distance that covers at least a share of the weight."""
    order = np.argsort(distances)
    covered = np.cumsum(weights[order]) / weights.sum()
    rank = min(int(np.searchsorted(covered, share)), len(order) - 1)
    return float(distances[order[rank]])


def _check_maps(reference: np.ndarray, prediction: np.ndarray) -> None:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise DataError(
            f"reference {reference.shape} and prediction {prediction.shape} are not 3D maps of one "
            "shape; resample one onto the grid of the other"
        )
    for name, label in (("reference", reference), ("prediction", prediction)):
        if not np.issubdtype(label.dtype, np.integer):
            raise DataError(f"{name} is {label.dtype}; convert it to an integer label map")


def _check_numbers(classes: Sequence[int], spacing_mm: Spacing) -> None:
    if len(spacing_mm) != 3 or not all(0 < side < math.inf for side in spacing_mm):
        raise DataError(f"spacing {spacing_mm} mm is not three positive numbers; check the header")
    if len(set(classes)) != len(classes) or not all(0 <= value <= 65535 for value in classes):
        raise DataError(
            f"classes {list(classes)} are not different labels 0..65535; name each once"
        )


def _tolerances(classes: Sequence[int], tolerance_mm: float | Mapping[int, float]) -> list[float]:
    if not isinstance(tolerance_mm, Mapping):
        tolerance_mm = dict.fromkeys(classes, tolerance_mm)
    for value in classes:
        tolerance = tolerance_mm.get(value)
        if tolerance is None or not 0 <= tolerance < math.inf:
            raise DataError(f"class {value} has the tolerance {tolerance}; give it one >= 0 mm")
    return [float(tolerance_mm[value]) for value in classes]
