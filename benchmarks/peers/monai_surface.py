"""MONAI: surface Dice and 95% Hausdorff distance, one class at a time to bound its memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice


def scores(
    reference: str, prediction: str, classes: int, spacing_mm: list[float], tolerance_mm: float
) -> Callable[[], list[list[float]]]:
    """Score classes 1 to `classes` of two label maps in files; a turn returns (NSD, HD95) each.

    `use_subvoxels` makes MONAI's surface Dice follow the definition of surface-distance.
    """
    warnings.filterwarnings("ignore")  # one per class that is absent
    ref, pred = (torch.from_numpy(np.load(file)) for file in (reference, prediction))

    def turn() -> list[list[float]]:
        values = range(1, classes + 1)
        return [_score(pred == k, ref == k, spacing_mm, tolerance_mm) for k in values]

    return turn


def _score(
    pred: torch.Tensor, ref: torch.Tensor, spacing_mm: list[float], tolerance_mm: float
) -> list[float]:
    both = {"y_pred": pred[None, None], "y": ref[None, None], "include_background": True}
    nsd = compute_surface_dice(
        **both, class_thresholds=[tolerance_mm], spacing=spacing_mm, use_subvoxels=True
    )
    hd95 = compute_hausdorff_distance(**both, percentile=95, spacing=spacing_mm)
    return [float(nsd), float(hd95)]
