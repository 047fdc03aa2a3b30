"""Read a whole store and list everything that is wrong with it: `stunet data verify`.

Compares files with the manifest, every inner chunk with its checksum, labels with the label space
and the voxel counts, foreground voxels with the labels. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from stunet.errors import DataError
from stunet.io.checksum import FileRecord, checksum_file
from stunet.io.foreground import count_voxels, foreground_counts
from stunet.io.manifest import (
    DATASET,
    FOREGROUND,
    MANIFEST,
    CaseRow,
    check_unique,
    read_dataset,
)
from stunet.io.manifest_rows import read_rows
from stunet.io.store import Store
from stunet.io.store_writer import FOREGROUND_SUFFIX, ROW_SUFFIX, store_leftovers
from stunet.types import Size3

PREPARE = "run 'stunet data prepare' again"
REWRITE = "restore the file, or delete the case's folder and " + PREPARE


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        case_id: The case, or empty if it concerns the store.
        file: Path relative to the store.
        problem: What is wrong, with the values.
        action: What to do about it.
    """

    case_id: str
    file: str
    problem: str
    action: str

    def __str__(self) -> str:
        place = f"case {self.case_id}, {self.file}" if self.case_id else self.file
        return f"{place}: {self.problem}; {self.action}"


def verify(root: str | Path) -> list[Finding]:
    """Read everything below `root`; an empty list means that the store is sound.

    One case is held in memory at a time.
    """
    root = Path(root)
    try:
        info, beside = read_dataset(root)
    except DataError as error:
        return [_store_finding(DATASET, error)]
    findings = list(_file_findings(root, "", "", beside))
    if any(finding.file == MANIFEST for finding in findings):
        return findings
    try:
        rows = read_rows(root)
        check_unique(rows, root / MANIFEST)  # reads every line
    except DataError as error:
        return [*findings, _store_finding(MANIFEST, error)]
    store = Store(root, info, rows)
    for case, row in enumerate(rows):
        findings += _file_findings(root, row.case_id, row.path, row.files)
        findings += _case_findings(store, case)
    store.close()
    return findings + list(_stray_findings(root, rows))


def _store_finding(file: str, error: DataError) -> Finding:
    problem, _, action = str(error).rpartition("; ")  # the form of all our messages
    return Finding("", file, problem, action)


def _file_findings(
    root: Path, case_id: str, folder: str, files: dict[str, FileRecord]
) -> Iterator[Finding]:
    """Files that are missing, or have another size or checksum than recorded."""
    action = REWRITE if case_id else PREPARE
    for name, expected in files.items():
        path = f"{folder}/{name}" if folder else name
        if not (root / path).is_file():
            yield Finding(case_id, path, "missing", action)
            continue
        found = checksum_file(root / path)
        if found != expected:
            problem = (
                f"{found.bytes} bytes with crc32c {found.crc32c:08x}, recorded are"
                f" {expected.bytes} bytes with crc32c {expected.crc32c:08x}"
            )
            yield Finding(case_id, path, problem, action)


def _case_findings(store: Store, case: int) -> Iterator[Finding]:
    """What is wrong inside the arrays of one case."""
    row = store.rows[case]
    label = np.zeros(row.shape_zyx, row.label.dtype)
    for name, layout in (("image", row.image), ("label", row.label)):
        path = f"{row.path}/{name}"
        files = [file for file in row.files if file.startswith(f"{name}/")]
        if not all((store.folder / row.path / file).is_file() for file in files):
            continue  # already reported, and nothing to read
        boxes = list(_boxes(row.shape_zyx, layout.chunk[-3:]))
        errors = []
        for start, shape in boxes:
            try:
                if name == "image":
                    store.read_image(case, start, shape)
                else:
                    label[_slices(start, shape)] = store.read_label(case, start, shape)
            except DataError as error:
                errors.append(str(error).rpartition("; ")[0])
        if errors:
            problem = f"{len(errors)} of {len(boxes)} blocks cannot be read, the first: {errors[0]}"
            yield Finding(row.case_id, path, problem, REWRITE)
        elif name == "label":
            yield from _label_findings(store, case, label)


