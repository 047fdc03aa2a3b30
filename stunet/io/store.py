"""The store: cases at one spacing, written once and atomically, read in random boxes.

`StoreWriter` fills a folder case by case, from any number of processes, and closes it;
`open_store` checks it and gives the `Store` that the loader reads from.

    root/dataset.json             what the cases share; written last: without it there is no store
    root/manifest.jsonl           a row per case
    root/index.bin, fg.bin        shard indices and foreground voxels of all cases
    root/cases/3f/<case>/         a zarr v3 group with the arrays `image` and `label`
    root/cases/3f/<case>.row.json, <case>.fg.bin    what a resumed preparation needs of the case

Not for files of scanners (`volume`) nor for webdataset shards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, replace
from pathlib import Path

import numpy as np

from stunet.errors import DataError
from stunet.io.atomic import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    fsync_folder,
    leftovers,
    publish_folder,
    temporary_sibling,
)
from stunet.io.case_check import check_arrays, check_labels
from stunet.io.checksum import checksum_folder
from stunet.io.foreground import (
    ForegroundIndex,
    build_foreground,
    count_voxels,
    foreground_counts,
)
from stunet.io.layout import read_layout, read_shard_index, shard_key, unpack_index
from stunet.io.manifest import (
    DATASET,
    FOREGROUND,
    INDEX,
    MANIFEST,
    CaseRow,
    DatasetInfo,
    check_beside,
    check_files,
    check_unique,
    dataset_json,
    read_dataset,
    read_rows,
)
from stunet.io.shard_reader import ShardReader, StoredArray
from stunet.types import CaseArrays, ChannelStatistics, Size3

ROW_SUFFIX = ".row.json"
FOREGROUND_SUFFIX = ".fg.bin"


def case_path(case_id: str) -> str:
    """Where a case lies, relative to the store; spread over 256 folders.

    >>> case_path("s0001")
    'cases/cd/s0001'
    """
    return f"cases/{hashlib.sha256(case_id.encode()).hexdigest()[:2]}/{case_id}"


def store_leftovers(root: Path) -> list[Path]:
    """Temporary files and folders that a killed preparation left anywhere in a store."""
    folders = (root, *sorted((root / "cases").glob("*")))
    return [path for folder in folders for path in leftovers(folder)]


class StoreWriter:
    """Fills the store at `root`.

    `write_case` may run in several processes at once, each with its own writer; `finish` runs
    once, after all of them. A killed preparation continues where it was: a case is written again
    only if its sources or the preparation changed.
    """

    def __init__(self, root: Path, info: DatasetInfo) -> None:
        self._root = root
        self._info = info

    def finished(self, case_id: str, source_sha256: dict[str, str]) -> CaseRow | None:
        """The row of a case that is complete and was made from exactly these sources, or None."""
        try:
            row = CaseRow.from_json(json.loads(self._row_file(case_id).read_bytes()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        same_source = bool(source_sha256) and row.source_sha256 == source_sha256
        if not same_source or row.preparation != self._info.preparation():
            return None
        try:
            check_files(self._root, row)
        except DataError:
            return None
        return row if self._foreground_file(case_id).is_file() else None

    def write_case(self, case: CaseArrays) -> CaseRow:
        """Write one case so that it is there whole or not at all; skip it if it is `finished`.

        Raises:
            DataError: The arrays do not fit each other or the data set.
        """
        check_arrays(case, self._info)
        done = self.finished(case.case_id, case.source_sha256)
        if done is not None:
            return replace(done, split=case.split, licence=case.licence)
        from stunet.io.zarr_case import write_zarr_case  # zarr-python is not needed for reading

        voxel_counts = count_voxels(case.label_zyx)
        check_labels(case.case_id, voxel_counts, self._info)
        kept = foreground_counts(voxel_counts, self._info.unsampled_labels)
        folder = self._root / case_path(case.case_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_sibling(folder)
        try:
            write_zarr_case(temporary, case, self._info)
            row = self._describe(case, temporary, voxel_counts, kept)
            self._discard(case.case_id)
            publish_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        foreground = build_foreground(case.label_zyx, kept, case.case_id)
        atomic_write_bytes(self._foreground_file(case.case_id), foreground)
        atomic_write_json(self._row_file(case.case_id), asdict(row))
        return row

    def finish(self, rows: Iterable[CaseRow]) -> None:
        """Turn the written cases into a store; the same rows give the same bytes.

        Args:
            rows: What `write_case` and `finished` returned, in any order. Other cases in the
                folder are left alone and do not belong to the store.

        Raises:
            DataError: There is no case, one is there twice, or its files are not complete.
        """
        ordered = tuple(sorted(rows, key=lambda row: row.case_id))
        if not ordered:
            raise DataError(f"{self._root}: no case was prepared; check the raw data set")
        check_unique(ordered, self._root)
        for leftover in store_leftovers(self._root):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        fsync_folder(self._root / "cases")
        placed = []
        with atomic_file(self._root / INDEX) as index, atomic_file(self._root / FOREGROUND) as fg:
            for row in ordered:
                check_files(self._root, row)
                placed.append(replace(row, index_offset=index.tell(), foreground_offset=fg.tell()))
                index.writelines(_shard_indices(self._root, row))
                fg.write(self._foreground_file(row.case_id).read_bytes())
        with atomic_file(self._root / MANIFEST) as manifest:
            manifest.writelines(row.to_line() for row in placed)
        atomic_write_json(self._root / DATASET, dataset_json(self._root, self._info))

    def _describe(
        self,
        case: CaseArrays,
        folder: Path,
        voxel_counts: dict[int, int],
        foreground: dict[int, int],
    ) -> CaseRow:
        """The row of a case whose group was just written to `folder`."""
        z, y, x = case.label_zyx.shape
        return CaseRow(
            case_id=case.case_id,
            path=case_path(case.case_id),
            shape_zyx=(z, y, x),
            affine=tuple(map(float, case.affine.flat)),
            scale=tuple(map(float, case.scale)),
            offset=tuple(map(float, case.offset)),
            statistics=tuple(
                ChannelStatistics(*map(float, astuple(entry))) for entry in case.statistics
            ),
            voxel_counts=voxel_counts,
            split=case.split,
            licence=case.licence,
            source_sha256=dict(case.source_sha256),
            preparation=self._info.preparation(),
            image=read_layout(folder / "image"),
            label=read_layout(folder / "label"),
            foreground=foreground,
            files=checksum_folder(folder),
        )

    def _discard(self, case_id: str) -> None:
        """Remove what an earlier preparation wrote for this case, its row first."""
        self._row_file(case_id).unlink(missing_ok=True)
        folder = self._root / case_path(case_id)
        if folder.exists():
            doomed = temporary_sibling(folder)
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def _row_file(self, case_id: str) -> Path:
        return self._root / f"{case_path(case_id)}{ROW_SUFFIX}"

    def _foreground_file(self, case_id: str) -> Path:
        return self._root / f"{case_path(case_id)}{FOREGROUND_SUFFIX}"


def _shard_indices(root: Path, row: CaseRow) -> Iterator[bytes]:
    """The case's part of `index.bin`.

    Raises:
        DataError: A shard is too short to hold an index, or the index is damaged.
    """
    for name, layout in (("image", row.image), ("label", row.label)):
        if not layout.native:
            continue
        for coordinates in layout.shards():
            file = root / row.path / name / shard_key(coordinates)
            try:
                data = read_shard_index(file, layout)
                unpack_index(data, layout)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"case {row.case_id}: shard {file}: {error}; delete the case's folder and run"
                    " 'stunet data prepare' again"
                ) from error
            yield data


class Store:
    """A finished store, open for reading.

    Pickles without open files, so it may be handed to loader workers, spawned or forked. Not for
    use from two threads at once.

    Attributes:
        root: Its folder.
        info: What the cases share.
        rows: The cases, sorted by id; `case` below is an index into them.
    """

    def __init__(self, root: Path, info: DatasetInfo, rows: tuple[CaseRow, ...]) -> None:
        self.root = root
        self.info = info
        self.rows = rows
        self._reader = ShardReader(root, root / INDEX)
        self._foreground = ForegroundIndex(root / FOREGROUND)

    def read_image(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A box of the image, all channels.

        Args:
            case: Index into `rows`.
            start_zyx: First voxel.
            shape_zyx: Extent in voxels; the box must lie inside the volume.
            out: int16 (C, *shape_zyx) array to fill instead of a new one.

        Returns:
            int16 (C, z, y, x) as stored; physical value = stored * scale[c] + offset[c].

        Raises:
            DataError: A shard is missing, cut short or damaged.
            ValueError: The box leaves the volume, or `out` has another shape or type.
        """
        row = self.rows[case]
        channels = row.image.shape[0]
        array = StoredArray(row.case_id, f"{row.path}/image", row.image, row.index_offset)
        return self._reader.read(array, (0, *start_zyx), (channels, *shape_zyx), out)

    def read_label(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A box of the label map: uint8 or uint16 (z, y, x); otherwise as `read_image`."""
        row = self.rows[case]
        array = StoredArray(row.case_id, f"{row.path}/label", row.label, row.label_index_offset)
        return self._reader.read(array, start_zyx, shape_zyx, out)

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Up to 1024 voxels of a label, int64 (n, 3) as z, y, x; none if the case lacks it."""
        row = self.rows[case]
        return self._foreground.coordinates(
            row.foreground_offset, row.foreground, label_value, row.shape_zyx
        )

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        self._reader.close()


def open_store(root: str | Path) -> Store:
    """Open a finished store after checking that its files are there in full length.

    Contents are checked as they are read, all of them by `stunet data verify`.

    Raises:
        DataError: It is no store, of a newer format, or incomplete; the message says what to do.
    """
    root = Path(root)
    info, beside = read_dataset(root)
    check_beside(root, beside)
    rows = read_rows(root)
    for row in rows:
        check_files(root, row)
    return Store(root, info, rows)
