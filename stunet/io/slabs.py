"""A stored volume as it comes out of its file: a few planes at a time, in the file's orientation.

Every format is read as a `StoredVolume`. NIfTI files stream; those of other formats arrive whole.
Not for orientation or the meaning of values (`volume`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stunet.io.grid import SourceGrid


@dataclass(frozen=True, eq=False)
class Slab:
    """Neighbouring planes of one channel.

    Attributes:
        channel: Which channel.
        first: Index of the first plane along k.
        values_kji: Physical values `(k, j, i)`.
    """

    channel: int
    first: int
    values_kji: np.ndarray


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """What a file holds.

    Attributes:
        grid: Where its voxels lie.
        channels: How many channels it has.
        dtype: Of the physical values.
        slabs: All voxels, channel by channel from the first plane to the last; to go through once.
    """

    grid: SourceGrid
    channels: int
    dtype: np.dtype
    slabs: Iterator[Slab]


def one_slab_per_channel(values_ckji: np.ndarray, grid: SourceGrid) -> StoredVolume:
    """A volume that was read at once."""
    slabs = (Slab(channel, 0, volume) for channel, volume in enumerate(values_ckji))
    return StoredVolume(grid, len(values_ckji), values_ckji.dtype, slabs)
