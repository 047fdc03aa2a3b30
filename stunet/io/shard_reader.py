"""Cut boxes out of sharded zarr arrays, fast: the hot path of training.

Shard indices come from `index.bin`; the wanted chunks of a shard are read in few large `pread`s,
checked, decompressed into one scratch buffer, and their overlap is copied. Every chunk's crc32c is
compared. Arrays with another codec chain than ours are read through zarr-python. Local files only.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import blosc

from stunet.errors import DataError
from stunet.io.layout import MISSING, ArrayLayout, shard_key, unpack_index

GAP_BYTES = 1 << 16  # local disk: reading over a smaller gap beats a second request
RUN_BYTES = 1 << 24  # bounds the read buffer when a whole volume is asked for
OPEN_SHARDS = 256  # per process; a quarter of the usual limit of 1024 file descriptors


@dataclass(frozen=True)
class StoredArray:
    """One array of one case.

    Attributes:
        case_id: For messages.
        folder: The array's folder, relative to the store.
        layout: How it is cut.
        index_offset: First byte of its shard indices in `index.bin`.
    """

    case_id: str
    folder: str
    layout: ArrayLayout
    index_offset: int


class _Piece(NamedTuple):
    """The part of one inner chunk that a box covers, along one axis."""

    chunk: int  # within its shard
    source: slice  # in the chunk
    target: slice  # in the box


class _Chunk(NamedTuple):
    """One inner chunk to be read."""

    offset: int
    length: int
    pieces: tuple[_Piece, ...]


class _Shard(NamedTuple):
    """An opened shard file."""

    name: str  # for messages
    handle: int | None  # None where no chunk is stored, hence no file
    extents: np.ndarray  # uint64 (*chunks_per_shard, 2): offset and length of every chunk


class ShardReader:
    """Reads boxes of the arrays below `root`; keeps the last `OPEN_SHARDS` shard files open.

    Pickles as its path and reopens files when needed, so it may be sent to spawned workers; since
    all reads are positional it may also be forked. Not for use from two threads at once.
    """

    def __init__(self, root: Path, index_file: Path) -> None:
        self._root = str(root)
        self._index_file = index_file
        self._forget()

    def _forget(self) -> None:
        blosc.set_nthreads(1)  # parallelism comes from loader workers
        blosc.use_threads = False
        self._index: np.ndarray | None = None
        self._shards: OrderedDict[str, _Shard] = OrderedDict()
        self._buffer = np.empty(0, np.uint8)
        self._scratch: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_index_file": self._index_file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        while self._shards:
            self._close_oldest()

    def _close_oldest(self) -> None:
        shard = self._shards.popitem(last=False)[1]
        if shard.handle is not None:
            os.close(shard.handle)

    def read(
        self,
        array: StoredArray,
        start: Sequence[int],
        shape: Sequence[int],
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The voxels of `array` in the box from `start` with extent `shape`.

        Args:
            array: What to read.
            start: First voxel along each axis of the array.
            shape: Voxels along each axis; the box must lie inside the array.
            out: Where to put them; a new array by default.

        Returns:
            `out`, of the array's own type.

        Raises:
            DataError: A file is missing or too short, or a checksum does not fit.
            ValueError: The box leaves the array, or `out` has another shape or type.
        """
        layout = array.layout
        stop = tuple(a + n for a, n in zip(start, shape, strict=True))
        if (
            min(start) < 0
            or min(shape) < 1
            or any(a > n for a, n in zip(stop, layout.shape, strict=True))
        ):
            raise ValueError(
                f"case {array.case_id}: box from {tuple(start)} of {tuple(shape)} voxels leaves"
                f" the volume {layout.shape}"
            )
        if out is None:
            out = np.empty(tuple(shape), layout.dtype)
        elif out.shape != tuple(shape) or out.dtype != layout.dtype:
            raise ValueError(f"out is {out.dtype} {out.shape}, not {layout.dtype} {tuple(shape)}")
        if not layout.native:
            out[...] = self._read_with_zarr(array, tuple(map(slice, start, stop)))
            return out
        axes = list(map(_split_axis, start, stop, layout.chunk, layout.chunks_per_shard))
        for shard in product(*axes):
            self._read_shard(
                array, shard, [axis[s] for axis, s in zip(axes, shard, strict=True)], out
            )
        return out

    def _read_shard(
        self,
        array: StoredArray,
        coordinates: tuple[int, ...],
        pieces: list[list[_Piece]],
        out: np.ndarray,
    ) -> None:
        """Copy what one shard holds of a box, given its pieces along each axis, into `out`."""
        shard = self._open(array, coordinates)
        corner = tuple(slice(axis[0].chunk, axis[-1].chunk + 1) for axis in pieces)
        extents = shard.extents[corner].reshape(-1, 2).tolist()
        wanted = []
        for (offset, length), cell in zip(extents, product(*pieces), strict=True):
            if offset == MISSING:
                out[tuple(piece.target for piece in cell)] = 0
            else:
                wanted.append(_Chunk(offset, length, cell))
        scratch = self._scratch_for(array.layout)
        for run in _coalesce(wanted):
            assert shard.handle is not None, shard.name
            try:
                data = self._pread(shard.handle, run)
            except OSError as error:
                raise _damaged(f"{shard.name}: {error.strerror}") from error
            for chunk in run:
                begin = chunk.offset - run[0].offset
                try:
                    _decode(data[begin : begin + chunk.length], chunk.length, scratch)
                except (ValueError, RuntimeError) as error:
                    number = tuple(piece.chunk for piece in chunk.pieces)
                    raise _damaged(f"{shard.name} chunk {number}: {error}") from error
                target = tuple(piece.target for piece in chunk.pieces)
                out[target] = scratch[tuple(piece.source for piece in chunk.pieces)]

    def _open(self, array: StoredArray, coordinates: tuple[int, ...]) -> _Shard:
        """The shard from the cache, or opened with its index checked."""
        path = f"{self._root}/{array.folder}/{shard_key(coordinates)}"
        shard = self._shards.get(path)
        if shard is not None:
            self._shards.move_to_end(path)
            return shard
        name = f"case {array.case_id}: shard {path}"
        layout = array.layout
        number = int(np.ravel_multi_index(coordinates, layout.shard_grid))
        first = array.index_offset + number * layout.shard_index_bytes
        try:
            extents = unpack_index(self._index_bytes(first, layout.shard_index_bytes), layout)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name}: {self._index_file} from byte {first}: {error};"
                " run 'stunet data prepare' again"
            ) from error
        if len(self._shards) >= OPEN_SHARDS:
            self._close_oldest()
        try:
            handle = None if (extents == MISSING).all() else os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _damaged(f"{name}: {error.strerror}") from error
        shard = self._shards[path] = _Shard(name, handle, extents)
        return shard

    def _index_bytes(self, first: int, length: int) -> bytes:
        if self._index is None:
            self._index = np.memmap(self._index_file, np.uint8, "r")
        return self._index[first : first + length].tobytes()

    def _pread(self, handle: int, run: list[_Chunk]) -> np.ndarray:
        """The bytes of a run; fewer when the file ends early, which `_decode` then reports."""
        base, end = run[0].offset, run[-1].offset + run[-1].length
        if self._buffer.size < end - base:
            self._buffer = np.empty(end - base, np.uint8)
        filled = 0
        while filled < end - base:
            count = os.preadv(handle, [self._buffer[filled : end - base].data], base + filled)
            if count == 0:
                break
            filled += count
        return self._buffer[:filled]

    def _scratch_for(self, layout: ArrayLayout) -> np.ndarray:
        key = (layout.dtype, layout.chunk)
        if key not in self._scratch:
            self._scratch[key] = np.empty(layout.chunk, layout.dtype)
        return self._scratch[key]

    def _read_with_zarr(self, array: StoredArray, box: tuple[slice, ...]) -> np.ndarray:
        import zarr  # 0.3 s that the usual store never needs

        path = f"{self._root}/{array.folder}"
        try:
            return np.asarray(zarr.open_array(path, mode="r")[box])
        except Exception as error:  # every codec raises errors of its own
            raise _damaged(f"case {array.case_id}: array {path}: {error}") from error


