"""What both sides of a comparison must agree on: settings of the data path and made-up tensors.

Imported in both environments, so numpy only.
"""

from __future__ import annotations

import numpy as np

PATCH = (128, 128, 128)  # voxels, z y x
BATCH = 2
FOREGROUND = 0.33  # share of patches centred on a structure
SPACING_MM = (1.5, 1.5, 1.5)
LABELS = 118  # of TotalSegmentator v2, background included
CLIP_HU = (-1004.0, 1588.0)  # about the 0.5th and 99.5th percentile inside labelled structures
MEAN_HU, STD_HU = -50.0, 500.0


def random_logits(classes: int, shape_zyx: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return independent normal numbers, float32 (classes, *shape_zyx)."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((classes, *shape_zyx), dtype=np.float32)


def random_label(classes: int, shape_zyx: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Return independent labels 0..classes-1, uint8."""
    return np.random.default_rng(seed).integers(0, classes, shape_zyx, dtype=np.uint8)
