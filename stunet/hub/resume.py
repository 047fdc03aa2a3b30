"""A file that is fetched in as many attempts as it takes, and appears only if it is the right one.

What has come stays beside the target in `NAME.part`, also when the process is killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stunet.bundle import sha256_of_file
from stunet.errors import BundleError

Append = Callable[[BinaryIO], None]


def complete(target: Path, sha256: str, place: str, append: Append) -> None:
    """Bring a file to `target`; other processes of this machine wait and find it there.

    Args:
        target: Does not exist, or is the right file.
        sha256: Of the whole file.
        place: Where it comes from, for messages.
        append: Fetches what is missing, from `file.tell()` on, to the end of the file.

    Raises:
        BundleError: What came twice from its beginning has another checksum. Nothing is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, however that ends
        if target.exists():
            part.unlink(missing_ok=True)
            return
        for _ in range(2):  # a part of another or a damaged file is not to be continued
            file.seek(0, os.SEEK_END)
            append(file)
            file.flush()
            os.fsync(file.fileno())
            if sha256_of_file(part) == sha256:
                part.replace(target)
                return
            file.truncate(0)
    raise BundleError(
        f"{place}: has another checksum than the bundle says; do not use it, ask its publisher"
    )
