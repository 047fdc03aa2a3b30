from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec

from stunet.errors import ConfigError, DataError
from stunet.io.atomic import atomic_write_bytes, atomic_write_json, temporary_sibling
from stunet.io.checksum import checksum_folder
from stunet.io.layout import read_layout
from stunet.io.manifest import DatasetInfo, dataset_json, read_rows
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter, case_path
from stunet.types import CaseArrays, ChannelStatistics

MakeCase = Callable[..., CaseArrays]
MakeInfo = Callable[..., DatasetInfo]


def tree(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


@pytest.mark.parametrize("codec", ["local", "network"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_was_written_is_read(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase, channels: int, codec: str
) -> None:
    info, case = make_info(channels, codec), make_case("s-1.2_x", channels=channels)
    writer = StoreWriter(tmp_path, info)
    writer.finish([writer.write_case(case)])
    store = open_store(tmp_path)
    assert store.info == info
    (row,) = store.rows
    assert (row.case_id, row.shape_zyx, row.split, row.licence) == (
        "s-1.2_x", (70, 40, 50), "train", "MIT",
    )  # fmt: skip
    assert (row.scale, row.offset, row.statistics) == (case.scale, case.offset, case.statistics)
    assert row.source_sha256 == case.source_sha256
    np.testing.assert_array_equal(np.reshape(row.affine, (4, 4)), case.affine)
    values, counts = np.unique(case.label_zyx, return_counts=True)
    assert row.voxel_counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
    np.testing.assert_array_equal(store.read_image(0, (0, 0, 0), (70, 40, 50)), case.image_czyx)
    np.testing.assert_array_equal(
        store.read_image(0, (31, 2, 30), (9, 38, 20)), case.image_czyx[:, 31:40, 2:, 30:]
    )
    np.testing.assert_array_equal(
        store.read_label(0, (1, 2, 3), (69, 30, 40)), case.label_zyx[1:, 2:32, 3:43]
    )


def test_numpy_numbers_are_stored_as_plain_ones(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    entry = ChannelStatistics(*np.float32([0.5, 2, -1, 4]))
    case = replace(make_case("a"), scale=(np.float32(0.5),), statistics=(entry,))
    writer = StoreWriter(tmp_path, make_info())
    writer.finish([writer.write_case(case)])
    (row,) = open_store(tmp_path).rows
    assert (row.scale, row.statistics) == ((0.5,), (ChannelStatistics(0.5, 2.0, -1.0, 4.0),))


def test_labels_above_255_are_kept(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    case = make_case("a")
    label = case.label_zyx.astype(np.uint16)
    label[label == 7] = 300
    writer = StoreWriter(
        tmp_path, replace(make_info(), labels={"liver": 1, "x": 2, "y": 300, "b": 0})
    )
    writer.finish([writer.write_case(replace(case, label_zyx=label))])
    store = open_store(tmp_path)
    found = store.read_label(0, (0, 0, 0), (70, 40, 50))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, label)
    assert store.foreground(0, 300).tolist() == [[1, 2, 3]]


def test_a_case_without_any_structure_has_no_foreground(
    tmp_path: Path, make_info: MakeInfo, make_case: MakeCase
) -> None:
    case = make_case("empty")
    writer = StoreWriter(tmp_path, make_info())
    writer.finish([writer.write_case(replace(case, label_zyx=np.zeros_like(case.label_zyx)))])
    store = open_store(tmp_path)
    assert not store.read_label(0, (0, 0, 0), (70, 40, 50)).any()
    assert store.foreground(0, 1).shape == (0, 3)


def test_cases_are_sorted_and_their_parts_of_the_indices_kept_apart(small_store: Any) -> None:
    store = open_store(small_store.root)
    assert [row.case_id for row in store.rows] == ["a", "b"]
    for number, case in enumerate(small_store.cases):
        shape = case.label_zyx.shape
        np.testing.assert_array_equal(store.read_image(number, (0, 0, 0), shape), case.image_czyx)
        np.testing.assert_array_equal(store.read_label(number, (0, 0, 0), shape), case.label_zyx)
        for value in (1, 2, 7):
            voxels = store.foreground(number, value)
            assert len(voxels) == min(1024, int((case.label_zyx == value).sum()))
            assert (case.label_zyx[tuple(voxels.T)] == value).all()
        for value in (0, 9, 123):  # background, ignored, unknown
            assert len(store.foreground(number, value)) == 0


def test_an_open_store_pickles(small_store: Any) -> None:
    store = open_store(small_store.root)
    store.read_image(0, (0, 0, 0), (3, 3, 3))
    store.foreground(0, 1)
    copy = pickle.loads(pickle.dumps(store))
    store.close()
    np.testing.assert_array_equal(
        copy.read_image(1, (0, 9, 9), (3, 3, 3)), small_store.cases[1].image_czyx[:, :3, 9:12, 9:12]
    )
    np.testing.assert_array_equal(copy.foreground(1, 1), store.foreground(1, 1))


def test_a_case_stored_again_with_another_codec_is_still_read(small_store: Any) -> None:
    root, case = small_store.root, small_store.cases[0]
    folder = root / case_path("a")
    zarr.create_array(
        str(folder / "image"), data=case.image_czyx, chunks=(1, 16, 16, 16),
        compressors=GzipCodec(level=1), overwrite=True,
    )  # fmt: skip
    rows = list(read_rows(root))
    rows[0] = replace(rows[0], image=read_layout(folder / "image"), files=checksum_folder(folder))
    StoreWriter(root, small_store.info).finish(rows)
    store = open_store(root)
    np.testing.assert_array_equal(
        store.read_image(0, (8, 8, 8), (30, 30, 30)), case.image_czyx[:, 8:38, 8:38, 8:38]
    )
    np.testing.assert_array_equal(store.read_label(0, (0, 0, 0), (70, 40, 50)), case.label_zyx)
    np.testing.assert_array_equal(
        store.read_image(1, (0, 0, 0), (33, 64, 65)), small_store.cases[1].image_czyx
    )


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


def alter_rows(root: Path, info: DatasetInfo, change: Callable[[list[dict]], object]) -> None:
    """Rewrite the manifest as someone would who also renews the checksums in `dataset.json`."""
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    change(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    atomic_write_bytes(root / "manifest.jsonl", lines.encode())
    atomic_write_json(root / "dataset.json", dataset_json(root, info))


def alter_dataset(root: Path, **changes: Any) -> None:
    record = json.loads((root / "dataset.json").read_text())
    atomic_write_json(root / "dataset.json", {**record, **changes})


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, i: (r / "dataset.json").unlink(), "no store: .*; run 'stunet data prepare'"),
        (lambda r, i: shorten(r / "dataset.json"), "dataset.json is damaged"),
        (lambda r, i: alter_dataset(r, format_version=3), "has format 3, .*; upgrade stunet"),
        (lambda r, i: alter_dataset(r, channels=[{}]), "dataset.json is damaged"),
        (lambda r, i: (r / "manifest.jsonl").unlink(), "manifest.jsonl is missing"),
        (lambda r, i: (r / "fg.bin").unlink(), "fg.bin is missing"),
        (
            lambda r, i: shorten(r / "index.bin"),
            r"index.bin has \d+ bytes, not \d+: it is cut short",
        ),
        (
            lambda r, i: (r / "manifest.jsonl").write_bytes(
                (r / "manifest.jsonl").read_bytes().replace(b'"train"', b'"valid"')
            ),
            "manifest.jsonl was altered",
        ),
        (
            lambda r, i: alter_rows(r, i, lambda rows: rows[1].update(case_id="a")),
            "case a is there twice",
        ),
        (
            lambda r, i: alter_rows(r, i, lambda rows: rows[0].update(path="cases/../../x")),
            "line 1: case a: path 'cases/../../x' leads out of the store",
        ),
        (
            lambda r, i: alter_rows(r, i, lambda rows: rows[1].update(path="/etc")),
            "line 2: case b: path '/etc' leads out",
        ),
        (
            lambda r, i: alter_rows(r, i, lambda rows: rows[1]["files"].update({"../x": {}})),
            "line 2 is damaged",
        ),
        (
            lambda r, i: alter_rows(
                r, i, lambda rows: rows[1].update(files={"../x": {"bytes": 1, "crc32c": 1}})
            ),
            "line 2: case b: path '../x' leads out",
        ),
        (
            lambda r, i: alter_rows(r, i, lambda rows: rows[1].pop("shape_zyx")),
            r"manifest.jsonl line 2 is damaged \(KeyError\('shape_zyx'\)\)",
        ),
    ],
)
def test_a_store_that_is_not_whole_does_not_open(
    small_store: Any, change: Callable[[Path, DatasetInfo], object], message: str
) -> None:
    change(small_store.root, small_store.info)
    with pytest.raises(DataError, match=message) as caught:
        open_store(small_store.root)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert str(small_store.root) in str(caught.value)


def test_a_case_that_is_not_whole_is_named_when_it_is_read(small_store: Any) -> None:
    (small_store.root / case_path("b") / "image" / "c" / "0" / "0" / "0" / "0").unlink()
    shorten(small_store.root / case_path("a") / "label" / "c" / "0" / "0" / "0")
    store = open_store(small_store.root)
    store.read_image(0, (0, 0, 0), (70, 40, 50))
    with pytest.raises(DataError, match=r"case a: .*/a/label/c/0/0/0 has \d+ bytes, not \d+; rest"):
        store.read_label(0, (0, 0, 0), (3, 3, 3))
    with pytest.raises(
        DataError, match=r"case b: .*/b/image/c/0/0/0/0: No such file or directory; restore"
    ):
        store.read_patch(1, (30, 30, 30), (3, 9, 9))


def test_a_patch_is_image_and_label(small_store: Any) -> None:
    case = small_store.cases[1]
    image, label = open_store(small_store.root).read_patch(1, (2, 3, 4), (30, 40, 61))
    np.testing.assert_array_equal(image, case.image_czyx[:, 2:32, 3:43, 4:])
    np.testing.assert_array_equal(label, case.label_zyx[2:32, 3:43, 4:])


def test_boxes_are_checked_against_the_volume(small_store: Any) -> None:
    store = open_store(str(small_store.root))
    with pytest.raises(ValueError, match="case b: box"):
        store.read_label(1, (0, 0, 60), (3, 3, 6))
