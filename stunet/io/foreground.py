"""Where each structure lies: up to 1024 voxels per label and case, for foreground oversampling.

A case's block in `fg.bin` holds flat C-order voxel ids, ascending within a label and labels
ascending, as uint32 (uint64 for volumes of 2^32 voxels and more), padded to 8 bytes. How many ids
each label has stands in the manifest row. Not a list of all foreground voxels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stunet.errors import DataError
from stunet.io.spill import walk
from stunet.types import Size3

MAX_IDS = 1024  # per label: enough that a structure's extent is covered, 4 KB on disk
BLOCK_ALIGNMENT = 8  # bytes, the largest id
COUNTED_VOXELS = 1 << 22  # at a time: bincount casts to int64, 32 MB
SORTED_VOXELS = 1 << 22  # at a time: 24 bytes for each, should all be foreground


def id_dtype(shape_zyx: Size3) -> np.dtype:
    """The type that holds every voxel id of a volume."""
    return np.dtype("<u4" if math.prod(shape_zyx) < 2**32 else "<u8")


def count_voxels(label: np.ndarray) -> dict[int, int]:
    """Voxels per label value that occurs, background included, values ascending."""
    counts = np.zeros(np.iinfo(label.dtype).max + 1, np.int64)
    for (planes,) in walk(label.reshape(-1, *label.shape[-2:]), voxels=COUNTED_VOXELS):
        counts += np.bincount(planes.reshape(-1), minlength=counts.size)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def foreground_counts(voxel_counts: Mapping[int, int], excluded: Collection[int]) -> dict[int, int]:
    """How many ids each label keeps; labels in `excluded` keep none and are left out."""
    return {
        value: min(count, MAX_IDS)
        for value, count in sorted(voxel_counts.items())
        if value not in excluded
    }


def build_foreground(
    label_zyx: np.ndarray, voxel_counts: Mapping[int, int], kept: Mapping[int, int], case_id: str
) -> bytes:
    """The block of one case: `kept[value]` ids of every label value in `kept`.

    A label's voxels in C order are divided into as many equal stretches as ids are kept and one
    voxel is drawn from each by Philox keyed by case and label. Evenly spaced ranks would hit the
    same column of a box again and again.
    """
    ranks = {
        value: _stratified_ranks(voxel_counts[value], count, case_id, value)
        for value, count in kept.items()
    }
    passed = dict.fromkeys(kept, 0)  # voxels of each label before the planes at hand
    parts: dict[int, list[np.ndarray]] = {value: [] for value in kept}
    start = 0
    for (planes,) in walk(label_zyx, voxels=SORTED_VOXELS):
        flat = planes.reshape(-1)
        voxels = np.flatnonzero(flat)
        values = flat[voxels]
        order = np.argsort(values, kind="stable")  # radix sort on 8 and 16 bit
        values = values[order]
        for value in kept:
            key = values.dtype.type(value)  # another type would convert all values first
            first, last = (np.searchsorted(values, key, side) for side in ("left", "right"))
            within = (passed[value], passed[value] + int(last - first))
            chosen = ranks[value][slice(*np.searchsorted(ranks[value], within))]
            parts[value].append(start + voxels[order[first + chosen - passed[value]]])
            passed[value] = within[1]
        start += flat.size
    dtype = id_dtype(label_zyx.shape)
    block = b"".join(np.concatenate(parts[value]).astype(dtype).tobytes() for value in kept)
    return block + bytes(-len(block) % BLOCK_ALIGNMENT)


def _stratified_ranks(total: int, count: int, case_id: str, value: int) -> np.ndarray:
    """`count` distinct ranks below `total`, ascending, one from each of `count` equal stretches."""
    key = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=np.array([key, value], np.uint64)))
    bounds = np.arange(count + 1) * total // count
    return generator.integers(bounds[:-1], bounds[1:])


class ForegroundIndex:
    """`fg.bin`, mapped into memory on first use; pickles as its path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_data": None}

    def coordinates(
        self, offset: int, counts: Mapping[int, int], value: int, shape_zyx: Size3
    ) -> np.ndarray:
        """Voxels of label `value` in the block at byte `offset`, int64 `(n, 3)` as z, y, x.

        Args:
            offset: Where the case's block starts.
            counts: Ids per label of the case, labels ascending.
            value: The label; one that is not in `counts` gives no voxels.
            shape_zyx: The case's volume.

        Raises:
            DataError: The file is missing or the ids do not lie inside the volume.
        """
        if value not in counts:
            return np.empty((0, 3), np.int64)
        dtype = id_dtype(shape_zyx)
        before = sum(count for other, count in counts.items() if other < value)
        start = offset + before * dtype.itemsize
        stop = start + counts[value] * dtype.itemsize
        data = self._bytes()[start:stop]
        ids = data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
        if len(ids) != counts[value] or (ids >= math.prod(shape_zyx)).any():
            raise DataError(
                f"{self._path}: bytes {start} to {stop} are not voxel ids of label {value};"
                " run 'stunet data prepare' again"
            )
        return np.stack(np.unravel_index(ids, shape_zyx), axis=1)

    def _bytes(self) -> np.ndarray:
        if self._data is None:
            try:
                empty = self._path.stat().st_size == 0  # mmap refuses an empty file
                self._data = np.empty(0, "u1") if empty else np.memmap(self._path, "u1", "r")
            except OSError as error:
                raise DataError(
                    f"{self._path}: {error.strerror}; run 'stunet data prepare' again"
                ) from error
        return self._data
