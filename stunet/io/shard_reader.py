"""Cut boxes out of sharded zarr arrays, fast: the hot path of training.

Shard indices come from `index.bin`; the wanted chunks of a shard are read in few large ranges,
checked, decompressed into one scratch buffer, and their overlap is copied. Every chunk's crc32c is
compared. Arrays with another codec chain than ours are read through zarr-python. Where the bytes
come from is the business of `shard_source`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import add, attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import blosc

from stunet.errors import DataError
from stunet.io.checksum import FileRecord
from stunet.io.layout import MISSING, ArrayLayout, shard_key, unpack_index
from stunet.io.shard_source import Shard, ShardRange, ShardSource

RUN_BYTES = 1 << 24  # bounds the read buffer when a whole volume is asked for
KEPT_INDICES = 256  # shards per process; 16 KB each


@dataclass(frozen=True)
class StoredArray:
    """One array of one case.

    Attributes:
        case_id: For messages.
        folder: The array's folder, relative to the store.
        layout: How it is cut.
        index_offset: First byte of its shard indices in `index.bin`.
        files: Its files by path relative to `folder`.
    """

    case_id: str
    folder: str
    layout: ArrayLayout
    index_offset: int
    files: Mapping[str, FileRecord]


class Box(NamedTuple):
    """Voxels `start` to `start + out.shape` of an array, wanted in `out`."""

    array: StoredArray
    start: Sequence[int]
    out: np.ndarray


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


class _Run(NamedTuple):
    """Neighbouring chunks of a shard that are read at once, and where their voxels go."""

    bytes: ShardRange
    chunks: list[_Chunk]
    out: np.ndarray
    scratch: np.ndarray


class ShardReader:
    """Reads boxes of arrays whose shards come from `source`.

    Pickles without open files and connections, so it may be sent to spawned workers; it may also
    be forked. Not for use from two threads at once.
    """

    def __init__(self, source: ShardSource, index_file: Path) -> None:
        self._source = source
        self._index_file = index_file
        self._forget()

    def _forget(self) -> None:
        blosc.set_nthreads(1)  # parallelism comes from loader workers
        blosc.use_threads = False
        self._index: np.ndarray | None = None
        self._extents: OrderedDict[str, np.ndarray] = OrderedDict()
        self._scratch: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._source, "_index_file": self._index_file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        self._source.close()

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
        dtype = array.layout.dtype
        if out is None:
            out = np.empty(tuple(shape), dtype)
        elif out.shape != tuple(shape) or out.dtype != dtype:
            raise ValueError(f"out is {out.dtype} {out.shape}, not {dtype} {tuple(shape)}")
        self.fill([Box(array, start, out)])
        return out

    def fill(self, boxes: Sequence[Box]) -> None:
        """Read several boxes; from a remote source all at the same time. Raises as `read`."""
        runs: list[_Run] = []
        for box in boxes:
            _check_inside(box)
            if box.array.layout.native:
                runs += self._plan(box)
            else:
                self._fill_with_zarr(box)
        for run, data in zip(runs, self._source.read([run.bytes for run in runs]), strict=True):
            self._decode_run(run, data)

    def _plan(self, box: Box) -> Iterator[_Run]:
        """What to read for a box; voxels of chunks that are not stored become 0 at once."""
        layout = box.array.layout
        stop = map(add, box.start, box.out.shape)
        axes = list(map(_split_axis, box.start, stop, layout.chunk, layout.chunks_per_shard))
        scratch = self._scratch_for(layout)
        for coordinates in product(*axes):
            pieces = [axis[s] for axis, s in zip(axes, coordinates, strict=True)]
            corner = tuple(slice(axis[0].chunk, axis[-1].chunk + 1) for axis in pieces)
            extents = self._extents_of(box.array, coordinates)[corner].reshape(-1, 2).tolist()
            wanted = []
            for (offset, length), cell in zip(extents, product(*pieces), strict=True):
                if offset == MISSING:
                    box.out[tuple(piece.target for piece in cell)] = 0
                else:
                    wanted.append(_Chunk(offset, length, cell))
            if wanted:
                shard = self._shard(box.array, coordinates)
                for chunks in _coalesce(wanted, self._source.gap_bytes):
                    end = chunks[-1].offset + chunks[-1].length
                    run = ShardRange(shard, chunks[0].offset, end)
                    yield _Run(run, chunks, box.out, scratch)

    def _decode_run(self, run: _Run, data: np.ndarray) -> None:
        shard, base, _ = run.bytes
        for chunk in run.chunks:
            begin = chunk.offset - base
            try:
                try:
                    _decode(data[begin : begin + chunk.length], chunk.length, run.scratch)
                except (ValueError, RuntimeError):  # perhaps on the way, or in a copy, only
                    data = self._source.read_again(run.bytes)
                    _decode(data[begin : begin + chunk.length], chunk.length, run.scratch)
            except (ValueError, RuntimeError) as error:
                number = tuple(piece.chunk for piece in chunk.pieces)
                raise DataError(
                    f"case {shard.case_id}: shard {self._source.locate(shard.path)}"
                    f" chunk {number}: {error}; {self._source.remedy}"
                ) from error
            target = tuple(piece.target for piece in chunk.pieces)
            run.out[target] = run.scratch[tuple(piece.source for piece in chunk.pieces)]

    def _shard(self, array: StoredArray, coordinates: tuple[int, ...]) -> Shard:
        key = shard_key(coordinates)
        path = f"{array.folder}/{key}"
        if key not in array.files:
            raise DataError(
                f"case {array.case_id}: shard {self._source.locate(path)} is not in the manifest;"
                " run 'stunet data prepare' again"
            )
        return Shard(array.case_id, path, array.files[key])

    def _extents_of(self, array: StoredArray, coordinates: tuple[int, ...]) -> np.ndarray:
        """Offset and length of every chunk of a shard, uint64 (*chunks_per_shard, 2)."""
        key = f"{array.folder}/{shard_key(coordinates)}"
        extents = self._extents.get(key)
        if extents is not None:
            self._extents.move_to_end(key)
            return extents
        layout = array.layout
        number = int(np.ravel_multi_index(coordinates, layout.shard_grid))
        first = array.index_offset + number * layout.shard_index_bytes
        try:
            extents = unpack_index(self._index_bytes(first, layout.shard_index_bytes), layout)
        except (OSError, ValueError) as error:
            raise DataError(
                f"case {array.case_id}: shard {self._source.locate(key)}:"
                f" {self._index_file} from byte {first}: {error}; run 'stunet data prepare' again"
            ) from error
        if len(self._extents) >= KEPT_INDICES:
            self._extents.popitem(last=False)
        self._extents[key] = extents
        return extents

    def _index_bytes(self, first: int, length: int) -> bytes:
        if self._index is None:
            self._index = np.memmap(self._index_file, np.uint8, "r")
        return self._index[first : first + length].tobytes()

    def _scratch_for(self, layout: ArrayLayout) -> np.ndarray:
        key = (layout.dtype, layout.chunk)
        if key not in self._scratch:
            self._scratch[key] = np.empty(layout.chunk, layout.dtype)
        return self._scratch[key]

    def _fill_with_zarr(self, box: Box) -> None:
        import zarr  # 0.3 s that the usual store never needs

        array = box.array
        store = self._source.zarr_store(array.case_id, array.folder, array.files)
        region = tuple(slice(a, a + n) for a, n in zip(box.start, box.out.shape, strict=True))
        try:
            box.out[...] = np.asarray(zarr.open_array(store, mode="r")[region])
        except Exception as error:  # every codec raises errors of its own
            raise DataError(
                f"case {array.case_id}: array {self._source.locate(array.folder)}: {error};"
                f" {self._source.remedy}"
            ) from error


def _check_inside(box: Box) -> None:
    layout = box.array.layout
    sides = zip(box.start, box.out.shape, layout.shape, strict=True)
    if any(start < 0 or extent < 1 or start + extent > side for start, extent, side in sides):
        raise ValueError(
            f"case {box.array.case_id}: box from {tuple(box.start)} of {box.out.shape} voxels"
            f" leaves the volume {layout.shape}"
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


def _coalesce(chunks: list[_Chunk], gap_bytes: int) -> Iterator[list[_Chunk]]:
    """Group chunks into runs that are worth one read each, in file order."""
    run: list[_Chunk] = []
    for chunk in sorted(chunks, key=attrgetter("offset")):
        if run:
            end = run[-1].offset + run[-1].length
            if chunk.offset - end > gap_bytes or chunk.offset - run[0].offset > RUN_BYTES:
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
