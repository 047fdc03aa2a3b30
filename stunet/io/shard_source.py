"""Where `ShardReader` gets the bytes of shards from, and the source that reads local files.

Knows neither arrays nor codecs. Shards behind a URL: `remote_shards`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from stunet.errors import DataError
from stunet.io.checksum import FileRecord

FILE_GAP_BYTES = 1 << 16  # reading over a smaller gap beats a second pread
OPEN_SHARDS = 256  # per process; a quarter of the usual limit of 1024 file descriptors

RESTORE = "restore the file, or delete the case's folder and run 'stunet data prepare'"


class Shard(NamedTuple):
    """One shard file of a store."""

    case_id: str
    path: str  # relative to the store
    record: FileRecord


class ShardRange(NamedTuple):
    """Bytes `begin` to `end` (exclusive) of a shard."""

    shard: Shard
    begin: int
    end: int


class ShardSource(Protocol):
    """Reads ranges of shards; pickles without open files and connections.

    Attributes:
        gap_bytes: Reading over a gap of at most this size beats another request.
        remedy: What to do about a damaged shard, for messages.
    """

    gap_bytes: int
    remedy: str

    def read(self, ranges: Sequence[ShardRange]) -> Iterator[np.ndarray]:
        """Yield the bytes of each range in turn, uint8, valid until the next is asked for.

        Raises:
            DataError: A shard is missing or has another size than recorded.
        """

    def read_again(self, wanted: ShardRange) -> np.ndarray:
        """Return the bytes of one range once more, from as near to the origin as possible."""

    def locate(self, path: str) -> str:
        """Return the full path or URL of a file of the store, for messages."""

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> Any:
        """Return what zarr-python opens the array in `folder` from; `files` are relative to it."""

    def close(self) -> None:
        """Close all files; a later read opens them again."""


class ShardFiles(Protocol):
    """Gives the open file of a shard."""

    remedy: str

    def open(self, shard: Shard) -> int:
        """Return a file descriptor for reading, of a file of the recorded size."""

    def discard(self, shard: Shard) -> None:
        """Forget a copy whose contents proved damaged."""

    def locate(self, path: str) -> str:
        """As `ShardSource`."""

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> Any:
        """As `ShardSource`."""


class FileSource:
    """Shards in local files, by positional reads; the files used last stay open.

    Since no file position is shared it may also be forked. Not for two threads at once.
    """

    gap_bytes = FILE_GAP_BYTES

    def __init__(self, files: ShardFiles, open_shards: int = OPEN_SHARDS) -> None:
        self._files = files
        self._open_shards = open_shards
        self.remedy = files.remedy
        self._forget()

    def _forget(self) -> None:
        self._handles: OrderedDict[str, int] = OrderedDict()
        self._buffer = np.empty(0, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_files", "_open_shards", "remedy")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def locate(self, path: str) -> str:
        """The full path or URL of a file of the store."""
        return self._files.locate(path)

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> Any:
        """What zarr-python opens an array from."""
        return self._files.zarr_store(case_id, folder, files)

    def read(self, ranges: Sequence[ShardRange]) -> Iterator[np.ndarray]:
        """Yield the bytes of each range; fewer if a file was cut short since it was opened."""
        return map(self._read, ranges)

    def read_again(self, wanted: ShardRange) -> np.ndarray:
        """Read a range from a file opened anew."""
        handle = self._handles.pop(wanted.shard.path, None)
        if handle is not None:
            os.close(handle)
        self._files.discard(wanted.shard)
        return self._read(wanted)

    def _read(self, wanted: ShardRange) -> np.ndarray:
        shard, begin, end = wanted
        handle = self._handle(shard)
        if self._buffer.size < end - begin:
            self._buffer = np.empty(end - begin, np.uint8)
        filled = 0
        try:
            while filled < end - begin:
                count = os.preadv(handle, [self._buffer[filled : end - begin].data], begin + filled)
                if count == 0:
                    break
                filled += count
        except OSError as error:
            place = self._files.locate(shard.path)
            raise DataError(
                f"case {shard.case_id}: shard {place}: {error.strerror}; {self.remedy}"
            ) from error
        return self._buffer[:filled]

    def _handle(self, shard: Shard) -> int:
        handle = self._handles.get(shard.path)
        if handle is not None:
            self._handles.move_to_end(shard.path)
            return handle
        if len(self._handles) >= self._open_shards:
            os.close(self._handles.popitem(last=False)[1])
        handle = self._handles[shard.path] = self._files.open(shard)
        return handle


class StoreFiles:
    """The files of a local store; their sizes are compared with the manifest when first opened."""

    remedy = RESTORE

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def locate(self, path: str) -> str:
        """The full path of a file of the store."""
        return f"{self._root}/{path}" if path else self._root

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> str:
        """The folder itself."""
        return self.locate(folder)

    def discard(self, shard: Shard) -> None:
        """Nothing: these files are no copies."""

    def open(self, shard: Shard) -> int:
        """Open a shard.

        Raises:
            DataError: It is missing or has another size than recorded.
        """
        path = self.locate(shard.path)
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"case {shard.case_id}: shard {path}: {error.strerror}; {RESTORE}"
            ) from error
        size = os.fstat(handle).st_size
        if size != shard.record.bytes:
            os.close(handle)
            raise DataError(
                f"case {shard.case_id}: shard {path} has {size} bytes, not"
                f" {shard.record.bytes}; {RESTORE}"
            )
        return handle
