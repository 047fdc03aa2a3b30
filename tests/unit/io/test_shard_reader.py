from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

from stunet.errors import DataError
from stunet.io.checksum import checksum_folder
from stunet.io.layout import read_layout, read_shard_index, shard_key
from stunet.io.shard_reader import Box, ShardReader, StoredArray
from stunet.io.shard_source import OPEN_SHARDS, FileSource, StoreFiles

NATIVE = (BloscCodec(cname="lz4hc", clevel=5, shuffle="shuffle", typesize=2), Crc32cCodec())
SHAPE, CHUNK, SHARD = (2, 50, 37, 70), (1, 8, 16, 8), (1, 24, 32, 40)


def volume() -> np.ndarray:
    data = np.random.default_rng(0).integers(-1024, 3000, SHAPE, np.int16)
    data[:, :30, :32] = 0  # whole chunks and one whole shard are left out of the files
    return data


def write_array(root: Path, data: np.ndarray, **options: object) -> tuple[ShardReader, StoredArray]:
    """Written by zarr-python at offset 16 of an index file, as if another array came before."""
    settings = {"chunks": CHUNK, "shards": SHARD, "compressors": NATIVE, **options}
    zarr.create_array(
        str(root / "x"), shape=data.shape, dtype=data.dtype, fill_value=0, **settings
    )[...] = data
    layout = read_layout(root / "x")
    shards = (root / "x" / shard_key(shard) for shard in layout.shards())
    index = b"".join(read_shard_index(shard, layout) for shard in shards) if layout.native else b""
    (root / "index.bin").write_bytes(bytes(16) + index)
    files = checksum_folder(root / "x")
    return local_reader(root), StoredArray("s0001", "x", layout, 16, files)


def local_reader(root: Path) -> ShardReader:
    return ShardReader(FileSource(StoreFiles(root)), root / "index.bin")


def cut(data: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return data[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]


def random_boxes(count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    generator = np.random.default_rng(1)
    boxes = []
    for _ in range(count):
        start = generator.integers(0, SHAPE)
        shape = generator.integers(1, np.array(SHAPE) - start, endpoint=True)
        boxes.append((tuple(start.tolist()), tuple(shape.tolist())))
    return boxes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "compressors": (
                BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=2),
                Crc32cCodec(),
            )
        },
        {"shards": (2, 56, 48, 72)},
        {"compressors": GzipCodec(level=1)},
        {"shards": None},
    ],
    ids=["many shards", "zstd", "one shard", "foreign codec", "no shards"],
)
def test_boxes_equal_the_volume(tmp_path: Path, options: dict) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data, **options)
    for start, shape in [((0, 0, 0, 0), SHAPE), *random_boxes(40)]:
        np.testing.assert_array_equal(reader.read(array, start, shape), cut(data, start, shape))


def test_labels_of_another_type_and_rank(tmp_path: Path) -> None:
    data = np.random.default_rng(3).integers(0, 500, (20, 33, 40), np.uint16)
    reader, array = write_array(tmp_path, data, chunks=(16, 16, 16), shards=(32, 48, 48))
    found = reader.read(array, (3, 0, 11), (17, 33, 20))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, data[3:, :, 11:31])


def test_a_view_is_filled_in_place(tmp_path: Path) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data)
    batch = np.full((3, 2, 20, 20, 20), -7, np.int16)
    assert reader.read(array, (0, 20, 10, 30), (2, 20, 20, 20), batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], data[:, 20:40, 10:30, 30:50])
    assert (batch[[0, 2]] == -7).all()


@pytest.mark.parametrize("corner", [(0, -1, 0, 0), (0, 0, 0, 41), (1, 0, 0, 0)])
def test_a_box_outside_the_volume_is_refused(tmp_path: Path, corner: tuple[int, ...]) -> None:
    reader, array = write_array(tmp_path, volume())
    with pytest.raises(ValueError, match=r"case s0001: box .* leaves the volume"):
        reader.read(array, corner, (2, 30, 30, 30))


def test_a_target_of_another_type_or_shape_is_refused(tmp_path: Path) -> None:
    reader, array = write_array(tmp_path, volume())
    for out in (np.empty((2, 4, 4, 4), np.float32), np.empty((1, 4, 4, 4), np.int16)):
        with pytest.raises(ValueError, match="out is"):
            reader.read(array, (0, 0, 0, 0), (2, 4, 4, 4), out)


