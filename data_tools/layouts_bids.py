"""The BIDS layout: images of `anat` (or `ct`) folders, labels in `derivatives`.

    sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz
    derivatives/NAME/sub-01[/ses-1]/anat/sub-01[_ses-1][_T1w]_dseg.nii.gz

A label belongs to the image whose whole name it begins with, else to all images whose entities
(`sub-01`, `ses-1`, `acq-axial`) it repeats; several suffixes, `T1w` and `T2w`, are then channels.
`dseg.tsv` (columns index and name) or else `labels.json` names the label values. Images that no
label belongs to are not listed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from data_tools.raw_files import check_cases, read_json_object
from data_tools.raw_labels import LabelSpace, read_label_space, read_naming
from stunet.errors import DataError
from stunet.io.volume import NIFTI_SUFFIXES, file_stem
from stunet.types import RawCase, RawDataset

DESCRIPTION = "dataset_description.json"
LABEL_SUFFIX = "dseg"
CHANNEL_OF_SUFFIX = {"ct": "CT"}


@dataclass(frozen=True)
class _File:
    """A file name taken apart: `sub-01_acq-axial_T2w.nii.gz`."""

    path: Path

    @property
    def stem(self) -> str:
        return file_stem(self.path)

    @property
    def suffix(self) -> str:
        return self.stem.rpartition("_")[2]

    @property
    def entities(self) -> list[str]:
        return [part for part in self.stem.split("_") if "-" in part]


def is_bids(root: Path) -> bool:
    """Whether the folder has the marks of this layout."""
    return (root / DESCRIPTION).is_file() and any(root.glob("sub-*"))


def ingest_bids(root: Path) -> RawDataset:
    """List the labelled images of a BIDS folder (see `ingest`)."""
    description = read_json_object(root / DESCRIPTION)
    images = _files(root, "sub-*/anat/*", "sub-*/ct/*", "sub-*/ses-*/anat/*", "sub-*/ses-*/ct/*")
    labels = _files(root, f"derivatives/**/sub-*_{LABEL_SUFFIX}.*")
    if not labels:
        raise DataError(
            f"{root / 'derivatives'}: holds no sub-*_{LABEL_SUFFIX}.nii.gz; add the labels"
        )
    suffixes: dict[str, tuple[str, ...]] = {}
    cases = []
    for label in labels:
        channels = _images_of(label, images)
        case_id = "_".join(channels[0].entities)
        suffixes[case_id] = tuple(channel.suffix for channel in channels)
        paths = tuple(str(channel.path) for channel in channels)
        cases.append(RawCase(case_id, paths, str(label.path)))
    ordered = check_cases(cases, root)
    space = _label_space(root)
    return RawDataset(
        name=str(description.get("Name") or root.name),
        layout="bids",
        channel_names=_channel_names(suffixes),
        labels=space.labels,
        ignore_label=space.ignore_label,
        cases=ordered,
        licence=str(description.get("License") or "unknown"),
    )


def _files(root: Path, *patterns: str) -> list[_File]:
    found = {path for pattern in patterns for path in root.glob(pattern)}
    return [
        _File(path)
        for path in sorted(found)
        if path.name.startswith("sub-") and path.name.endswith(NIFTI_SUFFIXES)
    ]


def _images_of(label: _File, images: list[_File]) -> list[_File]:
    """The channels that a label belongs to, sorted by suffix."""
    named = [image for image in images if label.stem.startswith(f"{image.stem}_")]
    same = [image for image in images if set(image.entities) <= set(label.entities)]
    channels = sorted(named or same, key=lambda image: image.suffix)
    if not channels:
        raise DataError(f"{label.path}: no image has its entities; add the image or remove it")
    suffixes = [image.suffix for image in channels]
    if len(set(suffixes)) < len(suffixes):
        names = ", ".join(image.path.name for image in channels)
        raise DataError(f"{label.path}: could belong to {names}; begin its name with one of theirs")
    return channels


def _channel_names(suffixes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The suffixes that all cases have."""
    first = min(suffixes)
    for case_id, own in suffixes.items():
        if own != suffixes[first]:
            raise DataError(
                f"case {case_id}: has {', '.join(own)} but case {first} has "
                f"{', '.join(suffixes[first])}; keep the same images of every subject"
            )
    return tuple(CHANNEL_OF_SUFFIX.get(suffix, suffix) for suffix in suffixes[first])


def _label_space(root: Path) -> LabelSpace:
    tables = [root / "dseg.tsv", *sorted(root.glob("derivatives/**/dseg.tsv"))]
    tables = [table for table in tables if table.is_file()]
    if not tables:
        return read_naming(root).space
    with tables[0].open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        names = {row["name"]: int(row["index"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{tables[0]}: needs tab-separated columns index and name ({error}); correct it"
        ) from error
    return read_label_space(names, tables[0])
