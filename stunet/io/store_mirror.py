"""A local copy of what a remote store's cases share: manifest, shard indices, foreground voxels.

With it a case is opened and a patch is placed without a request. It is fetched once per machine and
version of the store, whole and with its checksums verified. Not for voxels (`shard_cache`).
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stunet.errors import DataError
from stunet.io.atomic import atomic_write_bytes
from stunet.io.checksum import checksum_file
from stunet.io.manifest import DATASET, MANIFEST, read_dataset
from stunet.io.remote import ByteRange, RemoteFolder


def mirror(remote: RemoteFolder) -> Path:
    """Fetch what is missing of the copy and return its folder.

    Copies of older versions of the store stay: other runs may use them.

    Raises:
        DataError: There is no store at the URL, it is damaged, or the copy cannot be written.
    """
    entry = remote.find(DATASET)
    if entry is None:
        raise DataError(
            f"{remote.locate()} is no store: it has no {DATASET}; copy one there with"
            " 'stunet data copy'"
        )
    record = _read_twice(remote, entry.bytes)
    version = hashlib.sha256(remote.url.encode() + b"\n" + record).hexdigest()
    folder = remote.options.cache_folder / "stores" / version[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder):
            atomic_write_bytes(folder / DATASET, record)
            _fetch_beside(remote, folder)
    except DataError as error:
        if str(folder) not in str(error):
            raise
        raise DataError(f"{remote.locate()}: {error}") from error
    except OSError as error:
        raise DataError(
            f"{folder}: {error.strerror}; set remote.cache_dir to a folder with space"
        ) from error
    return folder


def _read_twice(remote: RemoteFolder, size: int) -> bytes:
    """`dataset.json`, which vouches for all the rest and has no checksum: two equal readings."""
    wanted = [ByteRange(DATASET, 0, size)]
    (before,) = remote.read_ranges(wanted)
    for _ in range(remote.options.retries + 1):
        (record,) = remote.read_ranges(wanted)
        if record == before:
            return record
        before = record
    raise DataError(f"{remote.locate(DATASET)}: changes at every reading; wait until it is written")


def _fetch_beside(remote: RemoteFolder, folder: Path) -> None:
    for name, expected in read_dataset(folder)[1].items():
        copy = folder / name
        whole = copy.is_file() and copy.stat().st_size == expected.bytes
        if whole and name == MANIFEST:  # the others are large, and checked or harmless in use
            whole = checksum_file(copy) == expected
        if not whole:
            remote.download(name, expected, copy)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let the processes of a machine fetch one after another: the second finds it done."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        yield
