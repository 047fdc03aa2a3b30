from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from stunet.io.layout import read_layout, read_shard_index, shard_shape, unpack_index


@pytest.mark.parametrize(
    ("shape", "chunk", "expected"),
    [
        ((1, 300, 300, 300), (1, 32, 32, 32), (1, 320, 320, 320)),
        ((3, 35, 51, 35), (1, 32, 32, 32), (3, 64, 64, 64)),
        ((1, 512, 512, 512), (1, 32, 32, 32), (1, 512, 512, 512)),
        ((1, 900, 320, 320), (1, 32, 32, 32), (1, 928, 320, 320)),
        ((2, 512, 512, 512), (1, 32, 32, 32), (1, 512, 512, 512)),
        ((1000, 700, 20), (64, 64, 64), (1024, 704, 64)),
        ((1000, 700, 500), (64, 64, 64), (512, 512, 512)),
    ],
)
def test_a_shard_is_the_whole_array_up_to_512_cubed(
    shape: tuple[int, ...], chunk: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert shard_shape(shape, chunk) == expected


NATIVE = (BloscCodec(cname="lz4hc", clevel=5, typesize=2), Crc32cCodec())


@pytest.mark.parametrize(
    ("options", "native"),
    [
        ({"shards": (32, 32, 32), "compressors": NATIVE}, True),
        ({"compressors": NATIVE}, False),
        ({"shards": (32, 32, 32), "compressors": NATIVE[:1]}, False),
        ({"shards": (32, 32, 32), "compressors": (GzipCodec(), Crc32cCodec())}, False),
        ({"shards": (32, 32, 32), "compressors": (ZstdCodec(),)}, False),
        ({"shards": (32, 32, 32), "compressors": NATIVE, "fill_value": -1024}, False),
        ({"shards": (32, 32, 32), "compressors": NATIVE, "dtype": "float32"}, False),
        (
            {"shards": (32, 32, 32), "compressors": NATIVE, "serializer": BytesCodec(endian="big")},
            False,
        ),
    ],
)
def test_only_our_own_chain_is_native(tmp_path: Path, options: dict, native: bool) -> None:
    settings = {"dtype": "int16", "fill_value": 0, **options}
    zarr.create_array(str(tmp_path / "x"), shape=(20, 30, 40), chunks=(16, 16, 16), **settings)
    layout = read_layout(tmp_path / "x")
    assert layout.shape == (20, 30, 40)
    assert layout.native is native


def test_a_shard_index_lists_what_zarr_wrote(tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "x"), shape=(32, 32, 16), chunks=(16, 16, 16), shards=(32, 32, 16),
        dtype="int16", fill_value=0, compressors=NATIVE,
    )  # fmt: skip
    array[16:, :16] = np.random.default_rng(0).integers(-9, 9, (16, 16, 16), np.int16)
    layout = read_layout(tmp_path / "x")
    file = tmp_path / "x" / "c" / "0" / "0" / "0"
    data = read_shard_index(file, layout)
    extents = unpack_index(data, layout)
    assert extents.shape == (2, 2, 1, 2)
    assert extents[1, 0, 0].tolist() == [0, file.stat().st_size - (4 * 16 + 4)]
    assert (np.delete(extents.reshape(4, 2), 2, axis=0) == 2**64 - 1).all()


def test_a_shard_without_a_file_is_all_missing(tmp_path: Path) -> None:
    zarr.create_array(
        str(tmp_path / "x"), shape=(32, 32, 16), chunks=(16, 16, 16), shards=(32, 32, 16),
        dtype="int16", fill_value=0, compressors=NATIVE,
    )[...] = 0  # fmt: skip
    layout = read_layout(tmp_path / "x")
    data = read_shard_index(tmp_path / "x" / "c" / "0" / "0" / "0", layout)
    assert (unpack_index(data, layout) == 2**64 - 1).all()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_index_is_refused(tmp_path: Path, damage: str) -> None:
    zarr.create_array(
        str(tmp_path / "x"), shape=(16, 16, 16), chunks=(16, 16, 16), shards=(16, 16, 16),
        dtype="int16", fill_value=0, compressors=NATIVE,
    )[...] = 1  # fmt: skip
    layout = read_layout(tmp_path / "x")
    data = bytearray(read_shard_index(tmp_path / "x" / "c" / "0" / "0" / "0", layout))
    if damage == "flip":
        data[3] ^= 1
    else:
        del data[:16]
    with pytest.raises(ValueError, match="shard index"):
        unpack_index(bytes(data), layout)
