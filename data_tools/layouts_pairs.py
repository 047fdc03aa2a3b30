"""Plain files: an image and a label per case, in two folders or beside each other.

    images/CASE.nii.gz (or CASE_0000.nii.gz and so on)    labels/CASE.nii.gz
    CASE.nii.gz (or CASE_0000.nii.gz and so on)           CASE_seg.nii.gz or CASE_seg-manual.nii.gz

An optional `labels.json` beside them names the labels (`raw_labels.read_naming`). An image may be a
folder with a DICOM series, or one file with several channels if `channel_names` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from data_tools.raw_files import (
    UNNAMED_CHANNEL,
    check_cases,
    in_channel_order,
    split_channel,
    volumes_in,
)
from data_tools.raw_labels import read_naming
from stunet.errors import DataError
from stunet.io.volume import file_stem
from stunet.types import RawCase, RawDataset

SEGMENTATION = re.compile("_seg(-manual)?$")  # the Spinal Cord Toolbox marks expert labels so
Named = list[tuple[str, Path]]  # name without ending, path


def is_pairs(root: Path) -> bool:
    """Whether the folder has an images and a labels folder."""
    return (root / "images").is_dir() and (root / "labels").is_dir()


def ingest_pairs(root: Path) -> RawDataset:
    """List the cases of a folder of images and a folder of labels (see `ingest`).

    Without `labels.json` only `background` is named; preparation then names the values it finds.
    """
    return _pair_up(root, volumes_in(root / "images"), volumes_in(root / "labels"), "pairs")


def is_beside(root: Path) -> bool:
    """Whether the folder has files `CASE_seg` beside `CASE`."""
    return any(path.is_file() and _is_label(file_stem(path)) for path in root.iterdir())


def ingest_beside(root: Path) -> RawDataset:
    """List the cases of a folder with each label beside its image (see `ingest_pairs`)."""
    found = volumes_in(root)
    labels = [(SEGMENTATION.sub("", name), path) for name, path in found if _is_label(name)]
    images = [(name, path) for name, path in found if not _is_label(name)]
    return _pair_up(root, images, labels, "beside")


def _is_label(name: str) -> bool:
    return SEGMENTATION.search(name) is not None


def _pair_up(root: Path, images: Named, labels: Named, layout: str) -> RawDataset:
    naming = read_naming(root)
    label_of = _labels_by_case(labels)
    images_of = _images_by_case(images, set(label_of))
    for case_id in label_of:
        if case_id not in images_of:
            raise DataError(f"case {case_id}: image missing for {label_of[case_id]}; add or remove")
    first = min(images_of, default="")
    files_per_case = len(images_of.get(first, ()))
    names = naming.channel_names
    if names and files_per_case not in (1, len(names)):
        raise DataError(
            f"{root / 'labels.json'}: names {len(names)} channels but case {first} has "
            f"{files_per_case} image files; name as many"
        )
    cases: Iterable[RawCase] = (
        RawCase(case_id, in_channel_order(case_id, files, files_per_case), str(label_of[case_id]))
        for case_id, files in images_of.items()
    )
    return RawDataset(
        name=root.name,
        layout=layout,
        channel_names=names or (UNNAMED_CHANNEL,) * files_per_case,
        labels=naming.space.labels,
        ignore_label=naming.space.ignore_label,
        cases=check_cases(cases, root),
        licence=naming.licence,
        regions=naming.space.regions,
        regions_class_order=naming.space.regions_class_order,
    )


def _labels_by_case(labels: Named) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for case_id, path in labels:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; give one label file per case")
        if case_id in found:
            raise DataError(
                f"{path.parent}: case id {case_id} occurs twice: {found[case_id].name} and "
                f"{path.name}; keep one"
            )
        found[case_id] = path
    return found


def _images_by_case(images: Named, labelled: set[str]) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file.

    A name that ends in four digits is a channel of a case only if no label has the whole name, so
    that `pt_0012.nii.gz` with `labels/pt_0012.nii.gz` stays case `pt_0012`.
    """
    found: dict[str, dict[int, Path]] = {}
    for stem, path in images:
        case_id, channel = (stem, None) if stem in labelled else split_channel(stem)
        if case_id not in labelled:
            raise DataError(f"case {case_id}: label missing for {path}; add or remove")
        files = found.setdefault(case_id, {})
        if (channel or 0) in files:
            raise DataError(
                f"{path.parent}: case id {case_id} occurs twice: {files[channel or 0].name} and "
                f"{path.name}; keep one"
            )
        files[channel or 0] = path
    return found
