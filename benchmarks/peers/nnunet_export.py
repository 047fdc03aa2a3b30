"""nnU-Net v2: logits on the network's grid to labels on the scan's grid, as its default export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def export(logits: str, shape: tuple[int, ...], out: str) -> Callable[[], None]:
    """Resample the logits in a file to `shape`, take the largest class and save that to `out`.

    The two steps of `convert_predicted_logits_to_segmentation_with_correct_shape`, with the keyword
    arguments of `ExperimentPlanner.determine_segmentation_softmax_export_fn`; the rest is cropping.
    """
    predicted = torch.from_numpy(np.load(logits))
    names = {f"label_{value}": value for value in range(1, predicted.shape[0])}
    manager = LabelManager({"background": 0, **names}, None)
    fine_mm = [old / new for old, new in zip(predicted.shape[1:], shape, strict=True)]

    def turn() -> None:
        resampled = resample_data_or_seg_to_shape(
            predicted,
            shape,
            [1.0, 1.0, 1.0],
            fine_mm,
            is_seg=False,
            order=1,
            order_z=0,
            force_separate_z=None,
        )
        np.save(out, manager.convert_logits_to_segmentation(resampled).astype(np.uint8))

    return turn
