"""How one zarr v3 array of the store is cut into shards and inner chunks, and its shard index.

Only what `zarr.json` says and what the sharding codec fixes about the bytes of an index; reading
voxels is the business of `shard_reader`.

Source: zarr v3 specification, `sharding_indexed` codec, version 1.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

NATIVE_CODECS = ("sharding_indexed", "bytes", "blosc", "crc32c")
NATIVE_DTYPES = ("int16", "uint8", "uint16")
MISSING = 2**64 - 1  # offset and length of a chunk that holds nothing but the fill value
SHARD_VOXELS = 512**3  # about 150 MB of compressed CT: still one comfortable object


@dataclass(frozen=True)
class ArrayLayout:
    """The cutting of one array.

    Attributes:
        shape: The array, in voxels.
        chunk: The inner chunk, the unit of compression and checksum.
        shard: The shard, the unit of storage: one file each.
        dtype: numpy name of the type.
        codecs: Codec names from the outside in; `NATIVE_CODECS` is what our own reader decodes.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str
    codecs: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether our own reader decodes it; zarr-python reads everything else."""
        return self.codecs == NATIVE_CODECS

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        """Inner chunks of a shard along each axis."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    @property
    def shard_index_bytes(self) -> int:
        """Bytes of one shard's index: offset and length as uint64 per chunk, then crc32c."""
        return 16 * math.prod(self.chunks_per_shard) + 4

    @property
    def index_bytes(self) -> int:
        """Bytes this array takes in `index.bin`: all its shard indices in C order."""
        return self.shard_index_bytes * math.prod(self.shard_grid) if self.native else 0

    @property
    def shard_grid(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))

    def shards(self) -> Iterator[tuple[int, ...]]:
        """Coordinates of all shards in C order."""
        return product(*map(range, self.shard_grid))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ArrayLayout:
        """From a manifest row's record."""
        return cls(
            shape=tuple(map(int, record["shape"])),
            chunk=tuple(map(int, record["chunk"])),
            shard=tuple(map(int, record["shard"])),
            dtype=str(record["dtype"]),
            codecs=tuple(map(str, record["codecs"])),
        )


def shard_shape(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    """One shard for the whole array up to `SHARD_VOXELS`, else 512 voxels along z, y and x.

    >>> shard_shape((1, 300, 300, 300), (1, 32, 32, 32))
    (1, 320, 320, 320)
    >>> shard_shape((2, 900, 512, 512), (1, 32, 32, 32))
    (1, 512, 512, 512)
    """
    whole = tuple(-(-n // c) * c for n, c in zip(shape, chunk, strict=True))
    if math.prod(whole) <= SHARD_VOXELS:
        return whole
    leading = (1,) * (len(shape) - 3)
    return leading + tuple(min(n, 512) for n in whole[-3:])


def shard_key(coordinates: tuple[int, ...]) -> str:
    """A shard's file, relative to its array's folder: `c/0/0/0/0`."""
    return "/".join(("c", *map(str, coordinates)))


def read_layout(folder: Path) -> ArrayLayout:
    """The layout that an array folder's `zarr.json` declares."""
    meta = json.loads((folder / "zarr.json").read_text())
    outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    names = tuple(codec["name"] for codec in meta["codecs"])
    shape, dtype = tuple(meta["shape"]), str(meta["data_type"])
    if names != ("sharding_indexed",):
        return ArrayLayout(shape, outer, outer, dtype, names)
    sharding = meta["codecs"][0]["configuration"]
    names += tuple(codec["name"] for codec in sharding["codecs"])
    if names == NATIVE_CODECS and not _is_plain(meta, sharding):
        names += ("variant",)
    return ArrayLayout(shape, tuple(sharding["chunk_shape"]), outer, dtype, names)


def _is_plain(meta: dict[str, Any], sharding: dict[str, Any]) -> bool:
    """Whether everything besides the codec names is as our own reader expects it."""
    key = meta["chunk_key_encoding"]
    return (
        meta["data_type"] in NATIVE_DTYPES
        and meta["fill_value"] == 0
        and key["name"] == "default"
        and key.get("configuration", {}).get("separator", "/") == "/"
        and sharding.get("index_location", "end") == "end"
        and [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        and sharding["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
    )


def read_shard_index(file: Path, layout: ArrayLayout) -> bytes:
    """The index at the end of a shard file, checksum included; all missing if there is no file.

    zarr writes no file for a shard that holds nothing but the fill value.
    """
    if not file.exists():
        return pack_index(np.full((*layout.chunks_per_shard, 2), MISSING, "<u8"))
    with file.open("rb") as shard:
        shard.seek(-layout.shard_index_bytes, 2)
        return shard.read()


def pack_index(index: np.ndarray) -> bytes:
    """The bytes of an index of (offset, length) pairs, as they end a shard."""
    data = index.astype("<u8").tobytes()
    return data + google_crc32c.value(data).to_bytes(4, "little")


def unpack_index(data: bytes, layout: ArrayLayout) -> np.ndarray:
    """The (offset, length) of every inner chunk of a shard, uint64 `(*chunks_per_shard, 2)`.

    Raises:
        ValueError: The checksum does not fit or the length is another one.
    """
    if len(data) != layout.shard_index_bytes:
        raise ValueError(f"shard index of {len(data)} bytes, not {layout.shard_index_bytes}")
    if google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("checksum mismatch in the shard index")
    pairs = np.frombuffer(data, "<u8", count=len(data) // 8)
    return pairs.reshape(*layout.chunks_per_shard, 2)
