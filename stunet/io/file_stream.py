"""A file read from front to back, decompressed on the way, with its checksum verified at the end.

Readers that stop at the last voxel never see the checksum that follows it, and some ignore it.
Memory does not depend on the size of the file. Whole files are read by `file_bytes`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from stunet.errors import VolumeError
from stunet.io.file_bytes import GZIP_MAGIC, damaged, truncated

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 1 << 20  # read unit; large enough that the call overhead vanishes
MAX_DEFLATE_FACTOR = 1032  # zlib's documentation: one byte of a stream makes at most so many


@contextmanager
def verified_stream(path: Path) -> Iterator[BinaryIO]:
    """Yield the content of `path`, of a gzip file what it decompresses to.

    The rest is read when the block ends. If the block raises a `VolumeError` and the file turns out
    to be damaged, then the damage is reported: it explains whatever the block found.

    Raises:
        VolumeError: The file is missing, unreadable, empty, truncated or damaged.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(GZIP_MAGIC))
            file.seek(0)
            if not magic:
                raise VolumeError(f"{path}: is empty (0 bytes); copy or download it again")
            zipped = magic == GZIP_MAGIC
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=file) if zipped else file)
            try:
                yield stream
            except VolumeError:
                _read_on(stream, zipped)
                raise
            _read_on(stream, zipped)
    except EOFError as error:
        raise VolumeError(truncated(path, path.stat().st_size)) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError(damaged(path, str(error))) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VolumeError(f"{path}: cannot be read ({reason}); check the path") from error


def check_size(stream: BinaryIO, needed_bytes: int, path: Path) -> None:
    """Refuse a file that is too small for what its header announces, before memory is reserved.

    Raises:
        VolumeError: Not even the best compression would make `needed_bytes` of it.
    """
    size_bytes = path.stat().st_size
    factor = MAX_DEFLATE_FACTOR if isinstance(stream, gzip.GzipFile) else 1
    if needed_bytes > factor * size_bytes:
        raise VolumeError(truncated(path, size_bytes))


def read_up_to(position: int, stream: BinaryIO) -> bytes:
    """What lies between here and `position`, less if the stream ends before."""
    blocks = []
    while block := stream.read(min(BLOCK_BYTES, max(0, position - stream.tell()))):
        blocks.append(block)
    return b"".join(blocks)


def read_array(stream: BinaryIO, count: int, dtype: np.dtype, path: Path) -> np.ndarray:
    """The next `count` numbers of a stream; `path` is for the message.

    Raises:
        VolumeError: The stream ends before.
    """
    values = np.empty(count, dtype)
    wanted, got = values.view(np.uint8), 0
    while got < len(wanted) and (block := stream.read(min(BLOCK_BYTES, len(wanted) - got))):
        wanted[got : got + len(block)] = np.frombuffer(block, np.uint8)
        got += len(block)
    if got < len(wanted):
        raise VolumeError(truncated(path, stream.tell()))
    return values


def _read_on(stream: BinaryIO, zipped: bool) -> None:
    """Read to the end, where gzip keeps its checksum."""
    while zipped and stream.read(BLOCK_BYTES):
        pass
