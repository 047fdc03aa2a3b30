"""Whole volumes out of the tars of a data set, on a local disk or below any URL of fsspec.

A case is one contiguous range of its tar, so that a volume costs one request. The bytes that
arrive are read as a tar and checked before anything is decoded. Not for boxes of volumes at random:
that is what a store is for.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import blosc

from stunet.errors import DataError
from stunet.io.checksum import FileRecord
from stunet.io.foreground import id_dtype
from stunet.io.layout import ArrayLayout
from stunet.io.manifest import FORMAT_VERSION, MANIFEST, CaseRow, DatasetInfo, parse_rows
from stunet.io.remote import PART_BYTES, ByteRange, RemoteFolder, StoreOptions, is_url
from stunet.io.shards import (
    FOREGROUND,
    IMAGE,
    INDEX,
    LABEL,
    MEMBERS,
    RUN_AGAIN,
    TarRecord,
    check_members,
    decode_frame,
    member_key,
    walk_members,
)
from stunet.types import Size3

DEFAULTS = StoreOptions()


@dataclass(frozen=True)
class Volume:
    """A decoded case.

    Attributes:
        image_czyx: int16 (C, Z, Y, X) as stored.
        label_zyx: uint8 or uint16 (Z, Y, X).
        foreground_ids: Voxel ids of all labels, in the order of the row's `foreground`.
    """

    image_czyx: np.ndarray
    label_zyx: np.ndarray
    foreground_ids: np.ndarray

    def patch(self, start_zyx: Size3, shape_zyx: Size3) -> tuple[np.ndarray, np.ndarray]:
        """Return views of image and label of a box that lies inside."""
        z, y, x = (slice(a, a + n) for a, n in zip(start_zyx, shape_zyx, strict=True))
        return self.image_czyx[:, z, y, x], self.label_zyx[z, y, x]

    def foreground(self, row: CaseRow, label_value: int) -> np.ndarray:
        """Return the voxels of a label that the case came with, int64 (n, 3) as z, y, x."""
        if label_value not in row.foreground:
            return np.empty((0, 3), np.int64)
        first = sum(count for value, count in row.foreground.items() if value < label_value)
        ids = self.foreground_ids[first : first + row.foreground[label_value]]
        return np.stack(np.unravel_index(ids, row.shape_zyx), axis=1)


class TarSet:
    """The cases of finished tars; may be pickled, and used from several threads at once.

    Attributes:
        root: Folder or URL.
        info: What the cases share.
        rows: The cases, sorted by id; `case` below is an index into them.
    """

    def __init__(
        self,
        root: str | Path,
        info: DatasetInfo,
        rows: tuple[CaseRow, ...],
        tars: dict[str, TarRecord],
        options: StoreOptions = DEFAULTS,
    ) -> None:
        self.root = root
        self.info = info
        self.rows = rows
        self._tars = tars
        self._folder = _open_folder(root, options)
        blosc.set_nthreads(1)  # parallelism comes from loader workers and the threads of each
        blosc.use_threads = False

    def read_volume(self, case: int) -> Volume:
        """Fetch and decode a case.

        Raises:
            DataError: It cannot be fetched, or is damaged.
        """
        row = self.rows[case]
        members = self._members(row)
        ids, dtype = members[FOREGROUND], id_dtype(row.shape_zyx)
        fits = len(ids) == sum(row.foreground.values()) * dtype.itemsize
        if not fits or (ids.view(dtype) >= math.prod(row.shape_zyx)).any():
            raise DataError(
                f"case {row.case_id}: {self._place(row)}: {FOREGROUND} does not fit the volume;"
                f" {RUN_AGAIN}"
            )
        image = self._decode(row, members, IMAGE, row.image)
        return Volume(image, self._decode(row, members, LABEL, row.label), ids.view(dtype))

    def read_patch(
        self, case: int, start_zyx: Size3, shape_zyx: Size3
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image and label of a box as `Store.read_patch`; decodes the whole volume."""
        return self.read_volume(case).patch(start_zyx, shape_zyx)

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Return up to 1024 voxels of a label, int64 (n, 3) as z, y, x; decodes it all."""
        return self.read_volume(case).foreground(self.rows[case], label_value)

    def _place(self, row: CaseRow) -> str:
        return self._folder.locate(row.path)

    def _members(self, row: CaseRow) -> dict[str, np.ndarray]:
        """Fetch a case and check every member; what arrives wrong twice is wrong at its source."""
        begin, size = self._tars[row.path].cases[row.case_id]
        data = self._folder.read_range(row.path, begin, size, row.case_id)
        try:
            return self._split(row, data)
        except DataError:
            if not is_url(self.root):
                raise
        return self._split(row, self._folder.read_range(row.path, begin, size, row.case_id))

    def _split(self, row: CaseRow, data: bytes) -> dict[str, np.ndarray]:
        """The members in a case's range of its tar, checked against its row."""
        place = f"{self._place(row)} from byte {self._tars[row.path].cases[row.case_id][0]}"
        members = list(walk_members(io.BytesIO(data), place))
        names = [f"{member_key(row.case_id)}.{name}" for name in MEMBERS]
        if [member.name for member in members] != names:
            raise DataError(f"case {row.case_id}: {place}: another case lies there; {RUN_AGAIN}")
        view = np.frombuffer(data, np.uint8)
        contents = {
            name: view[member.offset_data : member.offset_data + member.size]
            for name, member in zip(MEMBERS, members, strict=True)
        }
        check_members(contents, row, place)
        return contents

    def _decode(
        self, row: CaseRow, members: dict[str, np.ndarray], name: str, layout: ArrayLayout
    ) -> np.ndarray:
        try:
            return decode_frame(members[name], layout)
        except (ValueError, RuntimeError) as error:
            raise DataError(
                f"case {row.case_id}: {self._place(row)}: {name}: {error}; {RUN_AGAIN}"
            ) from error


