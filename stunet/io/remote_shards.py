"""Shards of a store behind a URL, fetched in ranges. For copies of whole shards: `shard_cache`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from stunet.errors import DataError
from stunet.io.checksum import FileRecord
from stunet.io.remote import BATCH_BYTES, ByteRange, RemoteFolder
from stunet.io.retry import COPY_AGAIN
from stunet.io.shard_source import ShardRange


class RemoteSource:
    """Shards behind a URL: all ranges of a patch are fetched at the same time."""

    remedy = COPY_AGAIN

    def __init__(self, remote: RemoteFolder) -> None:
        self._remote = remote
        self.gap_bytes = remote.options.gap_bytes

    def locate(self, path: str) -> str:
        """The URL of a file of the store."""
        return self._remote.locate(path)

    def close(self) -> None:
        """Nothing: a connection is shared by all that read from this URL."""

    def read(self, ranges: Sequence[ShardRange]) -> Iterator[np.ndarray]:
        """Yield the bytes of each range."""
        for batch in _batches(ranges):
            wanted = [ByteRange(s.path, begin, end, s.case_id) for s, begin, end in batch]
            for data in self._remote.read_ranges(wanted):
                yield np.frombuffer(data, np.uint8)

    def read_again(self, wanted: ShardRange) -> np.ndarray:
        """Fetch a range once more: a bit that flipped on the way is whole the second time."""
        return next(self.read([wanted]))

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> Any:
        """The array's files in memory."""
        return zarr_store_in_memory(self._remote, case_id, folder, files)


def _batches(ranges: Sequence[ShardRange]) -> Iterator[list[ShardRange]]:
    """Split ranges so that at most about `BATCH_BYTES` are in memory at once."""
    batch: list[ShardRange] = []
    held = 0
    for item in ranges:
        if batch and held + item.end - item.begin > BATCH_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += item.end - item.begin
    if batch:
        yield batch


def zarr_store_in_memory(
    remote: RemoteFolder, case_id: str, folder: str, files: Mapping[str, FileRecord]
) -> Any:
    """Fetch all files of an array, checksums verified, for codecs that only zarr-python decodes.

    Raises:
        DataError: A file is missing or damaged.
    """
    from zarr.buffer import cpu
    from zarr.storage import MemoryStore

    held = {}
    for name, record in files.items():
        path = f"{folder}/{name}"
        for _ in range(2):  # once more if a bit flipped on the way
            data = b"".join(remote.read_blocks(path, record.bytes, case_id))
            if google_crc32c.value(data) == record.crc32c:
                break
        else:
            raise DataError(
                f"case {case_id}: {remote.locate(path)}: its checksum is not the one recorded;"
                f" {COPY_AGAIN}"
            )
        held[name] = cpu.Buffer.from_bytes(data)
    return MemoryStore(held)  # type: ignore[arg-type]  # dict is invariant
