from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import google_crc32c
import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec

from stunet.errors import ConfigError, DataError
from stunet.io.checksum import FileRecord, checksum_folder
from stunet.io.layout import read_layout
from stunet.io.manifest_rows import read_rows
from stunet.io.remote import PART_BYTES, ByteRange, RemoteFolder, StoreOptions
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter, case_path


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL below which nothing is stored."""
    yield "memory://folder"
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.fixture
def options(tmp_path: Path) -> StoreOptions:
    return StoreOptions(cache_dir=str(tmp_path / "cache"), retries=1)


def put(url: str, root: Path) -> None:
    folder = RemoteFolder(url)
    for file in root.rglob("*"):
        if file.is_file():
            folder.upload(file, file.relative_to(root).as_posix())


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_what_was_uploaded_is_read(memory: str, tmp_path: Path, scheme: str) -> None:
    data = np.random.default_rng(0).bytes(PART_BYTES * 2 + 100)  # several requests
    (tmp_path / "source").write_bytes(data)
    url = memory if scheme == "memory" else f"file://{tmp_path}/a folder"
    folder = RemoteFolder(url)
    folder.upload(tmp_path / "source", "x/y.bin")
    assert folder.entry("x/y.bin").bytes == len(data)
    assert folder.read_bytes("x/y.bin") == data
    wanted = [(3, 9), (0, 1), (PART_BYTES, len(data))]
    found = folder.read_ranges([ByteRange("x/y.bin", *ends) for ends in wanted])
    assert found == [data[begin:end] for begin, end in wanted]
    assert folder.find("x/z.bin") is None
    assert folder.find("x") is None  # a folder is no file


def test_the_part_of_a_range_that_exists_is_not_enough(memory: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(10))
    folder = RemoteFolder(memory, StoreOptions(retries=1))
    folder.upload(tmp_path / "source", "a")
    message = "case s1: memory://folder/a: 6 bytes came instead of 16 in 2 attempts; check"
    with pytest.raises(DataError, match=message):
        folder.read_ranges([ByteRange("a", 4, 20, "s1"), ByteRange("a", 0, 3)])


def test_a_download_appears_only_when_its_checksum_fits(memory: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"some voxels")
    folder = RemoteFolder(memory)
    folder.upload(source, "a")
    record = FileRecord(11, google_crc32c.value(b"some voxels"))
    with pytest.raises(DataError, match="case s1: memory://folder/a: its checksum is not the one"):
        folder.download("a", FileRecord(11, record.crc32c ^ 1), target, "s1")
    assert sorted(tmp_path.iterdir()) == [source]
    folder.download("a", record, target)
    assert target.read_bytes() == b"some voxels"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("abc://x", "abc://x/a: .*abc; check the URL|abc://x: Protocol not known: abc; check the"),
        ("gs://x", "gs://x: .*gcsfs.*; install that package"),
    ],
)
def test_a_protocol_that_is_not_there_is_named(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        RemoteFolder(url).read_bytes("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"retries": -1}, {"timeout_s": 0.0}, {"gap_bytes": -1}, {"cache_bytes": -5}]
)
def test_senseless_options_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=f"remote.{name}=.*: give"):
        StoreOptions(**values)


def test_a_store_behind_a_url_is_that_of_the_folder(
    small_store: Any, memory: str, options: StoreOptions
) -> None:
    put(memory, small_store.root)
    local, store = open_store(small_store.root), open_store(memory, options)
    assert (store.root, store.info, store.rows) == (memory, local.info, local.rows)
    copy = pickle.loads(pickle.dumps(store))
    for case, arrays in enumerate(small_store.cases):
        image, label = copy.read_patch(case, (0, 0, 0), arrays.label_zyx.shape)
        np.testing.assert_array_equal(image, arrays.image_czyx)
        np.testing.assert_array_equal(label, arrays.label_zyx)
        np.testing.assert_array_equal(copy.foreground(case, 1), local.foreground(case, 1))


def test_other_codecs_are_read_behind_a_url_too(
    small_store: Any, memory: str, options: StoreOptions
) -> None:
    root, case = small_store.root, small_store.cases[0]
    folder = root / case_path("a")
    zarr.create_array(
        str(folder / "image"), data=case.image_czyx, chunks=(1, 32, 32, 32),
        compressors=GzipCodec(level=1), overwrite=True,
    )  # fmt: skip
    rows = list(read_rows(root))
    rows[0] = replace(rows[0], image=read_layout(folder / "image"), files=checksum_folder(folder))
    StoreWriter(root, small_store.info).finish(rows)
    put(memory, root)
    image, label = open_store(memory, options).read_patch(0, (8, 8, 8), (30, 30, 30))
    np.testing.assert_array_equal(image, case.image_czyx[:, 8:38, 8:38, 8:38])
    np.testing.assert_array_equal(label, case.label_zyx[8:38, 8:38, 8:38])
    chunk = next((folder / "image").glob("c/*/*/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    put(memory, root)
    with pytest.raises(DataError, match=r"case a: memory://.*/image/c.*: its checksum is not the"):
        open_store(memory, options).read_image(0, (8, 8, 8), (3, 3, 3))


def test_a_store_that_is_written_anew_is_not_mistaken_for_the_old_one(
    small_store: Any, memory: str, options: StoreOptions
) -> None:
    put(memory, small_store.root)
    open_store(memory, options)
    info = replace(small_store.info, licence="CC0")
    StoreWriter(small_store.root, info).finish(read_rows(small_store.root)[:1])
    put(memory, small_store.root)
    store = open_store(memory, options)
    assert store.info.licence == "CC0"
    assert [row.case_id for row in store.rows] == ["a"]


@pytest.mark.parametrize("name", ["manifest.jsonl", "index.bin", "fg.bin"])
def test_a_damaged_local_copy_is_fetched_again(
    small_store: Any, memory: str, options: StoreOptions, name: str
) -> None:
    put(memory, small_store.root)
    copy = open_store(memory, options).folder / name
    os.truncate(copy, copy.stat().st_size - 1)
    open_store(memory, options)
    assert copy.read_bytes() == (small_store.root / name).read_bytes()


def test_a_remote_store_that_does_not_fit_is_refused_by_its_url(
    small_store: Any, memory: str, options: StoreOptions
) -> None:
    with pytest.raises(DataError, match=r"memory://folder is no store: it has no dataset.json"):
        open_store(memory, options)
    file = small_store.root / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    put(memory, small_store.root)
    with pytest.raises(DataError, match=r"memory://folder: .* has format 99, .*; upgrade stunet"):
        open_store(memory, options)


def test_a_cache_folder_that_cannot_be_written_is_named(
    small_store: Any, memory: str, tmp_path: Path
) -> None:
    put(memory, small_store.root)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/stores/.*: Not a directory; set remote.cache_dir"):
        open_store(memory, StoreOptions(cache_dir=str(tmp_path / "file")))
