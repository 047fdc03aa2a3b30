"""Rows of a manifest that are parsed when they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stunet.errors import DataError
from stunet.io import manifest_rows
from stunet.io.manifest import CaseRow, parse_rows
from stunet.io.manifest_rows import ManifestRows, splits
from stunet.io.store import open_store

SPLITS = ("train", "val", "", "test", "train", 'a "quoted" one', "train")


@pytest.fixture
def expected(small_store: Any) -> tuple[CaseRow, ...]:
    row = open_store(small_store.root).rows[0]
    return tuple(
        replace(row, case_id=f"case_{number}", split=split) for number, split in enumerate(SPLITS)
    )


@pytest.fixture
def open_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ManifestRows]:
    """Write lines and open them as if they were too many to keep."""
    monkeypatch.setattr(manifest_rows, "KEPT_ROWS", 2)
    monkeypatch.setattr(manifest_rows, "BLOCK_BYTES", 1000)

    def open_rows(*lines: bytes) -> ManifestRows:
        (tmp_path / "manifest.jsonl").write_bytes(b"".join(lines))
        return ManifestRows(tmp_path / "manifest.jsonl")

    return open_rows


def test_rows_come_as_from_the_whole_file(
    expected: tuple[CaseRow, ...], open_large: Callable[..., ManifestRows]
) -> None:
    lines = [row.to_line() for row in expected]
    rows = open_large(*lines)
    assert parse_rows(lines, "here") == expected
    assert len(rows) == len(expected)
    assert [rows[i] for i in (6, 0, 3, 0, -1)] == [expected[i] for i in (6, 0, 3, 0, -1)]
    assert rows[1:6:2] == expected[1:6:2]
    assert rows == expected and pickle.loads(pickle.dumps(rows)) == expected
    assert tuple(rows) == expected
    assert rows != expected[:-1] and rows != (*expected[:-1], expected[0])
    with pytest.raises(IndexError):
        rows[7]
    without_newline = open_large(*lines[:-1], lines[-1].rstrip())
    assert without_newline == expected


def test_splits_are_those_of_the_rows(
    expected: tuple[CaseRow, ...], open_large: Callable[..., ManifestRows]
) -> None:
    misleading = replace(expected[0], source_sha256={"split": "0", 'x", "split": "val': "1"})
    spaceless = expected[1].to_line().replace(b": ", b":")
    rows = open_large(misleading.to_line(), spaceless, *[row.to_line() for row in expected])
    assert list(splits(rows)) == ["train", "val", *SPLITS]
    assert list(splits(expected)) == list(SPLITS)


def test_a_bad_line_of_a_large_manifest_is_named_when_it_is_used(
    expected: tuple[CaseRow, ...], open_large: Callable[..., ManifestRows]
) -> None:
    outside = replace(expected[1], path="../x").to_line()
    rows = open_large(expected[0].to_line(), outside, b"{}\n", expected[3].to_line())
    assert rows[3] == expected[3]
    with pytest.raises(DataError, match=r"manifest.jsonl line 2: case case_1: path '../x' leads"):
        rows[1]
    with pytest.raises(DataError, match=r"manifest.jsonl line 3 is damaged \(KeyError"):
        rows[2]