def is_tar_set(root: str | Path, options: StoreOptions = DEFAULTS) -> bool:
    """Whether `root` holds tars of ours and not a store."""
    return _open_folder(root, options).has(INDEX)


def open_tar_set(root: str | Path, options: StoreOptions = DEFAULTS) -> TarSet:
    """Open the finished tars in a folder or below a URL; reads `shards.json` and the manifest.

    Raises:
        DataError: There are none, of a newer format, or what describes them does not fit together.
    """
    folder = _open_folder(root, options)
    if not folder.has(INDEX):
        raise DataError(f"{folder.locate(INDEX)}: there is none; run 'stunet data shard'")
    try:
        index = json.loads(folder.read_bytes(INDEX))
        version = int(index["format_version"])
        if version <= FORMAT_VERSION:
            info = DatasetInfo.from_json(index)
            tars = {name: _tar_record(entry) for name, entry in index["tars"].items()}
            vouched = FileRecord(**index["files"][MANIFEST])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(f"{folder.locate(INDEX)} is damaged ({error!r}); {RUN_AGAIN}") from error
    if version > FORMAT_VERSION:
        raise DataError(
            f"{folder.locate('')} has format {version}, this version reads up to"
            f" {FORMAT_VERSION}; upgrade stunet"
        )
    manifest = folder.read_bytes(MANIFEST)
    if FileRecord(len(manifest), google_crc32c.value(manifest)) != vouched:
        raise DataError(f"{folder.locate(MANIFEST)} was altered or cut short; {RUN_AGAIN}")
    rows = parse_rows(io.BytesIO(manifest), folder.locate(MANIFEST))
    for row in rows:
        _check_place(row, tars, folder.locate(INDEX))
    return TarSet(root, info, rows, tars, options)


def _tar_record(entry: dict[str, object]) -> TarRecord:
    record = TarRecord(**entry)  # type: ignore[arg-type]  # a wrong type fails just below
    cases = {case: (int(begin), int(size)) for case, (begin, size) in record.cases.items()}
    return TarRecord(int(record.bytes), int(record.crc32c), cases)


def _check_place(row: CaseRow, tars: dict[str, TarRecord], place: str) -> None:
    """Check that a row's tar is a file beside the index that has a place for the case."""
    record = tars.get(row.path)
    if record is None or "/" in row.path or row.case_id not in record.cases:
        raise DataError(f"{place}: case {row.case_id} has no place in {row.path!r}; {RUN_AGAIN}")
    begin, size = record.cases[row.case_id]
    if begin < 0 or size < 0 or begin + size > record.bytes:
        raise DataError(
            f"{place}: case {row.case_id} lies outside the {record.bytes} bytes of {row.path};"
            f" {RUN_AGAIN}"
        )


class _LocalFolder:
    """Files in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def locate(self, name: str) -> str:
        return str(self._root / name)

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def read_bytes(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.locate(name)}: {error.strerror}; {RUN_AGAIN}") from error

    def read_range(self, name: str, begin: int, size: int, case_id: str) -> bytes:
        try:
            with (self._root / name).open("rb") as file:
                file.seek(begin)
                data = file.read(size)
        except OSError as error:
            raise DataError(
                f"case {case_id}: {self.locate(name)}: {error.strerror}; {RUN_AGAIN}"
            ) from error
        if len(data) != size:
            raise DataError(
                f"case {case_id}: {self.locate(name)}: is cut short at byte {begin + len(data)};"
                f" {RUN_AGAIN} or copy it anew"
            )
        return data


class _UrlFolder:
    """Files below a URL."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self._remote = RemoteFolder(url, options)
        self.locate = self._remote.locate
        self.read_bytes = self._remote.read_bytes

    def has(self, name: str) -> bool:
        return self._remote.find(name) is not None

    def read_range(self, name: str, begin: int, size: int, case_id: str) -> bytes:
        end = begin + size
        parts = [
            ByteRange(name, first, min(end, first + PART_BYTES), case_id)
            for first in range(begin, end, PART_BYTES)
        ]
        return b"".join(self._remote.read_ranges(parts))


def _open_folder(root: str | Path, options: StoreOptions) -> _LocalFolder | _UrlFolder:
    return _UrlFolder(str(root), options) if is_url(root) else _LocalFolder(Path(root))