def _damaged(problem: str) -> DataError:
    return DataError(
        f"{problem}; restore the file, or delete the case's folder and run 'stunet data prepare'"
    )


def _split_axis(start: int, stop: int, chunk: int, per_shard: int) -> dict[int, list[_Piece]]:
    """The pieces of the interval [start, stop) along one axis, by shard."""
    shards: dict[int, list[_Piece]] = {}
    for number in range(start // chunk, -(-stop // chunk)):
        first = number * chunk
        low, high = max(start, first), min(stop, first + chunk)
        shard, within = divmod(number, per_shard)
        piece = _Piece(within, slice(low - first, high - first), slice(low - start, high - start))
        shards.setdefault(shard, []).append(piece)
    return shards


def _coalesce(chunks: list[_Chunk]) -> Iterator[list[_Chunk]]:
    """Group chunks into runs that are worth one read each, in file order."""
    run: list[_Chunk] = []
    for chunk in sorted(chunks, key=attrgetter("offset")):
        if run:
            end = run[-1].offset + run[-1].length
            if chunk.offset - end > GAP_BYTES or chunk.offset - run[0].offset > RUN_BYTES:
                yield run
                run = []
        run.append(chunk)
    if run:
        yield run


def _decode(blob: np.ndarray, length: int, scratch: np.ndarray) -> None:
    """Check and decompress one inner chunk: a blosc frame followed by its crc32c.

    Raises:
        ValueError: It is cut short, its checksum does not fit, or it holds another size.
        RuntimeError: blosc cannot decode it.
    """
    if len(blob) < length:
        raise ValueError(f"only {len(blob)} of {length} bytes are there")
    frame, stored = blob[:-4], int.from_bytes(blob[-4:].tobytes(), "little")
    if google_crc32c.value(frame) != stored:
        raise ValueError("checksum mismatch")
    held = int.from_bytes(frame[4:8].tobytes(), "little")  # uncompressed size, blosc 1 header
    if held != scratch.nbytes:
        raise ValueError(f"holds {held} bytes, not {scratch.nbytes}")
    blosc.decompress(frame, scratch)
