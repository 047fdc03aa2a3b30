"""The size and crc32c of files and folders: what a manifest records and a verification compares.

Guards against decay and truncation, not against forgery: crc32c is no cryptographic hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import google_crc32c

BLOCK_BYTES = 1 << 20  # read unit; large enough that the call overhead vanishes


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of one file."""

    bytes: int
    crc32c: int


def checksum_file(path: Path) -> FileRecord:
    """Read the whole of `path`."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size += len(block)
            crc = google_crc32c.extend(crc, block)
    return FileRecord(size, crc)


def checksum_folder(folder: Path) -> dict[str, FileRecord]:
    """Records of every file below `folder`, by path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum_file(path) for path in files}
