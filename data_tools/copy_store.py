"""Copy a store to an object store, or from one: `stunet data copy`.

Every file is compared with the manifest before it leaves and with what arrived after it, so that
the same command again continues, repairs, and otherwise proves the copy sound. `dataset.json` goes
last: until then nobody takes the copy for a store. What only a resumed preparation needs stays.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from stunet.errors import DataError
from stunet.io.checksum import BLOCK_BYTES, FileRecord, checksum_file
from stunet.io.manifest import DATASET, read_dataset
from stunet.io.remote import RemoteFolder, StoreOptions, is_url
from stunet.io.store import open_store

Advance = Callable[[int, int, str], None]  # done, of how many, case
AT_ONCE = 8  # files on their way; a shard is up to about 150 MB


@dataclass(frozen=True)
class CopyReport:
    """What was done: files and bytes that were copied, and files that were there already."""

    copied: int
    copied_bytes: int
    found: int


@dataclass(frozen=True)
class _Item:
    case_id: str
    name: str  # relative to the store
    record: FileRecord


def copy_store(
    source: str | Path,
    destination: str | Path,
    options: StoreOptions,
    advance: Advance | None = None,
) -> CopyReport:
    """Copy a finished store; either end may be a folder or a URL.

    Args:
        source: The store.
        destination: An empty place, or one that holds a part or all of the same store.
        options: For the remote ends.
        advance: Called with the files done, the number of files and the case of the last one.

    Raises:
        DataError: The source is damaged, the destination holds another store or cannot be written.
    """
    store = open_store(source, options)
    route = _Route(
        folder=store.folder,
        source=RemoteFolder(str(source), options) if is_url(source) else None,
        goal=RemoteFolder(_url(destination), options),
    )
    last = _Item("", DATASET, checksum_file(store.folder / DATASET))
    if route.goal.find(DATASET) and not _holds(route.goal, last, ""):
        raise DataError(
            f"{route.goal.locate()} holds another store; name an empty place, or delete its"
            f" {DATASET}"
        )
    items = [_Item("", name, record) for name, record in read_dataset(store.folder)[1].items()]
    for row in store.rows:
        items += [_Item(row.case_id, f"{row.path}/{n}", record) for n, record in row.files.items()]
    copied = []
    total = len(items) + 1
    with ThreadPoolExecutor(AT_ONCE) as threads:
        tasks = {threads.submit(_copy, route, item): item for item in items}
        try:
            for done, task in enumerate(as_completed(tasks), start=1):
                if task.result():
                    copied.append(tasks[task].record.bytes)
                if advance is not None:
                    advance(done, total, tasks[task].case_id)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if _copy(route, last):
        copied.append(last.record.bytes)
    if advance is not None:
        advance(total, total, "")
    return CopyReport(len(copied), sum(copied), total - len(copied))


@dataclass(frozen=True)
class _Route:
    folder: Path  # of what the source's cases share, or of all if it is local
    source: RemoteFolder | None
    goal: RemoteFolder


def _url(place: str | Path) -> str:
    return str(place) if is_url(place) else f"file://{Path(place).absolute()}"


def _copy(route: _Route, item: _Item) -> bool:
    """Copy a file unless it is there; whether it was necessary."""
    with _local(route, item) as file:
        md5 = _md5_of_sound(file, item)
        if _holds(route.goal, item, md5):
            return False
        route.goal.upload(file, item.name)
        if not _holds(route.goal, item, md5):
            raise DataError(
                f"{_who(item)}{route.goal.locate(item.name)}: what arrived is not what was sent;"
                " run the same command again"
            )
    return True


@contextmanager
def _local(route: _Route, item: _Item) -> Iterator[Path]:
    """The file on this machine: in place, or fetched for a moment."""
    if route.source is None or not item.case_id:
        yield route.folder / item.name
        return
    with tempfile.TemporaryDirectory(prefix="stunet-copy-") as folder:
        fetched = Path(folder) / "file"
        route.source.download(item.name, item.record, fetched, item.case_id)
        yield fetched


def _md5_of_sound(file: Path, item: _Item) -> str:
    """The MD5 of a source file whose size and crc32c are those recorded."""
    try:
        with file.open("rb") as blocks:
            md5, crc, size = hashlib.md5(usedforsecurity=False), 0, 0
            while block := blocks.read(BLOCK_BYTES):
                md5.update(block)
                crc = google_crc32c.extend(crc, block)
                size += len(block)
    except OSError as error:
        raise DataError(
            f"{_who(item)}{file}: {error.strerror}; run 'stunet data verify'"
        ) from error
    if FileRecord(size, crc) != item.record:
        raise DataError(
            f"{_who(item)}{file}: size or checksum is not the one recorded; run"
            " 'stunet data verify'"
        )
    return md5.hexdigest()


def _holds(goal: RemoteFolder, item: _Item, md5: str) -> bool:
    """Whether the destination has exactly this file: by its MD5 if told, else by reading it."""
    entry = goal.find(item.name)
    if entry is None or entry.bytes != item.record.bytes:
        return False
    if entry.etag == md5:
        return True
    crc = 0  # encrypted or multipart objects have other ETags, other backends none
    for block in goal.read_blocks(item.name, entry.bytes, item.case_id):
        crc = google_crc32c.extend(crc, block)
    return bool(crc == item.record.crc32c)


def _who(item: _Item) -> str:
    return f"case {item.case_id}: " if item.case_id else ""
