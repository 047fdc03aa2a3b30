"""Writing a store: what a case becomes, what is written again, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stunet.errors import ConfigError, DataError
from stunet.io.atomic import temporary_sibling
from stunet.io.manifest import DatasetInfo
from stunet.io.manifest_rows import read_rows
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter, case_path
from stunet.types import CaseArrays

MakeCase = Callable[..., CaseArrays]
MakeInfo = Callable[..., DatasetInfo]


def tree(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_the_same_cases_give_the_same_bytes_in_any_order_and_from_processes(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    cases = [make_case(name, seed=seed) for seed, name in enumerate("cab")]
    serial = StoreWriter(tmp_path / "serial", make_info())
    serial.finish([serial.write_case(case) for case in cases])
    parallel = StoreWriter(tmp_path / "parallel", make_info())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parallel.finish(pool.map(parallel.write_case, cases[::-1], chunksize=1))
    assert tree(tmp_path / "serial") == tree(tmp_path / "parallel")


def test_a_finished_case_is_not_written_again(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    writer, case = StoreWriter(tmp_path, make_info()), make_case("a")
    assert writer.finished("a", case.source_sha256) is None
    row = writer.write_case(case)
    assert StoreWriter(tmp_path, make_info()).finished("a", case.source_sha256) == row
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert writer.write_case(replace(case, split="val")) == replace(row, split="val")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_another_source_or_preparation_is_not_finished(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    info, case = make_info(), make_case("a")
    StoreWriter(tmp_path, info).write_case(case)

    def finished(source: dict[str, str], **changes: Any) -> bool:
        writer = StoreWriter(tmp_path, replace(info, **changes))
        return writer.finished("a", source) is not None

    source = case.source_sha256
    assert finished(source)
    assert not finished({"ct.nii.gz": "f" * 64})
    assert not finished({**source, "label.nii.gz": "0" * 64})
    assert not finished(source, spacing_mm=(3.0, 1.5, 1.5))
    assert not finished(source, codec="network")
    assert not finished(source, labels={**info.labels, "liver": 3})
    statistics = tuple(replace(channel, mean=1.0) for channel in info.channels)
    assert finished(source, channels=statistics, patch_size=(64, 64, 64))  # applied on loading


def test_a_case_of_unknown_sources_is_always_written_anew(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    writer = StoreWriter(tmp_path, make_info())
    writer.write_case(replace(make_case("a", seed=1), source_sha256={}))
    assert writer.finished("a", {}) is None


@pytest.mark.parametrize(
    "damage", ["no row", "no shard", "no foreground", "short shard", "half a row"]
)
def test_an_incomplete_case_is_written_anew(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase, damage: str
) -> None:
    writer, case = StoreWriter(tmp_path, make_info()), make_case("a")
    writer.write_case(case)
    whole = tree(tmp_path)
    folder = tmp_path / case_path("a")
    row, shard = folder.with_name("a.row.json"), folder / "image" / "c" / "0" / "0" / "0" / "0"
    if damage == "no row":
        row.unlink()
    elif damage == "no shard":
        shard.unlink()
    elif damage == "no foreground":
        folder.with_name("a.fg.bin").unlink()
    else:
        file = shard if damage == "short shard" else row
        os.truncate(file, file.stat().st_size // 2)
    assert writer.finished("a", case.source_sha256) is None
    writer.write_case(case)
    assert tree(tmp_path) == whole


def test_a_changed_source_replaces_the_case(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    writer, new = StoreWriter(tmp_path, make_info()), make_case("a", (20, 30, 40), seed=2)
    writer.write_case(make_case("a", seed=1))
    writer.finish([writer.write_case(new)])
    found = open_store(tmp_path).read_image(0, (0, 0, 0), (20, 30, 40))
    np.testing.assert_array_equal(found, new.image_czyx)
    assert not list(tmp_path.rglob("*.tmp"))


def test_finishing_removes_what_killed_processes_left(small_store: Any) -> None:
    whole = tree(small_store.root)
    rest = temporary_sibling(small_store.root / case_path("a"))
    rest.mkdir()
    (rest / "zarr.json").touch()
    temporary_sibling(small_store.root / "index.bin").touch()
    rows = read_rows(small_store.root)
    StoreWriter(small_store.root, small_store.info).finish(rows[::-1])
    assert tree(small_store.root) == whole
    assert not rest.exists()


def test_finishing_refuses_no_cases(tmp_path: Path, make_info: MakeInfo) -> None:
    with pytest.raises(DataError, match="no case was prepared"):
        StoreWriter(tmp_path, make_info()).finish([])


def test_finishing_refuses_a_case_that_is_there_twice_or_not_whole(small_store: Any) -> None:
    writer, rows = (
        StoreWriter(small_store.root, small_store.info),
        read_rows(small_store.root),
    )
    with pytest.raises(DataError, match="case a is there twice"):
        writer.finish([*rows, rows[0]])
    (small_store.root / rows[1].path / "label" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(DataError, match=r"case b: .*label/c/0/0/0: No such file"):
        writer.finish(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"case_id": "../a"}, "letters, digits"),
        ({"case_id": ".a"}, "letters, digits"),
        ({"image_czyx": np.zeros((1, 70, 40, 50), np.float32)}, "image is float32, not int16"),
        ({"image_czyx": np.zeros((70, 40, 50), np.int16)}, "not (C, Z, Y, X)"),
        (
            {"image_czyx": np.zeros((1, 70, 40, 51), np.int16)},
            "(1, 70, 40, 51) and label (70, 40, ",
        ),
        ({"image_czyx": np.zeros((2, 70, 40, 50), np.int16)}, "2 channels, the data set has 1"),
        ({"label_zyx": np.zeros((70, 40, 50), np.int16)}, "label is int16, not uint8 or uint16"),
        ({"scale": (1.0, 1.0)}, "of (2, 1, 1) channels"),
        ({"scale": (0.0,)}, "scale of 0"),
        ({"offset": (float("nan"),)}, "not finite"),
        ({"affine": np.eye(3)}, "affine has shape (3, 3)"),
        (
            {"label_zyx": np.full((70, 40, 50), 3, np.uint8)},
            "label values 3 (140000 voxels) are not",
        ),
    ],
)
def test_arrays_that_make_no_sound_case_are_refused(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase, change: dict, message: str
) -> None:
    case = replace(make_case("a"), **change)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        StoreWriter(tmp_path, make_info()).write_case(case)
    assert "\n" not in str(caught.value)
    assert "case" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_codec_is_refused(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    with pytest.raises(ConfigError, match="codec 'gzip' is unknown; use one of local, network"):
        StoreWriter(tmp_path, make_info(codec="gzip")).write_case(make_case("a"))
    assert not list(tmp_path.rglob("*.tmp"))
