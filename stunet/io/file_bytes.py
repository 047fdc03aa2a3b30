"""A whole file in memory, with the checksum of its compressed stream verified.

Readers that stop at the last voxel never see the checksum that follows it, and some ignore it.
What `itk` accepts went through here first; NIfTI files are read by `file_stream`. Not for the zarr
store, whose shards carry checksums of their own.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from stunet.errors import VolumeError

if TYPE_CHECKING:
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """Return the bytes of `path` as they lie on disk.

    Raises:
        VolumeError: The file is missing, unreadable or empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VolumeError(f"{path}: cannot be read ({reason}); check the path") from error
    if not data:
        raise VolumeError(f"{path}: is empty (0 bytes); copy or download it again")
    return data


def inflate(data: bytes, path: Path) -> bytes:
    """Decompress and verify one zlib (Adler-32) or gzip (CRC-32) stream; ignore what follows it.

    Raises:
        VolumeError: The stream is truncated or damaged.
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: tell zlib from gzip by the header
    try:
        inflated = stream.decompress(data)
    except zlib.error as error:
        raise VolumeError(damaged(path, str(error))) from error
    if not stream.eof:
        raise VolumeError(truncated(path, len(data)))
    return inflated


def truncated(path: Path, size_bytes: int) -> str:
    """Message for a file that ends before its data do."""
    return f"{path}: is truncated after {size_bytes} bytes of data; copy or download it again"


def damaged(path: Path, reason: str) -> str:
    """Message for a compressed stream that fails its checksum or cannot be decoded."""
    return f"{path}: compressed data are damaged ({reason}); copy or download it again"
