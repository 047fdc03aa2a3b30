"""Physical values to the 16-bit integers of the store. Normalisation is applied when they are read.

Computed tomography keeps its unit: an unresampled scan is stored without any loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_tools.percentiles import percentiles
from stunet.io.spill import Allocate, walk
from stunet.types import Channel, ChannelStatistics

INT16 = np.iinfo(np.int16)
LEVELS = int(INT16.max) - int(INT16.min)
BULK_PERCENTILES = (0.05, 99.95)
BULK_LEVELS = 1024  # at least for the bulk of the values: finer than the noise of any scanner


def quantise(
    image_czyx: np.ndarray,
    channels: Sequence[Channel],
    statistics: Sequence[ChannelStatistics],
    allocate: Allocate = np.empty,
) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Round every channel to int16 so that physical value = stored * scale + offset.

    A `ct` channel is stored in HU (scale 1, offset 0; values beyond int16 are clipped). Any other
    channel has its whole range mapped linearly onto the 65536 levels. Only where outliers are so
    far out that the values between the 0.05 and 99.95 percentiles would be left with less than
    1024 levels is the range first clipped to these percentiles: clipping always would flatten the
    hottest voxels of a tumour in PET.

    Args:
        image_czyx: (C, Z, Y, X) numbers in physical units, finite; taken as float32.
        channels: One per image channel; only the scheme matters.
        statistics: Of the image, one per channel.
        allocate: Makes the result; a `Spill` keeps a large one out of memory.

    Returns:
        int16 (C, Z, Y, X), scale and offset per channel.
    """
    stored = allocate(image_czyx.shape, np.int16)
    maps = [
        (1.0, 0.0) if channel.scheme == "ct" else _linear_map(volume, whole)
        for volume, channel, whole in zip(image_czyx, channels, statistics, strict=True)
    ]
    for volume, (scale, offset), out in zip(image_czyx, maps, stored, strict=True):
        for slab, out_slab in walk(volume, out):
            for plane, out_plane in zip(slab, out_slab, strict=True):  # a scan in double takes GBs
                levels = np.rint((plane.astype(np.float64) - offset) / scale)
                out_plane[...] = np.clip(levels, INT16.min, INT16.max)
    scales, offsets = zip(*maps, strict=True)
    return stored, scales, offsets


def _linear_map(volume: np.ndarray, whole: ChannelStatistics) -> tuple[float, float]:
    """Scale and offset that spread the range of the volume over all levels."""
    lowest, highest = whole.min, whole.max
    if lowest == highest:
        return 1.0, lowest
    low, high = percentiles(lambda: (slab for (slab,) in walk(volume)), BULK_PERCENTILES)
    if high > low and (high - low) * LEVELS < (highest - lowest) * BULK_LEVELS:
        lowest, highest = low, high
    scale = (highest - lowest) / LEVELS
    return scale, lowest - INT16.min * scale