def _boxes(shape_zyx: Size3, chunk_zyx: tuple[int, ...]) -> Iterator[tuple[Size3, Size3]]:
    """Start and extent of every chunk of a volume, cut off at its end."""
    for z, y, x in product(*map(range, (0, 0, 0), shape_zyx, chunk_zyx)):
        extent = [min(c, n - a) for c, n, a in zip(chunk_zyx, shape_zyx, (z, y, x), strict=True)]
        yield (z, y, x), (extent[0], extent[1], extent[2])


def _slices(start: Size3, shape: Size3) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def _label_findings(store: Store, case: int, label_zyx: np.ndarray) -> Iterator[Finding]:
    """Label values against the label space, the voxel counts and the foreground voxels."""
    row = store.rows[case]
    path = f"{row.path}/label"
    counts = count_voxels(label_zyx)
    for value in sorted(counts.keys() - store.info.label_space):
        problem = f"label value {value} in {counts[value]} voxels is not in the label space"
        action = f"name it in the raw data set's labels or correct the label file, then {PREPARE}"
        yield Finding(row.case_id, path, problem, action)
    unlabelled = set() if row.annotated is None else {*store.info.labels.values()} - {0}
    for value in sorted(counts.keys() & unlabelled.difference(row.annotated or ())):
        problem = f"label value {value} has {counts[value]} voxels but is not annotated in the case"
        action = f"correct the label file or the list of annotated structures, then {PREPARE}"
        yield Finding(row.case_id, path, problem, action)
    for value in sorted(counts.keys() | row.voxel_counts.keys()):
        found, recorded = counts.get(value, 0), row.voxel_counts.get(value, 0)
        if found != recorded:
            problem = f"label value {value} has {found} voxels, recorded are {recorded}"
            yield Finding(row.case_id, path, problem, REWRITE)
    expected = foreground_counts(counts, store.info.unsampled_labels)
    for value in sorted(expected.keys() | row.foreground.keys()):
        problem = _foreground_problem(store, case, value, expected.get(value, 0), label_zyx)
        if problem:
            yield Finding(row.case_id, FOREGROUND, f"label value {value}: {problem}", PREPARE)


def _foreground_problem(
    store: Store, case: int, value: int, expected: int, label_zyx: np.ndarray
) -> str:
    """What is wrong with the foreground voxels of one label, or an empty string."""
    try:
        voxels = store.foreground(case, value)
    except DataError as error:
        return str(error).rpartition("; ")[0]
    different = len(np.unique(voxels, axis=0))
    elsewhere = int((label_zyx[tuple(voxels.T)] != value).sum())
    if elsewhere:
        return f"{elsewhere} of {len(voxels)} foreground voxels lie elsewhere"
    if len(voxels) != expected or different != expected:
        return f"{len(voxels)} foreground voxels, {different} of them different, not {expected}"
    return ""


def _stray_findings(root: Path, rows: Iterable[CaseRow]) -> Iterator[Finding]:
    """Files and folders that belong to no case, and what killed processes left behind."""
    temporary = set(store_leftovers(root))
    for path in sorted(temporary):
        name = path.relative_to(root).as_posix()
        yield Finding("", name, "left behind by an interrupted preparation", "delete it")
    suffixes = ("", ROW_SUFFIX, FOREGROUND_SUFFIX)
    known = {root / f"{row.path}{suffix}" for row in rows for suffix in suffixes}
    strays = set((root / "cases").glob("*/*")) - known - temporary
    for row in rows:
        folder = root / row.path
        inside = (path for path in folder.rglob("*") if path.is_file())
        strays |= {path for path in inside if path.relative_to(folder).as_posix() not in row.files}
    for path in sorted(strays):
        yield Finding("", path.relative_to(root).as_posix(), "not in the manifest", "delete it")
