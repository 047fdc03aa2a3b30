"""What the second format version added, and that stores of the first still open and continue."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stunet.errors import DataError
from stunet.io.atomic import atomic_write_bytes, atomic_write_json
from stunet.io.manifest import dataset_json
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.types import Region

PREPARED_IN_VERSION_1 = "2a6af70ab7265402130333d7efda65109be2b98939af43ff2a0391e59e786f8d"


def as_version_1(root: Path, info: Any) -> None:
    """Take away what the first version did not write."""
    lines = (root / "manifest.jsonl").read_text().splitlines()
    files = [*root.glob("cases/*/*.row.json")]
    for row in (rows := [json.loads(line) for line in lines]):
        del row["annotated"]
    atomic_write_bytes(
        root / "manifest.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode()
    )
    for file in files:
        row = json.loads(file.read_text())
        del row["annotated"]
        atomic_write_json(file, row)
    record = dataset_json(root, replace(info, format_version=1))
    del record["regions"], record["regions_class_order"]
    atomic_write_json(root / "dataset.json", record)


def test_a_store_of_version_1_opens_and_continues(small_store: Any) -> None:
    as_version_1(small_store.root, small_store.info)
    store = open_store(small_store.root)
    assert store.info.format_version == 1
    assert (store.info.regions, store.info.regions_class_order) == ({}, ())
    assert [row.annotated for row in store.rows] == [None, None]
    assert store.info.preparation() == PREPARED_IN_VERSION_1
    case = small_store.cases[0]
    done = StoreWriter(small_store.root, small_store.info).finished("a", case.source_sha256)
    assert done is not None


def test_annotated_structures_and_regions_come_back(
    tmp_path: Path, make_info: Callable, make_case: Callable
) -> None:
    regions = {"whole": (1, 2), "core": (2,)}
    info = replace(make_info(), regions=regions, regions_class_order=(1, 2))
    writer = StoreWriter(tmp_path, info)
    partly = replace(make_case("a"), annotated=(1, 2, 7))
    first = writer.write_case(partly)
    assert first.annotated == (1, 2, 7)
    other = writer.write_case(replace(partly, annotated=(1, 2)))  # the same voxels: not rewritten
    assert other == replace(first, annotated=(1, 2))
    writer.finish([first, writer.write_case(make_case("b"))])
    store = open_store(tmp_path)
    assert list(store.info.regions.items()) == list(regions.items())
    assert store.info.regions_class_order == (1, 2)
    assert store.info.region_outputs == (Region("whole", (1, 2), 1), Region("core", (2,), 2))
    assert store.info.outputs == {"whole": 0, "core": 1}
    assert [row.annotated for row in store.rows] == [(1, 2, 7), None]
    record = json.loads((tmp_path / "dataset.json").read_text())
    record["regions_class_order"] = [1]
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"damaged .*not one value for each region"):
        open_store(tmp_path)
