"""How much memory the preparation of a case takes, so that only as many run at once as fit.

Arrays above `stunet.io.spill.IN_MEMORY_BYTES` lie on disk and the rest is worked on in slabs, so no
case takes more than 4 GB, whatever its size. The estimates are upper bounds; a test holds real
preparations against them.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from stunet.io.layout import SHARD_VOXELS
from stunet.io.spill import IN_MEMORY_BYTES, SLAB_VOXELS
from stunet.types import RawCase, Size3

PROCESS_BYTES = 300_000_000  # interpreter, libraries and compiled loops: 250 MB measured
RESAMPLED_BYTES = 16  # per voxel of a slab: three float32 arrays and its source
MEASURED_BYTES = 8  # per voxel of a slab: its label and image, where it counts, and what it holds
SHARD_BYTES = 6  # per voxel of a shard: its voxels, its compressed chunks and its file
INFLATION = 4  # voxel bytes per byte of a compressed scan: 2 to 3 in CT, 4 with much air in MR


def writing_bytes(shape_from: Size3, shape_to: Size3, channels: int) -> int:
    """Peak memory of a process that brings a case to the target grid and writes it."""
    before, after = prod(shape_from), prod(shape_to)
    source = _held(before * channels, 2, 4) + _held(before, 1, 2)
    label, resampled = _held(after, 1, 2), _held(after * channels, 4)
    stored = _held(after * channels, 2)
    slab = RESAMPLED_BYTES * min(max(before, after), SLAB_VOXELS)
    stages = (
        source + label + resampled + slab,
        label + resampled + stored,
        label + stored + SHARD_BYTES * min(after, SHARD_VOXELS),
    )
    return PROCESS_BYTES + max(stages)


def measuring_bytes(case: RawCase) -> int:
    """Peak memory of a process that measures a case, from the size of its files."""
    files = [file for image in case.images for file in _files(Path(image))]
    image_bytes = INFLATION * sum(file.stat().st_size for file in files if file.is_file())
    held = sum(min(array, IN_MEMORY_BYTES) for array in (image_bytes, image_bytes, 2 * image_bytes))
    return PROCESS_BYTES + held + MEASURED_BYTES * min(image_bytes, SLAB_VOXELS)


def available_bytes() -> int:
    """Memory of this machine, or container, that is free to use now."""
    import psutil
    from distributed.system import MEMORY_LIMIT  # knows the limits of containers

    return min(MEMORY_LIMIT, psutil.virtual_memory().available)


def _held(voxels: int, *voxel_bytes: int) -> int:
    """Memory of an array of one of these types: nothing if it is large enough to be spilled."""
    sizes = (voxels * size for size in voxel_bytes)
    return max((size for size in sizes if size <= IN_MEMORY_BYTES), default=0)


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
