"""From store to tars: whole, resumable, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.shard import ShardConfig, group_cases, shard
from stunet.errors import ConfigError, DataError
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.io.tar_set import open_tar_set
from stunet.types import CaseArrays

ONE_EACH = ShardConfig(cases=1)


def silent(done: int, total: int, name: str) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_case_is_in_one_tar_and_progress_is_told(small_store, tmp_path: Path) -> None:
    told = []
    shard(small_store.root, tmp_path / "out", ONE_EACH, lambda *done: told.append(done))
    assert told == [(1, 2, "000000.tar"), (2, 2, "000001.tar")]
    tars = open_tar_set(tmp_path / "out")
    assert [(row.case_id, row.path) for row in tars.rows] == [
        ("a", "000000.tar"),
        ("b", "000001.tar"),
    ]
    assert sorted(contents(tmp_path / "out")) == [
        "000000.tar",
        "000001.tar",
        "manifest.jsonl",
        "shards.json",
    ]


def test_tars_end_at_the_number_or_the_size(small_store) -> None:
    rows = tuple(open_store(small_store.root).rows) * 5
    size_mb = sum(record.bytes for record in rows[0].files.values()) / 1e6
    assert [len(group) for group in group_cases(rows, ShardConfig(cases=4))] == [4, 4, 2]
    assert len(group_cases(rows, ShardConfig(cases=99, tar_mb=1))) > 1 or size_mb * 10 < 1
    big = [rows[0]] * 7
    per_tar = int(3 / size_mb)
    groups = group_cases(big, ShardConfig(cases=99, tar_mb=3))
    assert [index for group in groups for index in group] == list(range(7))
    assert {len(group) for group in groups[:-1]} <= {per_tar}


class Killed(BaseException):
    pass


def test_a_killed_export_continues_and_gives_the_same_bytes(small_store, tmp_path: Path) -> None:
    undisturbed = shard(small_store.root, tmp_path / "whole", ONE_EACH, silent)

    def die_after_the_first(done: int, total: int, name: str) -> None:
        raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        shard(small_store.root, out, ONE_EACH, die_after_the_first)
    assert sorted(contents(out)) == ["000000.tar"]
    with pytest.raises(DataError, match="run 'stunet data shard'"):
        open_tar_set(out)
    (out / ".000001.tar.0123abcd.tmp").write_bytes(b"half")
    first = (out / "000000.tar").stat()
    shard(small_store.root, out, ONE_EACH, silent)
    assert contents(out) == contents(undisturbed)
    assert (out / "000000.tar").stat().st_mtime_ns == first.st_mtime_ns  # not written again


def test_a_damaged_or_outdated_tar_is_written_again(
    small_store, make_case: Callable[..., CaseArrays], tmp_path: Path
) -> None:
    out = shard(small_store.root, tmp_path / "out", ONE_EACH, silent)
    before = contents(out)
    damaged = bytearray(before["000001.tar"])
    damaged[5000] ^= 1
    (out / "000001.tar").write_bytes(damaged)
    shard(small_store.root, out, ONE_EACH, silent)
    assert contents(out) == before

    writer = StoreWriter(small_store.root, small_store.info)
    other = make_case("b", (33, 64, 65), seed=9)
    writer.finish([writer.write_case(small_store.cases[0]), writer.write_case(other)])
    shard(small_store.root, out, ONE_EACH, silent)
    assert contents(out)["000000.tar"] == before["000000.tar"]
    assert (open_tar_set(out).read_volume(1).image_czyx == other.image_czyx).all()


def test_a_folder_with_other_tars_is_refused(small_store, tmp_path: Path) -> None:
    (tmp_path / "000007.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 000007.tar, which is none of the 1 tars"):
        shard(small_store.root, tmp_path, ShardConfig(), silent)


def test_a_place_that_cannot_be_written_is_named(small_store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be written .* it continues"):
        shard(small_store.root, tmp_path / "file" / "out", ShardConfig(), silent)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="cases=0"):
        ShardConfig(cases=0)
