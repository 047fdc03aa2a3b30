"""The plain layout: `images/CASE.nii.gz` (or `CASE_0000` and so on) and `labels/CASE.nii.gz`.

An optional `labels.json` beside the two folders names the labels: `{"liver": 1, "spleen": 2}`; it
may also hold `"licence": "..."` and `"channel_names": ["T1", "T2"]`. An image may be a folder with
a DICOM series, or one file with several channels if `channel_names` names them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.raw_files import (
    UNNAMED_CHANNEL,
    check_cases,
    check_labels,
    in_channel_order,
    read_json_object,
    split_channel,
    volumes_in,
)
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset


def is_pairs(root: Path) -> bool:
    """Whether the folder has the marks of this layout."""
    return (root / "images").is_dir() and (root / "labels").is_dir()


def ingest_pairs(root: Path) -> RawDataset:
    """List the cases of a folder of image and label files (see `ingest`).

    Without `labels.json` only `background` is named; preparation then names the values it finds.
    """
    place = root / "labels.json"
    declared: dict[str, Any] = read_json_object(place) if place.is_file() else {}
    licence = str(declared.pop("licence", None) or "unknown")
    named_channels = _channel_names(declared.pop("channel_names", []), place)
    labels = _labels_by_case(root / "labels")
    images = _images_by_case(root / "images", set(labels))
    for case_id in labels:
        if case_id not in images:
            raise DataError(f"case {case_id}: image missing for {labels[case_id]}; add or remove")
    files_per_case = len(images[min(images)])
    if named_channels and files_per_case not in (1, len(named_channels)):
        raise DataError(
            f"{place}: names {len(named_channels)} channels but case {min(images)} has "
            f"{files_per_case} image files; name as many"
        )
    return RawDataset(
        name=root.name,
        layout="pairs",
        channel_names=named_channels or (UNNAMED_CHANNEL,) * files_per_case,
        labels=check_labels(declared, place),
        ignore_label=None,
        cases=check_cases(
            (
                RawCase(
                    case_id,
                    in_channel_order(case_id, files, files_per_case),
                    str(labels[case_id]),
                )
                for case_id, files in images.items()
            ),
            root,
        ),
        licence=licence,
    )


def _channel_names(declared: Any, place: Path) -> tuple[str, ...]:
    if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
        raise DataError(f"{place}: channel_names is {declared!r}; give a list of names")
    return tuple(declared)


def _labels_by_case(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for case_id, path in volumes_in(folder):
        if path.is_dir():
            raise DataError(f"{path}: is a folder; give one label file per case")
        if case_id in found:
            raise DataError(
                f"{folder}: case id {case_id} occurs twice: {found[case_id].name} and {path.name}; "
                "keep one"
            )
        found[case_id] = path
    return found


def _images_by_case(folder: Path, labelled: set[str]) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file.

    A name that ends in four digits is a channel of a case only if no label has the whole name, so
    that `pt_0012.nii.gz` with `labels/pt_0012.nii.gz` stays case `pt_0012`.
    """
    found: dict[str, dict[int, Path]] = {}
    for stem, path in volumes_in(folder):
        case_id, channel = (stem, None) if stem in labelled else split_channel(stem)
        if case_id not in labelled:
            raise DataError(f"case {case_id}: label missing for {path}; add or remove")
        files = found.setdefault(case_id, {})
        if (channel or 0) in files:
            raise DataError(
                f"{folder}: case id {case_id} occurs twice: {files[channel or 0].name} and "
                f"{path.name}; keep one"
            )
        files[channel or 0] = path
    return found
