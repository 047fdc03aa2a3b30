"""The tars of a data set: whole volumes for storage that is slow to seek, readable by webdataset.

    OUT/shards.json      what the cases share; tar -> cases, bytes, crc32c; written last
    OUT/manifest.jsonl   a row per case, as in a store
    OUT/000000.tar       20 to 40 cases, four members each:
        CASE.fg.u32        voxel ids per label, as in a store's `fg.bin`
        CASE.image.blosc   one blosc frame: int16 (C, Z, Y, X)
        CASE.label.blosc   one blosc frame: uint8 or uint16 (Z, Y, X)
        CASE.meta.json     the case's row: geometry, scale, statistics, checksums of the others

This file writes and checks tars; `stunet.io.tar_set` reads cases out of finished ones. Nothing is
ever extracted to disk.

Source: webdataset's convention that members of a sample share the name up to its first dot.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np

from stunet.errors import DataError
from stunet.io.atomic import atomic_file, atomic_write_json
from stunet.io.checksum import FileRecord, checksum_file
from stunet.io.foreground import id_dtype
from stunet.io.layout import ArrayLayout
from stunet.io.manifest import MANIFEST, CaseRow, DatasetInfo
from stunet.io.store import Store

INDEX = "shards.json"
FOREGROUND, IMAGE, LABEL, META = "fg.u32", "image.blosc", "label.blosc", "meta.json"
MEMBERS = (FOREGROUND, IMAGE, LABEL, META)  # in the order of the tar
FRAME_BYTES = 2**31 - 17  # a blosc frame holds no more
META_BYTES = 1 << 20  # a row with a thousand labels has 50 KB
HEADER_BYTES = 512  # of a tar member; contents are padded to a multiple
FRAME_CODECS = ("bytes", "blosc")

RUN_AGAIN = "run 'stunet data shard' again"


@dataclass(frozen=True)
class TarRecord:
    """One finished tar.

    Attributes:
        bytes, crc32c: Of the whole file.
        cases: Case id to its first byte in the tar and the bytes of its four members.
    """

    bytes: int
    crc32c: int
    cases: dict[str, tuple[int, int]]


def tar_name(number: int) -> str:
    """Return the file name of a tar.

    >>> tar_name(7)
    '000007.tar'
    """
    return f"{number:06}.tar"


def member_key(case_id: str) -> str:
    """Return what the members of a case are called up to the first dot, which must not be in it.

    >>> member_key("s0001"), member_key("1.2.840")
    ('s0001', '1%2E2%2E840')
    """
    return case_id.replace(".", "%2E")


def write_tar(path: Path, store: Store, cases: Sequence[int]) -> None:
    """Write some cases of a store into one tar, whole or not at all; same cases, same bytes.

    Raises:
        DataError: A case cannot be read, or is too large for one frame.
    """
    from webdataset import TarWriter  # 0.3 s that reading never needs

    with atomic_file(path) as file:
        tar = TarWriter(file, user="", group="", mtime=0, encoder=False)
        with tar:
            for case in cases:
                members = _encode(store, case)
                row = _tar_row(store.rows[case], path.name, members)
                meta = json.dumps(asdict(row), allow_nan=False).encode()
                tar.write({"__key__": member_key(row.case_id), **members, META: meta})


def read_tar(path: Path) -> tuple[TarRecord, tuple[CaseRow, ...]]:
    """Read a whole tar and check it against what its own rows say.

    Returns:
        Its record for `shards.json`, and the rows of its cases in order.

    Raises:
        DataError: It is cut short, a checksum does not fit, or a member does not belong there.
    """
    found: dict[str, tuple[int, int]] = {}
    rows = []
    with path.open("rb") as file:
        members = list(walk_members(file, str(path)))
        for first in range(0, len(members), len(MEMBERS)):
            group = members[first : first + len(MEMBERS)]
            row = _read_row(file, group, path)
            contents = {
                name: _contents(file, member) for name, member in zip(MEMBERS, group, strict=True)
            }
            check_members(contents, row, str(path))
            start = group[0].offset
            found[row.case_id] = start, _end(group[-1]) - start
            rows.append(row)
    record = checksum_file(path)
    return TarRecord(record.bytes, record.crc32c, found), tuple(rows)


def write_index(
    out: Path, info: DatasetInfo, tars: Mapping[str, TarRecord], rows: Iterable[CaseRow]
) -> None:
    """Turn finished tars into a data set: the manifest, then `shards.json`."""
    with atomic_file(out / MANIFEST) as manifest:
        manifest.writelines(row.to_line() for row in sorted(rows, key=lambda row: row.case_id))
    atomic_write_json(
        out / INDEX,
        {
            **asdict(info),
            "tars": {name: asdict(record) for name, record in sorted(tars.items())},
            "files": {MANIFEST: asdict(checksum_file(out / MANIFEST))},
        },
    )


def walk_members(file: IO[bytes], place: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, four per case in their order; reads headers only.

    Raises:
        DataError: A name leads out of the folder, is unexpected, or the tar is cut short.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    number = -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for number, member in enumerate(tar):
                _check_member(member, MEMBERS[number % len(MEMBERS)], place)
                if member.offset_data + member.size > size:
                    raise DataError(
                        f"{place}: is cut short within {member.name} at byte {size}; {RUN_AGAIN} or"
                        " copy it anew"
                    )
                yield member
    except tarfile.TarError as error:
        raise DataError(f"{place}: is no whole tar ({error}); {RUN_AGAIN}") from error
    if (number + 1) % len(MEMBERS):
        raise DataError(f"{place}: ends within a case; {RUN_AGAIN} or copy it anew")


def check_members(contents: Mapping[str, np.ndarray], row: CaseRow, place: str) -> None:
    """Compare sizes and checksums of a case's members, as uint8 arrays, with its row.

    Raises:
        DataError: Naming the case and the member.
    """
    for name, record in row.files.items():
        data = contents[name]
        if FileRecord(len(data), google_crc32c.value(data)) != record:
            raise DataError(
                f"case {row.case_id}: {place}: checksum mismatch in {name}; {RUN_AGAIN} or copy"
                " it anew"
            )


def decode_frame(frame: np.ndarray, layout: ArrayLayout) -> np.ndarray:
    """Decompress a blosc frame into an array of exactly the expected size.

    Raises:
        ValueError: It holds another size.
        RuntimeError: blosc cannot decode it.
    """
    from numcodecs import blosc

    expected = math.prod(layout.shape) * np.dtype(layout.dtype).itemsize
    held = int.from_bytes(frame[4:8].tobytes(), "little")  # uncompressed size, blosc 1 header
    if held != expected or expected > FRAME_BYTES:
        raise ValueError(f"holds {held} bytes, not {expected}")
    array = np.empty(layout.shape, layout.dtype)
    blosc.decompress(frame, array)
    return array


def _encode(store: Store, case: int) -> dict[str, bytes]:
    """The members of a case besides its row."""
    from numcodecs import Blosc

    from stunet.io.zarr_case import image_codec

    row, whole = store.rows[case], (0, 0, 0)
    largest = max(math.prod(row.image.shape), math.prod(row.shape_zyx)) * 2
    if largest > FRAME_BYTES:
        raise DataError(
            f"case {row.case_id}: a volume of {largest} bytes is above the {FRAME_BYTES} of a"
            " blosc frame; train on the store itself"
        )
    codec = image_codec(store.info.codec)
    shuffle = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}[codec.shuffle.value]
    image_blosc = Blosc(codec.cname.value, codec.clevel, shuffle)
    label_blosc = Blosc("lz4hc", 9, Blosc.NOSHUFFLE)
    ids = [
        np.ravel_multi_index(store.foreground(case, label).T, row.shape_zyx)
        for label in sorted(row.foreground)
    ]
    flat = np.concatenate(ids) if ids else np.empty(0)
    return {
        FOREGROUND: flat.astype(id_dtype(row.shape_zyx)).tobytes(),
        IMAGE: bytes(image_blosc.encode(store.read_image(case, whole, row.shape_zyx))),
        LABEL: bytes(label_blosc.encode(store.read_label(case, whole, row.shape_zyx))),
    }


def _tar_row(row: CaseRow, tar: str, members: Mapping[str, bytes]) -> CaseRow:
    """The row of a store for a case in a tar: its arrays are one frame each."""

    def whole(layout: ArrayLayout) -> ArrayLayout:
        shape = layout.shape
        return ArrayLayout(shape, shape, shape, layout.dtype, FRAME_CODECS)

    return replace(
        row,
        path=tar,
        image=whole(row.image),
        label=whole(row.label),
        files={
            name: FileRecord(len(data), google_crc32c.value(data)) for name, data in members.items()
        },
        index_offset=0,
        foreground_offset=0,
    )


def _check_member(member: tarfile.TarInfo, expected: str, place: str) -> None:
    key, _, suffix = member.name.partition(".")
    if not member.isreg() or not key or "/" in member.name or "\\" in member.name:
        raise DataError(
            f"{place}: member {member.name!r} is no plain file of this tar; do not use it, it was"
            " altered"
        )
    if suffix != expected:
        raise DataError(
            f"{place}: member {member.name!r} stands where a {expected} belongs; {RUN_AGAIN}"
        )
    if expected == META and member.size > META_BYTES:
        raise DataError(
            f"{place}: {member.name} has {member.size} bytes, more than the {META_BYTES} of any"
            " row; do not use this tar, it was altered"
        )


def _read_row(file: IO[bytes], group: Sequence[tarfile.TarInfo], path: Path) -> CaseRow:
    meta = group[-1]
    try:
        row = CaseRow.from_json(json.loads(_contents(file, meta).tobytes()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: {meta.name} is damaged ({error!r}); {RUN_AGAIN}") from error
    names = [f"{member_key(row.case_id)}.{name}" for name in MEMBERS]
    if [member.name for member in group] != names or row.path != path.name:
        raise DataError(
            f"{path}: {meta.name} belongs to case {row.case_id} of {row.path}; {RUN_AGAIN}"
        )
    if set(row.files) != set(MEMBERS) - {META}:
        raise DataError(f"{path}: {meta.name} lacks checksums; {RUN_AGAIN}")
    return row


def _contents(file: IO[bytes], member: tarfile.TarInfo) -> np.ndarray:
    file.seek(member.offset_data)
    return np.frombuffer(file.read(member.size), np.uint8)


def _end(member: tarfile.TarInfo) -> int:
    return member.offset_data + -(-member.size // HEADER_BYTES) * HEADER_BYTES
