"""Bundles below a URL of an object store, through fsspec: `s3://`, `gs://`, `https://`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from stunet.bundle import SUMS, parse_sums
from stunet.errors import BundleError
from stunet.hub.resume import complete
from stunet.io.atomic import atomic_write_bytes
from stunet.io.checksum import BLOCK_BYTES
from stunet.io.remote import RemoteFolder, StoreOptions

BUNDLES = "bundles"  # in the cache folder


def fetch_from_url(url: str, options: StoreOptions) -> Path:
    """Return a local copy of a bundle; what is there already is not fetched again.

    Raises:
        BundleError: There is no bundle, or a file of it has another checksum than it says.
        DataError: The place cannot be reached.
    """
    remote = RemoteFolder(url, options)
    if remote.find(SUMS) is None:
        raise BundleError(f"bundle {remote.locate()}: has no {SUMS}; check the URL")
    record = remote.read_bytes(SUMS)
    sums = parse_sums(record.decode(errors="replace"), remote.locate())
    key = hashlib.sha256(remote.url.encode() + b"\n" + record).hexdigest()[:32]
    folder = options.cache_folder / BUNDLES / key / remote.url.rpartition("/")[2]
    for name, digest in sums.items():
        if not (folder / name).exists():
            complete(folder / name, digest, remote.locate(name), _Appender(remote, name))
    atomic_write_bytes(folder / SUMS, record)
    return folder


def send_to_url(folder: Path, url: str, options: StoreOptions) -> None:
    """Copy a bundle below a URL; its checksums go last, so that nobody takes a part for it.

    What is there already, from an interrupted call, is not sent again.

    Raises:
        BundleError: Another bundle is there, or something arrives changed.
        DataError: The place cannot be reached or written.
    """
    remote = RemoteFolder(url, options)
    record = (folder / SUMS).read_bytes()
    if remote.find(SUMS) is not None and remote.read_bytes(SUMS) != record:
        raise BundleError(f"publish {remote.locate()}: another bundle is there; name a new place")
    for name in (*parse_sums(record.decode(), folder), SUMS):
        digests = _Digests.of(folder / name)
        if _holds(remote, name, digests):
            continue
        remote.upload(folder / name, name)
        if not _holds(remote, name, digests):
            raise BundleError(
                f"publish {remote.locate(name)}: what arrived is not what was sent; run the same "
                "command again"
            )


class _Appender:
    """Fetches a file from where the local part ends."""

    def __init__(self, remote: RemoteFolder, name: str) -> None:
        self._remote, self._name = remote, name

    def __call__(self, file: BinaryIO) -> None:
        size = self._remote.entry(self._name).bytes
        for block in self._remote.read_blocks(self._name, size, start=file.tell()):
            file.write(block)


class _Digests:
    """What a file is recognised by: its size, its MD5 where the store tells it, its SHA-256."""

    def __init__(self, size: int, md5: str, sha256: str) -> None:
        self.size, self.md5, self.sha256 = size, md5, sha256

    @classmethod
    def of(cls, path: Path) -> _Digests:
        size, md5, sha256 = 0, hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                size += len(block)
                md5.update(block)
                sha256.update(block)
        return cls(size, md5.hexdigest(), sha256.hexdigest())


def _holds(remote: RemoteFolder, name: str, digests: _Digests) -> bool:
    """Whether exactly this file is there: by its MD5 if that is told, else by reading it."""
    entry = remote.find(name)
    if entry is None or entry.bytes != digests.size:
        return False
    if entry.etag == digests.md5:
        return True
    sha256 = hashlib.sha256()  # objects that came in several parts have other ETags
    for block in remote.read_blocks(name, entry.bytes):
        sha256.update(block)
    return sha256.hexdigest() == digests.sha256
