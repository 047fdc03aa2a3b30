"""The records of a store: `dataset.json` and the rows of `manifest.jsonl`, to and from disk.

Everything here is checked as it is read, because a store may come from elsewhere. Voxels and the
binary indices are not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stunet.errors import DataError
from stunet.io.checksum import FileRecord, checksum_file
from stunet.io.layout import ArrayLayout
from stunet.types import Channel, ChannelStatistics, Region, Size3, Spacing

FORMAT_VERSION = 2  # 2 adds annotated structures and regions; 1 is read as having neither
ARRAYS_VERSION = 1  # of how a case's arrays are written: a new one makes every case stale

DATASET = "dataset.json"
MANIFEST = "manifest.jsonl"
INDEX = "index.bin"
FOREGROUND = "fg.bin"
BESIDE = (MANIFEST, INDEX, FOREGROUND)  # what `dataset.json` vouches for


@dataclass(frozen=True)
class DatasetInfo:
    """What all cases of a store share.

    Attributes:
        name: Name of the data set.
        channels: Image channels in order, with their normalisation.
        spacing_mm: Voxel spacing of every case, z y x.
        patch_size: Patch in voxels that was planned, z y x.
        strides: Planned strides of the network's stages.
        labels: Structure name to label value, `background: 0` included.
        ignore_label: Value of unlabelled voxels, or None.
        licence: Licence of the data.
        fingerprint: Whatever the plan was derived from; JSON values.
        versions: Tool name to version.
        codec: `local` (fast to decode) or `network` (9% smaller).
        format_version: Version of the layout on disk.
        regions: Region name to its label values, in declared order; empty: labels are learned.
        regions_class_order: The label value each region paints, later regions over earlier ones.
    """

    name: str
    channels: tuple[Channel, ...]
    spacing_mm: Spacing
    patch_size: Size3
    strides: tuple[Size3, ...]
    labels: dict[str, int]
    ignore_label: int | None
    licence: str
    fingerprint: dict[str, Any]
    versions: dict[str, str]
    codec: str = "local"
    format_version: int = FORMAT_VERSION
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()

    @property
    def label_space(self) -> frozenset[int]:
        """Every value a label voxel may have."""
        ignored = () if self.ignore_label is None else (self.ignore_label,)
        return frozenset((*self.labels.values(), *ignored))

    @property
    def region_outputs(self) -> tuple[Region, ...]:
        """The regions as outputs of a network, in order; empty: an output per label value."""
        declared = zip(self.regions.items(), self.regions_class_order, strict=True)
        return tuple(Region(name, values, paints) for (name, values), paints in declared)

    @property
    def outputs(self) -> dict[str, int]:
        """What a network that is trained on this tells: name to output channel."""
        return {name: channel for channel, name in enumerate(self.regions)} or self.labels

    @property
    def unsampled_labels(self) -> frozenset[int]:
        """Background and ignored voxels: no foreground to draw patches from."""
        return frozenset({0} if self.ignore_label is None else {0, self.ignore_label})

    def preparation(self) -> str:
        """A sha256 of all that the stored bytes of a case depend on besides its source.

        Statistics of the data set are no part of it: they are applied when a patch is loaded.
        """
        parts = [
            ARRAYS_VERSION,
            self.codec,
            self.spacing_mm,
            [(channel.name, channel.scheme) for channel in self.channels],
            sorted(self.labels.items()),
            self.ignore_label,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> DatasetInfo:
        """From the object of `dataset.json`; keys this version does not know are left aside."""
        record = {"regions": {}, "regions_class_order": (), **record}  # version 1 has none
        known = {field.name: record[field.name] for field in fields(cls)}
        known["channels"] = tuple(_channel(entry) for entry in record["channels"])
        known["spacing_mm"] = tuple(record["spacing_mm"])
        known["patch_size"] = tuple(record["patch_size"])
        known["strides"] = tuple(tuple(stride) for stride in record["strides"])
        known["regions"] = {name: tuple(values) for name, values in record["regions"].items()}
        known["regions_class_order"] = tuple(record["regions_class_order"])
        if len(known["regions"]) != len(known["regions_class_order"]):
            raise ValueError("regions_class_order has not one value for each region")
        return cls(**known)


@dataclass(frozen=True)
class CaseRow:
    """One case of a store: a line of `manifest.jsonl`.

    Attributes:
        case_id: Unique within the store.
        path: The case's zarr group, relative to the store.
        shape_zyx: The volume in voxels.
        affine: (4, 4) row by row, voxel index (x, y, z, 1) to RAS+ mm.
        scale, offset: Per channel; physical value = stored * scale + offset.
        statistics: Per channel, in physical units.
        voxel_counts: Label value to voxels, for the values that occur.
        split: `train`, `val`, `test`, or empty.
        licence: Licence of this case.
        source_sha256: Source file to its hash.
        preparation: `DatasetInfo.preparation` when the case was written.
        image, label: How the arrays are cut.
        foreground: Label value to number of voxel ids in `fg.bin`.
        files: Every file of the case by path relative to `path`.
        index_offset: First byte in `index.bin`: the image's indices, then the label's.
        foreground_offset: First byte in `fg.bin`.
        annotated: Label values that are annotated in this case, without 0; None: all. A voxel of
            value 0 is background, or of any structure that is not listed here.
    """

    case_id: str
    path: str
    shape_zyx: Size3
    affine: tuple[float, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    statistics: tuple[ChannelStatistics, ...]
    voxel_counts: dict[int, int]
    split: str
    licence: str
    source_sha256: dict[str, str]
    preparation: str
    image: ArrayLayout
    label: ArrayLayout
    foreground: dict[int, int]
    files: dict[str, FileRecord]
    index_offset: int = 0
    foreground_offset: int = 0
    annotated: tuple[int, ...] | None = None

    @property
    def label_index_offset(self) -> int:
        """First byte of the label's shard indices in `index.bin`."""
        return self.index_offset + self.image.index_bytes

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> CaseRow:
        """From the object of a manifest line."""
        record = {"annotated": None, **record}  # version 1: all structures are
        known = {field.name: record[field.name] for field in fields(cls)}
        for name in ("shape_zyx", "affine", "scale", "offset"):
            known[name] = tuple(record[name])
        known["statistics"] = tuple(ChannelStatistics(**entry) for entry in record["statistics"])
        for name in ("voxel_counts", "foreground"):
            known[name] = {int(value): count for value, count in record[name].items()}
        if record["annotated"] is not None:
            known["annotated"] = tuple(map(int, record["annotated"]))
        known["image"] = ArrayLayout.from_json(record["image"])
        known["label"] = ArrayLayout.from_json(record["label"])
        known["files"] = {path: FileRecord(**entry) for path, entry in record["files"].items()}
        return cls(**known)

    def to_line(self) -> bytes:
        """The manifest line; the same row gives the same bytes."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


def _channel(record: dict[str, Any]) -> Channel:
    clip = record["clip"]
    return Channel(**{**record, "clip": None if clip is None else (clip[0], clip[1])})


def dataset_json(root: Path, info: DatasetInfo) -> dict[str, Any]:
    """The object of `dataset.json`, which vouches for the three files beside it."""
    beside = {name: asdict(checksum_file(root / name)) for name in BESIDE}
    return {"format_version": info.format_version, **asdict(info), "files": beside}


def read_dataset(root: Path) -> tuple[DatasetInfo, dict[str, FileRecord]]:
    """Read `dataset.json`: what the cases share, and the records of the files beside it.

    Raises:
        DataError: There is none, it is damaged, or a newer version wrote it.
    """
    file = root / DATASET
    if not file.is_file():
        raise DataError(f"{root} is no store: it has no {DATASET}; run 'stunet data prepare'")
    try:
        record = json.loads(file.read_bytes())
        version = int(record["format_version"])
        if version <= FORMAT_VERSION:
            files = {name: FileRecord(**record["files"][name]) for name in BESIDE}
            return DatasetInfo.from_json(record), files
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(f"{file} is damaged ({error!r}); run 'stunet data prepare'") from error
    raise DataError(
        f"{root} has format {version}, this version reads up to {FORMAT_VERSION}; upgrade stunet"
    )


def check_beside(root: Path, beside: dict[str, FileRecord]) -> None:
    """Check the files beside `dataset.json`: sizes, and the contents of the manifest.

    Raises:
        DataError: One is missing or is not the one that `dataset.json` was written with.
    """
    for name, record in beside.items():
        file = root / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise DataError(f"{file} is missing; run 'stunet data prepare'")
        if size != record.bytes:
            raise DataError(
                f"{file} has {size} bytes, not {record.bytes}: it is cut short or a preparation"
                " was interrupted; run 'stunet data prepare'"
            )
    if checksum_file(root / MANIFEST) != beside[MANIFEST]:
        raise DataError(f"{root / MANIFEST} was altered; run 'stunet data prepare'")


def parse_rows(lines: Iterable[bytes], place: object) -> tuple[CaseRow, ...]:
    """The rows of all manifest lines that came from `place`.

    Raises:
        DataError: A line is damaged, a path leads out of the store, or a case is there twice.
    """
    rows = tuple(parse_line(line, number, place) for number, line in enumerate(lines, start=1))
    check_unique(rows, place)
    return rows


def check_unique(rows: Iterable[CaseRow], place: object) -> None:
    """Raise a DataError if two rows have the same case id."""
    seen: set[str] = set()
    for row in rows:
        if row.case_id in seen:
            raise DataError(
                f"{place}: case {row.case_id} is there twice; give each case its own id"
            )
        seen.add(row.case_id)


def check_files(root: Path, row: CaseRow) -> None:
    """Raise a DataError if a file of the case is missing or has another size than recorded."""
    for name, record in row.files.items():
        file = f"{root}/{row.path}/{name}"
        try:
            size = os.stat(file).st_size  # noqa: PTH116 - called for every file of a store
        except OSError as error:
            raise DataError(
                f"case {row.case_id}: {file}: {error.strerror}; restore it or run"
                " 'stunet data prepare' again"
            ) from error
        if size != record.bytes:
            raise DataError(
                f"case {row.case_id}: {file} has {size} bytes, not {record.bytes}; restore it or"
                " run 'stunet data prepare' again"
            )


def parse_line(line: bytes, number: int, place: object) -> CaseRow:
    """The row of manifest line `number`, counted from 1.

    Raises:
        DataError: The line is damaged, or a path leads out of the store.
    """
    try:
        row = CaseRow.from_json(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{place} line {number} is damaged ({error!r}); run 'stunet data prepare'"
        ) from error
    for path in (row.path, *row.files):
        if not stays_inside(path):
            raise DataError(
                f"{place} line {number}: case {row.case_id}: path {path!r} leads out of the"
                " store; do not use this store, its manifest was altered"
            )
    return row


def stays_inside(path: str) -> bool:
    """Whether a path relative to the store cannot lead out of it."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")
