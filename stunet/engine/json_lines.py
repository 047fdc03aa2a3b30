"""A file of one JSON object per line and step, which goes back in time with the run.

Only one process may write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stunet.errors import TrainingError
from stunet.io.atomic import atomic_write_text


class JsonLines:
    """Appends rows; a context manager.

    Args:
        path: The file.
        step: Where the run continues. Rows of later steps were rolled back with the weights and
            are removed, as is a row that a crash cut short.
    """

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step]
            atomic_write_text(path, "".join(kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, which has a `step`; it has left this process when the call returns.

        Raises:
            TrainingError: The file system refuses, for example because it is full.
        """
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._path}: cannot be written ({error}); free space and run the same command"
                " again"
            ) from error

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # `write` has said it
            self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a file; none if it is absent."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
