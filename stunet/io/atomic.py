"""Files and folders that appear under their name whole or not at all, also after a power cut.

Everything is written under a temporary name in the same folder, forced to disk and then renamed.
Temporary names start with a dot and end in `.tmp`. Not for logs or anything that is appended to.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def temporary_sibling(path: Path) -> Path:
    """A fresh temporary name beside `path`, hence on the same file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders directly in `folder` that a killed process left behind."""
    return sorted(folder.glob(".*." + "[0-9a-f]" * 8 + ".tmp"))


def fsync_folder(path: Path) -> None:
    """Force a folder's list of entries to disk, so that a rename inside it survives a crash."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of `path` when the block ends without an error."""
    temporary = temporary_sibling(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what was there."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, replacing what was there."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, obj: Any) -> None:
    """Write `obj` to `path` as JSON in insertion order; the same object gives the same bytes.

    Raises:
        ValueError: `obj` holds a NaN or an infinity, which JSON does not know.
    """
    text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def publish_folder(tmp: Path, final: Path) -> None:
    """Force every file and folder under `tmp` to disk and rename `tmp` to `final`.

    Raises:
        FileExistsError: `final` is already there; it is left untouched.
    """
    for folder, _, names in os.walk(tmp, topdown=False):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(folder))
    if final.exists():
        raise FileExistsError(f"{final} is already there")
    tmp.rename(final)
    fsync_folder(final.parent)
