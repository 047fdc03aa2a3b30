"""Copying stores to an S3 server and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.copy_store import CopyReport, copy_store
from stunet.errors import DataError
from stunet.io.remote import StoreOptions
from stunet.io.store import open_store


def tree(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_copies_are_complete_continued_and_proven(
    s3: Any, local: Path, tmp_path: Path, options: StoreOptions
) -> None:
    steps: list[tuple[int, int, str]] = []
    files = sum(len(row.files) for row in open_store(local).rows) + 4
    report = copy_store(local, "s3://data/copy", options, lambda *step: steps.append(step))
    assert (report.copied, report.found) == (files, 0)
    assert [done for done, _, _ in steps] == list(range(1, files + 1))
    s3.behave()
    assert copy_store(local, "s3://data/copy", options) == CopyReport(0, 0, files)
    assert s3.counts()["put"] == 0
    path = f"{open_store(local).rows[2].path}/zarr.json"
    s3.put(f"copy/{path}", bytes(len((local / path).read_bytes())))
    s3.delete("copy/index.bin")
    assert copy_store(local, "s3://data/copy", options).copied == 2
    back = tmp_path / "back again"
    assert copy_store("s3://data/copy", back, options).copied == files
    rest = (".row.json", ".fg.bin")  # of the preparation, stays where it was
    assert tree(back) == {
        name: data for name, data in tree(local).items() if not name.endswith(rest)
    }


def test_another_store_is_not_written_over_and_a_damaged_one_not_copied(
    small: str,
    local: Path,
    make_store: Callable[..., Path],
    tmp_path: Path,
    options: StoreOptions,
) -> None:
    other = make_store(tmp_path / "other", {"d": (20, 30, 40)}, seed=9)
    with pytest.raises(DataError, match="s3://data/small holds another store; name an empty place"):
        copy_store(other, small, options)
    shard = next(other.glob("cases/*/*/image/c/0/0/0/0"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"case d: .*is not the one recorded; run 'stunet data ver"):
        copy_store(other, "s3://data/other", options)
    with pytest.raises(DataError, match="s3://data/other is no store"):  # nobody takes it for one
        open_store("s3://data/other", options)
