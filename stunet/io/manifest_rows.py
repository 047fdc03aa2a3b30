"""The rows of a store's manifest, read when they are asked for: a million cases take 8 MB.

A line is parsed, and its row checked, at its first use; that costs about 0.1 ms. A manifest that is
small enough to stay in memory is checked whole when it is opened, for duplicate ids too. For a
larger one `dataset.json` vouches, which has its SHA-256, until `stunet data verify` reads it all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from operator import eq
from pathlib import Path
from typing import Any, overload

import numpy as np

from stunet.io.manifest import MANIFEST, CaseRow, check_unique, parse_line

KEPT_ROWS = 1024  # per process; 15 KB each with a hundred labels
BLOCK_BYTES = 1 << 22


class ManifestRows(Sequence[CaseRow]):
    """The rows of `manifest.jsonl`, sorted by case id as the store's writer sorted them.

    Pickles without rows or open files. Not for use from two threads at once.

    Args:
        file: The manifest.
        place: Where it came from, for messages; None: `file`.

    Raises:
        DataError: At once for a small manifest, else when a row is asked for: a line is damaged, a
            path leads out of the store, or a case is there twice.
    """

    def __init__(self, file: Path, place: object = None) -> None:
        self._file = file
        self._place = file if place is None else place
        self._starts = _line_starts(file)
        self._kept: OrderedDict[int, CaseRow] = OrderedDict()
        if len(self) <= KEPT_ROWS:
            check_unique(self, self._place)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> CaseRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[CaseRow, ...]: ...

    def __getitem__(self, index: int | slice) -> CaseRow | tuple[CaseRow, ...]:
        """Return one row, or a tuple of them."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = range(len(self))[index]
        row = self._kept.get(number)
        if row is None:
            row = self._kept[number] = parse_line(self._line(number), number + 1, self._place)
            if len(self._kept) > KEPT_ROWS:
                self._kept.popitem(last=False)
        return row

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def splits(self) -> Iterator[str]:
        """Yield the split of every row in turn, without parsing the rest: 2 us each."""
        with self._file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _split_of(line) or parse_line(line, number, self._place).split

    def _line(self, number: int) -> bytes:
        first, end = (int(self._starts[n]) for n in (number, number + 1))
        with self._file.open("rb", buffering=0) as file:
            file.seek(first)
            return file.read(end - first)


def read_rows(root: Path) -> ManifestRows:
    """The rows of the store in a folder."""
    return ManifestRows(root / MANIFEST)


def splits(rows: Sequence[CaseRow]) -> Iterator[str]:
    """The split of every row in turn."""
    return rows.splits() if isinstance(rows, ManifestRows) else (row.split for row in rows)


def _line_starts(file: Path) -> np.ndarray:
    """First byte of each line, then the size of the file; int64."""
    found, begin = [np.zeros(1, np.int64)], 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            found.append(begin + ends + 1)
            begin += len(block)
    starts = np.concatenate(found)
    return starts if starts[-1] == begin else np.append(starts, begin)


def _split_of(line: bytes) -> str:
    """The split that a line names, or nothing if its bytes leave any doubt."""
    before, key, after = line.partition(b'"split": "')
    if not key or b'"split"' in after or b'"split"' in before:
        return ""
    name = after[: after.find(b'"')]
    return "" if b"\\" in name else name.decode()
