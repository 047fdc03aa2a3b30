"""A folder per patient: a DICOM series and its label.

    CASE/dicom/ (any file names) or CASE/*.dcm    CASE/seg.nii.gz (or label, labels, mask)

An optional `labels.json` beside the patients names the labels (`raw_labels.read_naming`). That each
folder holds one complete series is checked when it is read (`stunet.io.dicom`).
"""

from __future__ import annotations

from pathlib import Path

from data_tools.raw_files import UNNAMED_CHANNEL, check_cases, is_volume, subfolders
from data_tools.raw_labels import read_naming
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset

SERIES = "dicom"
LABELS = ("seg", "label", "labels", "mask")


def is_dicom(root: Path) -> bool:
    """Whether a subfolder holds a series in one of the two places."""
    return any(_series(folder) is not None for folder in subfolders(root))


def ingest_dicom(root: Path) -> RawDataset:
    """List the patients of a folder (see `ingest`); hidden folders are passed over."""
    naming = read_naming(root)
    names = naming.channel_names or (UNNAMED_CHANNEL,)
    if len(names) > 1:
        raise DataError(f"{root / 'labels.json'}: names {len(names)} channels; a series has one")
    return RawDataset(
        name=root.name,
        layout="dicom",
        channel_names=names,
        labels=naming.space.labels,
        ignore_label=naming.space.ignore_label,
        cases=check_cases(map(_case, subfolders(root)), root),
        licence=naming.licence,
        regions=naming.space.regions,
        regions_class_order=naming.space.regions_class_order,
    )


def _case(folder: Path) -> RawCase:
    series = _series(folder)
    if series is None:
        raise DataError(
            f"case {folder.name}: {folder} has no {SERIES}/ and no .dcm file; add the series"
        )
    labels = [path for path in sorted(folder.iterdir()) if is_volume(path, LABELS)]
    if len(labels) != 1:
        found = ", ".join(path.name for path in labels) or "none"
        raise DataError(
            f"case {folder.name}: label missing or not the only one ({found}); keep one file "
            f"named {', '.join(LABELS)} in {folder}, e.g. seg.nii.gz"
        )
    return RawCase(folder.name, (str(series),), str(labels[0]))


def _series(folder: Path) -> Path | None:
    """Where the slices of a patient lie."""
    for path in subfolders(folder):
        if path.name.lower() == SERIES:
            return path
    slices = (path for path in folder.iterdir() if path.suffix.lower() == ".dcm")
    return folder if any(path.is_file() for path in slices) else None
