"""Local copies of a remote store's shards, within a limit of bytes: the least recently used go.

Any number of processes may share the folder and any of them may be killed: a copy takes its name
only once it is whole and its checksum fits, and one that disappears is fetched again. Two processes
that want the same shard at the same moment fetch it twice.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stunet.errors import DataError
from stunet.io.checksum import FileRecord
from stunet.io.remote import RemoteFolder
from stunet.io.remote_shards import zarr_store_in_memory
from stunet.io.retry import COPY_AGAIN
from stunet.io.shard_source import Shard

OPEN_COPIES = 8  # per process: a deleted file takes space for as long as it is open
STALE_S = 3600.0  # a temporary file untouched for so long was left by a killed process


class ShardCache:
    """Copies of whole shards below `remote.options.cache_folder`; gives their open files.

    The limit may be exceeded by one shard per process that is fetching at the moment.
    """

    remedy = COPY_AGAIN

    def __init__(self, remote: RemoteFolder) -> None:
        self._remote = remote
        self._folder = remote.options.cache_folder / "shards"

    def locate(self, path: str) -> str:
        """The URL of a file of the store."""
        return self._remote.locate(path)

    def zarr_store(self, case_id: str, folder: str, files: Mapping[str, FileRecord]) -> Any:
        """The array's files in memory."""
        return zarr_store_in_memory(self._remote, case_id, folder, files)

    def discard(self, shard: Shard) -> None:
        """Delete a copy."""
        self._copy_of(shard).unlink(missing_ok=True)

    def open(self, shard: Shard) -> int:
        """Open the copy of a shard, fetching it first where there is none.

        Raises:
            DataError: The shard is not to be had, or its copy cannot be written.
        """
        copy = self._copy_of(shard)
        while True:  # another process may evict the copy between our fetching and opening it
            try:
                handle = os.open(copy, os.O_RDONLY)
            except FileNotFoundError:
                self._fetch(shard, copy)
                continue
            if os.fstat(handle).st_size == shard.record.bytes:
                now = time.time_ns()  # finer than the kernel's own
                os.utime(handle, ns=(now, now))  # the order of eviction
                return handle
            os.close(handle)
            self.discard(shard)

    def _copy_of(self, shard: Shard) -> Path:
        """Named by content too, so that a store that was prepared anew has copies of its own."""
        identity = f"{self._remote.url}/{shard.path} {shard.record}"
        return self._folder / hashlib.sha256(identity.encode()).hexdigest()

    def _fetch(self, shard: Shard, copy: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(shard.record.bytes)
        except OSError as error:
            raise DataError(
                f"{self._folder}: {error.strerror}; set remote.cache_dir to a folder of your own"
            ) from error
        self._remote.download(shard.path, shard.record, copy, shard.case_id)

    def _make_room(self, needed_bytes: int) -> None:
        """Delete the least recently used copies until `needed_bytes` more fit within the limit."""
        copies, held = [], 0
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat()
            except FileNotFoundError:  # another process deleted it
                continue
            if entry.name.endswith(".tmp"):
                if time.time() - status.st_mtime > STALE_S:
                    Path(entry.path).unlink(missing_ok=True)
                continue
            copies.append((status.st_mtime_ns, status.st_size, entry.path))
            held += status.st_size
        for _, size, path in sorted(copies):
            if held + needed_bytes <= self._remote.options.cache_bytes:
                return
            Path(path).unlink(missing_ok=True)
            held -= size
