"""Files below a URL: ranged reads, downloads and uploads through fsspec, with timeouts and retries.

Any protocol of fsspec: `s3://`, `gs://`, `http://`, `file://`, `memory://`. Credentials, endpoint
and region come from the environment (`AWS_ENDPOINT_URL` and the like) or fsspec's configuration.
This is the only file that imports fsspec. Not for local paths, whose readers open files directly.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import google_crc32c

from stunet.errors import ConfigError, DataError
from stunet.io.atomic import atomic_file
from stunet.io.checksum import FileRecord
from stunet.io.retry import is_permanent, reason, remedy, wait_s, without_secrets

CONCURRENT = 16  # requests at once per process: twice what a patch needs
PART_BYTES = 8 << 20  # of a large file: one request, one timeout
BATCH_BYTES = 64 << 20  # in flight at once

T = TypeVar("T")
Call = Callable[[], Awaitable[T]]


@dataclass(frozen=True)
class StoreOptions:
    """How a store behind a URL is read; a local store needs none of it.

    Attributes:
        retries: Further attempts after a request failed in passing; 8 bridge about 23 s.
        timeout_s: Of one request, for every 8 MiB of it.
        gap_bytes: Chunks at most this far apart are fetched by one request. 328 KiB: 9 requests
            and 7 MB for 128^3 voxels of a CT; more is faster where latency dominates.
        cache_bytes: Local space for whole shards; 0: fetch chunks alone and keep nothing.
        cache_dir: Folder of that cache and of a store's indices; None: `~/.cache/stunet`.
    """

    retries: int = 8
    timeout_s: float = 60.0
    gap_bytes: int = 41 << 13
    cache_bytes: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("retries", "gap_bytes", "cache_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"remote.{name}={getattr(self, name)}: give 0 or more")
        if not self.timeout_s > 0:
            raise ConfigError(f"remote.timeout_s={self.timeout_s}: give a number above 0")

    @property
    def cache_folder(self) -> Path:
        """Where local copies lie."""
        return Path(self.cache_dir) if self.cache_dir else Path.home() / ".cache" / "stunet"


class ByteRange(NamedTuple):
    """Bytes `begin` to `end` (exclusive) of a file."""

    name: str  # relative to the folder
    begin: int
    end: int
    case_id: str = ""  # for messages


class Entry(NamedTuple):
    """What a backend tells about a file without its contents."""

    bytes: int
    etag: str  # the MD5 of an object that S3 took in one piece; empty where there is none


def is_url(place: str | Path) -> bool:
    """Whether `place` is a URL and not a local path."""
    return "://" in str(place)


class RemoteFolder:
    """The files below `url`; safe to use from several threads.

    Pickles as its URL and options and connects anew in every process. All methods raise a
    DataError that names the case, the URL and the next action when a file is not to be had.

    Attributes:
        url: As given.
        options: Retries, timeouts and caches.
    """

    def __init__(self, url: str, options: StoreOptions = StoreOptions()) -> None:
        self.url = url.rstrip("/")
        self.options = options
        self._connection: tuple[int, Any] | None = None  # process id, filesystem

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options, "_connection": None}

    def locate(self, name: str = "") -> str:
        """The URL of a file, without secrets, for messages."""
        return without_secrets(self._path(name))

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Fetch all ranges at the same time; each is tried again on its own."""
        filesystem = self._filesystem()

        async def fetch(wanted: ByteRange) -> bytes:
            size = wanted.end - wanted.begin
            path = self._path(wanted.name)
            data = await filesystem._cat_file(path, start=wanted.begin, end=wanted.end)
            if len(data) != size:
                raise OSError(f"{len(data)} bytes came instead of {size}")
            return bytes(data)

        async def fetch_all() -> list[bytes]:
            free = asyncio.Semaphore(CONCURRENT)

            async def one(wanted: ByteRange) -> bytes:
                async with free:
                    size = wanted.end - wanted.begin
                    call = partial(fetch, wanted)
                    return await self._insist(call, wanted.name, size, wanted.case_id)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(wanted)) for wanted in ranges]
            return [task.result() for task in tasks]

        try:
            return self._run(fetch_all)
        except ExceptionGroup as group:  # the first failure has cancelled the others
            raise group.exceptions[0] from group.exceptions[0].__cause__

    def read_blocks(
        self, name: str, size: int, case_id: str = "", start: int = 0
    ) -> Iterator[bytes]:
        """Bytes `start` to `size` (exclusive) of a file, in order, fetched in parallel parts."""
        for first in range(start, size, BATCH_BYTES):
            last = min(size, first + BATCH_BYTES)
            yield from self.read_ranges(
                [
                    ByteRange(name, begin, min(last, begin + PART_BYTES), case_id)
                    for begin in range(first, last, PART_BYTES)
                ]
            )

    def read_bytes(self, name: str) -> bytes:
        """A whole, small file."""
        return b"".join(self.read_blocks(name, self.entry(name).bytes))

    def entry(self, name: str) -> Entry:
        """Size and ETag of a file."""
        entry = self.find(name)
        if entry is None:
            error = FileNotFoundError()
            raise DataError(f"{self.locate(name)}: {reason(error)}; {remedy(error)}")
        return entry

    def find(self, name: str) -> Entry | None:
        """As `entry`, but None if there is no such file."""
        filesystem = self._filesystem()

        async def call() -> Entry | None:
            try:
                info = await filesystem._info(self._path(name))
            except FileNotFoundError:
                return None
            if info.get("size") is None or info.get("type") == "directory":
                return None
            return Entry(int(info["size"]), str(info.get("ETag", "")).strip('"'))

        return self._run(lambda: self._insist(call, name))

    def download(self, name: str, record: FileRecord, target: Path, case_id: str = "") -> None:
        """Fetch a whole file to `target`, which appears only once its checksum fits `record`."""
        for last in (False, True):  # what arrives wrong twice is wrong at its source
            try:
                with atomic_file(target) as file:
                    crc = 0
                    for block in self.read_blocks(name, record.bytes, case_id):
                        crc = google_crc32c.extend(crc, block)
                        file.write(block)
                    if crc != record.crc32c:
                        raise _WrongChecksumError
                return
            except OSError as error:
                raise DataError(
                    f"{target}: {error.strerror}; free space there or set remote.cache_dir"
                ) from error
            except _WrongChecksumError:
                if last:
                    who = f"case {case_id}: " if case_id else ""
                    raise DataError(
                        f"{who}{self.locate(name)}: its checksum is not the one recorded;"
                        " copy the store there again with 'stunet data copy'"
                    ) from None

    def upload(self, file: Path, name: str) -> None:
        """Put a local file here, replacing what was there."""
        filesystem = self._filesystem()

        async def call() -> None:
            await filesystem._put_file(str(file), self._path(name))

        self._run(lambda: self._insist(call, name, file.stat().st_size))

    async def _insist(self, call: Call[T], name: str, size: int = 0, case_id: str = "") -> T:
        """Await `call()`, again after a failure that may pass, each time within the timeout."""
        timeout_s = self.options.timeout_s * (1 + size // PART_BYTES)
        for attempt in range(self.options.retries + 1):
            try:
                return await asyncio.wait_for(call(), timeout_s)
            except Exception as error:  # every backend has its own
                if attempt == self.options.retries or is_permanent(error):
                    who = f"case {case_id}: " if case_id else ""
                    tried = f" in {attempt + 1} attempts" if attempt else ""
                    raise DataError(
                        f"{who}{self.locate(name)}: {reason(error)}{tried}; {remedy(error)}"
                    ) from error
            await asyncio.sleep(wait_s(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _run(self, call: Call[T]) -> T:
        from fsspec.asyn import sync

        return sync(self._filesystem().loop, call)

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _filesystem(self) -> Any:
        """The connection of this process: a forked one cannot use its parent's."""
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = os.getpid(), _connect(self.url, self.options)
        return self._connection[1]


class _WrongChecksumError(Exception):
    """What was downloaded is not what was recorded."""


def _connect(url: str, options: StoreOptions) -> Any:
    """An asynchronous filesystem of our own, since settings of a shared one would leak."""
    import fsspec
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    protocol = url.partition("://")[0]
    settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol == "s3":
        settings["config_kwargs"] = {
            "connect_timeout": options.timeout_s,
            "read_timeout": options.timeout_s,
            "max_pool_connections": CONCURRENT,
            "retries": {"total_max_attempts": 1},  # botocore's waits are random
            **fsspec.config.conf.get(protocol, {}).get("config_kwargs", {}),
        }
    if protocol in ("file", "local"):
        settings["auto_mkdir"] = True
    try:
        filesystem = fsspec.filesystem(protocol, **settings)
    except ImportError as error:
        action = "run: pip install 'stunet[s3]'" if protocol == "s3" else "install that package"
        raise DataError(f"{without_secrets(url)}: {reason(error)}; {action}") from error
    except ValueError as error:
        raise DataError(f"{without_secrets(url)}: {reason(error)}; check the URL") from error
    filesystem.retries = 1  # s3fs would retry below us
    return filesystem if filesystem.async_impl else AsyncFileSystemWrapper(filesystem)
