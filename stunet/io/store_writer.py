"""Filling a store, case by case and atomically; `stunet.io.store` has the layout and reads it.

`StoreWriter` may be used from any number of processes at once; one of them closes the store.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, replace
from pathlib import Path

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
    check_files,
    check_unique,
    dataset_json,
    stays_inside,
)
from stunet.types import CaseArrays, ChannelStatistics

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

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self._root

    def finished(self, case_id: str, source_sha256: dict[str, str]) -> CaseRow | None:
        """The row of a case that is complete and was made from exactly these sources, or None."""
        try:
            row = CaseRow.from_json(json.loads(self._row_file(case_id).read_bytes()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        same_source = bool(source_sha256) and row.source_sha256 == source_sha256
        same_place = (row.case_id, row.path) == (case_id, case_path(case_id))
        same_place &= all(map(stays_inside, row.files))
        if not (same_source and same_place) or row.preparation != self._info.preparation():
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
            return replace(done, split=case.split, licence=case.licence, annotated=case.annotated)
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
        foreground = build_foreground(case.label_zyx, voxel_counts, kept, case.case_id)
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
            annotated=case.annotated,
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