def open_handles(folder: Path) -> int:
    links = (Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    return sum(link.is_symlink() and str(folder) in os.readlink(link) for link in links)  # noqa: PTH115


def test_no_more_shards_stay_open_than_allowed(tmp_path: Path) -> None:
    data = np.arange(1, 7**3 * 64 + 1).reshape(28, 28, 28).astype(np.int16)
    reader, array = write_array(tmp_path, data, chunks=(4, 4, 4), shards=(4, 4, 4))
    np.testing.assert_array_equal(reader.read(array, (0, 0, 0), (28, 28, 28)), data)
    assert 7**3 > OPEN_SHARDS == open_handles(tmp_path / "x")
    np.testing.assert_array_equal(reader.read(array, (0, 0, 0), (28, 28, 28)), data)
    reader.close()
    assert open_handles(tmp_path / "x") == 0
    np.testing.assert_array_equal(reader.read(array, (9, 9, 9), (9, 9, 9)), data[9:18, 9:18, 9:18])
    del reader
    assert open_handles(tmp_path / "x") == 0


def test_pickling_carries_no_open_file(tmp_path: Path) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data)
    reader.read(array, (0, 0, 0, 0), SHAPE)
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read(array, (0, 0, 0, 0), SHAPE), data)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # zarr's writer left threads behind
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_read_what_the_parent_reads(tmp_path: Path, method: str) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data)
    reader.read(array, (0, 0, 0, 0), SHAPE)
    boxes = random_boxes(20)
    with multiprocessing.get_context(method).Pool(2) as pool:
        waiting = [pool.apply_async(reader.read, (array, *box)) for box in boxes]
        for box, found in zip(boxes, waiting, strict=True):
            np.testing.assert_array_equal(reader.read(array, *box), cut(data, *box))
            np.testing.assert_array_equal(found.get(timeout=60), cut(data, *box))


def damaged(root: Path, change: Callable[[bytearray], object]) -> Path:
    file = root / "x" / "c" / "1" / "2" / "1" / "1"
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)
    return file


def test_a_flipped_bit_names_case_shard_and_chunk(tmp_path: Path) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data)
    index = read_shard_index(tmp_path / "x" / "c" / "1" / "2" / "1" / "1", array.layout)
    offset = int.from_bytes(index[:8], "little")  # of chunk (0, 0, 0, 0)

    def flip(content: bytearray) -> None:
        content[offset + 40] ^= 4

    file = damaged(tmp_path, flip)
    with pytest.raises(DataError) as caught:
        reader.read(array, (1, 48, 32, 40), (1, 2, 5, 16))
    message = str(caught.value)
    for part in ("case s0001", str(file), "chunk (0, 0, 0, 0)", "checksum mismatch", "; restore"):
        assert part in message
    assert "\n" not in message
    np.testing.assert_array_equal(  # the next chunk of the same shard is sound
        reader.read(array, (1, 48, 32, 48), (1, 2, 5, 8)), data[1:, 48:, 32:, 48:56]
    )


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_short_shard_names_what_is_there(tmp_path: Path, when: str) -> None:
    reader, array = write_array(tmp_path, volume())
    if when == "while it is open":
        reader.read(array, (0, 0, 0, 0), SHAPE)
    file = tmp_path / "x" / "c" / "1" / "2" / "1" / "1"
    os.truncate(file, 100)
    with pytest.raises(DataError, match=r"case s0001: shard .*1/2/1/1 has 100 bytes, not \d+; res"):
        reader.read(array, (0, 0, 0, 0), SHAPE)
    file.unlink()
    reader.close()
    with pytest.raises(DataError, match=r"case s0001: shard .*1/2/1/1: No such file"):
        reader.read(array, (0, 0, 0, 0), SHAPE)


def test_a_chunk_of_another_size_is_refused_though_its_checksum_fits(tmp_path: Path) -> None:
    data = np.ones((8, 8, 8), np.int16)
    _, small = write_array(tmp_path, data, chunks=(4, 8, 8), shards=(8, 8, 8))
    layout = small.layout
    taller = type(layout)((16, 8, 8), (8, 8, 8), (16, 8, 8), "int16", layout.codecs)
    reader = local_reader(tmp_path)
    with pytest.raises(DataError, match="holds 512 bytes, not 1024"):
        reader.read(StoredArray("s0001", "x", taller, 16, small.files), (0, 0, 0), (8, 8, 8))


def test_a_shard_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    reader, array = write_array(tmp_path, volume())
    with pytest.raises(DataError, match=r"case s0001: shard .* is not in the manifest; run"):
        reader.read(replace(array, files={}), (1, 40, 36, 60), (1, 4, 1, 4))


def test_boxes_of_several_arrays_are_read_at_once(tmp_path: Path) -> None:
    data = volume()
    reader, array = write_array(tmp_path, data)
    first, second = np.full((2, 30, 9, 9), -7, np.int16), np.full((1, 5, 37, 70), -7, np.int16)
    reader.fill([Box(array, (0, 20, 28, 31), first), Box(array, (1, 45, 0, 0), second)])
    np.testing.assert_array_equal(first, data[:, 20:, 28:, 31:40])
    np.testing.assert_array_equal(second, data[1:, 45:])


@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_damaged_index_file_is_named(tmp_path: Path, change: str) -> None:
    reader, array = write_array(tmp_path, volume())
    file = tmp_path / "index.bin"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content if change == "flip" else content[:40])
    if change == "remove":
        file.unlink()
    with pytest.raises(DataError, match=r"case s0001: shard .*index.bin from byte 16: .*; run"):
        reader.read(array, (0, 0, 0, 0), (1, 8, 8, 8))


def test_damage_under_a_foreign_codec_is_a_data_error(tmp_path: Path) -> None:
    reader, array = write_array(tmp_path, volume(), compressors=GzipCodec(level=1))
    damaged(tmp_path, lambda content: content.__setitem__(slice(0, 2000), bytes(2000)))
    with pytest.raises(DataError, match=r"case s0001: array .*x: .*; restore"):
        reader.read(array, (0, 0, 0, 0), SHAPE)
