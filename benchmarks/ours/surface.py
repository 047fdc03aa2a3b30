"""Our side of surface Dice and the 95% Hausdorff distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stunet.metrics.surface import surface_scores
from stunet.types import Spacing


def scores(
    reference: str, prediction: str, classes: int, spacing_mm: Spacing, tolerance_mm: float
) -> Callable[[], list[list[float]]]:
    """Score classes 1 to `classes` of two label maps in files; a turn returns (NSD, HD95) each."""
    ref, pred = np.load(reference), np.load(prediction)

    def turn() -> list[list[float]]:
        found = surface_scores(ref, pred, range(1, classes + 1), spacing_mm, tolerance_mm)
        return [[each.nsd, each.hd95_mm] for each in found.values()]

    return turn
