"""nnU-Net v2: its default resampling of a label map in preparation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

UNIT = [1.0, 1.0, 1.0]  # mm


def resampling(label: str, shape: tuple[int, ...], out: str) -> Callable[[], None]:
    """Resample the label map in the file `label` to `shape` and save it to `out`.

    The keyword arguments are those of `ExperimentPlanner.determine_resampling`.
    """
    seg = np.load(label)[None].astype(np.int16)
    fine_mm = [old / new for old, new in zip(seg.shape[1:], shape, strict=True)]

    def turn() -> None:
        resampled = resample_data_or_seg_to_shape(
            seg, shape, UNIT, fine_mm, is_seg=True, order=1, order_z=0, force_separate_z=None
        )
        np.save(out, resampled[0])

    return turn
