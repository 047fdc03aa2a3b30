"""Arrays that may be larger than memory, and how to go through them a few planes at a time.

What exceeds a limit lies in an unnamed file: `Spill` makes such an array, `walk` and `cut` read any
array without leaving more than a slab of it resident. The file has no name, so that not even a
killed process leaves it behind. Not for anything that outlives a process.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from stunet.errors import DataError

Allocate = Callable[[tuple[int, ...], DTypeLike], np.ndarray]  # such as `np.empty`

IN_MEMORY_BYTES = 1 << 29  # 512 x 512 x 1024 voxels of int16: all but whole-body scans stay below
SLAB_VOXELS = 1 << 26  # worked on at a time; 400^3 voxels, 256 MiB of float32
COPIED_VOXELS = SLAB_VOXELS // 8  # a part of a volume occupies whole rows while it is copied


@dataclass(frozen=True)
class Spill:
    """Makes arrays: in memory up to `IN_MEMORY_BYTES`, else in an unnamed file.

    Attributes:
        folder: Where the files lie; made when first needed. Its disk has to have room for them.
    """

    folder: Path

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A writable C-contiguous array of unspecified content.

        Raises:
            DataError: The disk has no room for it.
        """
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if size_bytes <= IN_MEMORY_BYTES:
            return np.empty(shape, dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                # A file with holes would end the process at the first voxel the disk cannot take.
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            except OSError as error:
                free = shutil.disk_usage(self.folder).free
                raise DataError(
                    f"{self.folder}: {size_bytes / 1e9:.1f} GB of temporary voxels do not fit"
                    f" ({error.strerror}, {free / 1e9:.1f} GB free); free some space"
                ) from error
            return np.memmap(file, dtype, "r+", shape=shape)


def planes_of(planes: int, plane_voxels: float, voxels: int | None = None) -> list[slice]:
    """Cut a stack of planes into parts of at most `voxels` (`SLAB_VOXELS`), or of one plane.

    >>> planes_of(5, 100, voxels=250)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, int((voxels or SLAB_VOXELS) / plane_voxels))
    return [slice(first, min(first + step, planes)) for first in range(0, planes, step)]


def walk(*arrays_zyx: np.ndarray, voxels: int | None = None) -> Iterator[tuple[np.ndarray, ...]]:
    """Views of the same planes of arrays of one shape, in order; each is left before the next.

    The views are plain arrays, valid until the next step.
    """
    for planes in planes_of(len(arrays_zyx[0]), arrays_zyx[0][0].size, voxels):
        yield tuple(np.asarray(array[planes]) for array in arrays_zyx)
        for array in arrays_zyx:
            release(array)


def copy_into(target_zyx: np.ndarray, source_zyx: np.ndarray) -> None:
    """Copy a volume, converting its type, with little of either resident."""
    for planes in planes_of(len(source_zyx), source_zyx[0].size, COPIED_VOXELS):
        target_zyx[planes] = source_zyx[planes]
        release(target_zyx)
        release(source_zyx)


def cut(array: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """A box of an array `(C, Z, Y, X)` or `(Z, Y, X)`: a copy if the array is spilled, else a view.

    Args:
        array: The array.
        box: One slice per axis.
    """
    part = array[box]
    if _mapping(array) is None:
        return part
    copy = np.empty(part.shape, part.dtype)
    for target, source in zip(*(a.reshape(-1, *a.shape[-3:]) for a in (copy, part)), strict=True):
        copy_into(target, source)
    return copy


def release(array: np.ndarray) -> None:
    """Let go of the memory that a spilled array occupies; it stays valid and keeps its values."""
    mapping = _mapping(array)
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)  # shared mapping: what was written stays in the file


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
