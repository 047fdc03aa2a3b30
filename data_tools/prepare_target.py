"""The folder that a store is prepared in: whether it can be written, and what it holds already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stunet.errors import DataError
from stunet.io.atomic import fsync_folder
from stunet.io.manifest import DATASET, DatasetInfo, read_dataset


def open_target(out: Path) -> DatasetInfo | None:
    """Make the folder if it is new; return what its store is, if it holds a finished one.

    Raises:
        DataError: The folder cannot be written, or its store is damaged or of a newer version.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    if not (out / DATASET).is_file():
        return None
    try:
        return read_dataset(out)[0]
    except DataError as error:
        raise DataError(f"{error}; or delete {out / DATASET} to prepare it again") from error


def reopen(out: Path, existing: DatasetInfo | None, info: DatasetInfo) -> None:
    """Take the mark of a finished store away before its cases may change.

    Raises:
        DataError: The store was prepared otherwise; overwriting it would surprise its users.
    """
    if existing is None:
        return
    if existing.preparation() != info.preparation():
        raise DataError(
            f"{out}: holds a finished store at {existing.spacing_mm} mm that was prepared with "
            f"other settings or labels (now {info.spacing_mm} mm); choose another folder"
        )
    with disk_errors(out):
        (out / DATASET).unlink(missing_ok=True)
        fsync_folder(out)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Tell what a disk or its permissions refuse in one line.

    Raises:
        DataError: Instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{out}: cannot be written ({reason}); correct this or choose another folder, and run"
            " the same again"
        ) from error
