"""Where the wanted structures lie, from a coarse look: the box that a fine pass is then spent on.

What the coarse look misses is not found: outside of the box everything is background.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from stunet.inference.sliding_window import Box
from stunet.types import Size3, Spacing

MARGIN_MM = 20.0  # a coarse border is off by a few voxels, and a structure needs some context


def region_of(
    found_zyx: np.ndarray, shape: Size3, spacing_mm: Spacing, at_least: Size3
) -> Box | None:
    """Return the box around what a coarse look found, on the fine grid; None if it found nothing.

    Args:
        found_zyx: bool, on any grid over the same field of view.
        shape: The fine grid, z y x.
        spacing_mm: Of the fine grid.
        at_least: The box is not smaller than this where the volume has room: context that the
            volume holds is better than the zeros which would surround a smaller box.
    """
    if not found_zyx.any():
        return None
    profiles = [np.asarray(found_zyx.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    z, y, x = map(_along, profiles, shape, spacing_mm, at_least)
    return z, y, x


def _along(found: np.ndarray, fine: int, side_mm: float, at_least: int) -> slice:
    hit, scale = np.flatnonzero(found), fine / len(found)
    margin = ceil(MARGIN_MM / side_mm)
    start = int(hit[0] * scale) - margin
    stop = ceil((hit[-1] + 1) * scale) + margin
    missing = max(0, at_least - (stop - start))
    start, stop = start - missing // 2, stop + missing - missing // 2
    # What sticks out on one side is given to the other.
    start, stop = start - max(0, stop - fine), stop + max(0, -start)
    return slice(max(0, start), min(fine, stop))
