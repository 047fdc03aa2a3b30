"""Reading a store: what comes back, and what does not open."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec

from stunet.errors import DataError
from stunet.io.atomic import atomic_write_bytes, atomic_write_json
from stunet.io.checksum import checksum_folder
from stunet.io.layout import read_layout
from stunet.io.manifest import DatasetInfo, dataset_json
from stunet.io.manifest_rows import read_rows
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter, case_path
from stunet.types import CaseArrays, ChannelStatistics

MakeCase = Callable[..., CaseArrays]
MakeInfo = Callable[..., DatasetInfo]


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
