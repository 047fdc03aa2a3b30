"""The nnU-Net raw v2 layout: `dataset.json`, `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`.

Honoured: channel names, labels, ignore label, file ending, explicit paths (`dataset`) and fold 0 of
`splits_final.json`. Test images (`imagesTs`) have no labels and are not listed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.raw_files import (
    check_cases,
    check_labels,
    in_channel_order,
    read_json_object,
    split_channel,
)
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset

SPLITS = "splits_final.json"


def is_nnunet(root: Path) -> bool:
    """Whether the folder has the marks of this layout."""
    return (root / "dataset.json").is_file()


def ingest_nnunet(root: Path) -> RawDataset:
    """List the training cases of an nnU-Net raw v2 folder (see `ingest`)."""
    place = root / "dataset.json"
    declared = read_json_object(place)
    for key in ("channel_names", "labels", "file_ending"):
        if key not in declared:
            raise DataError(f"{place}: key {key!r} is missing; nnU-Net raw v2 requires it")
    channel_names = _channel_names(declared["channel_names"], place)
    labels, ignore_label = _labels(declared["labels"], place)
    if "dataset" in declared:
        listed = _listed_cases(root, declared["dataset"], len(channel_names), place)
    else:
        listed = _found_cases(root, declared["file_ending"], len(channel_names))
    cases = check_cases(listed, root)
    expected = declared.get("numTraining", len(cases))
    if expected != len(cases):
        raise DataError(
            f"{place}: numTraining is {expected} but {len(cases)} cases were found; "
            "complete the copy or correct the number"
        )
    return RawDataset(
        name=str(declared.get("name") or root.name),
        layout="nnunet",
        channel_names=channel_names,
        labels=labels,
        ignore_label=ignore_label,
        cases=_with_split(root, cases),
        licence=str(declared.get("licence") or declared.get("license") or "unknown"),
    )


def _channel_names(declared: dict[str, str], place: Path) -> tuple[str, ...]:
    numbers = [str(number) for number in range(len(declared))]
    if sorted(declared) != sorted(numbers) or not numbers:
        raise DataError(
            f"{place}: channel_names has keys {list(declared)}; number them '0', '1', ..."
        )
    return tuple(declared[number] for number in numbers)


def _labels(declared: dict[str, Any], place: Path) -> tuple[dict[str, int], int | None]:
    """Names to values without the ignore label, and the ignore label."""
    for name, value in declared.items():
        if isinstance(value, list):
            raise DataError(
                f"{place}: label {name!r} is a region {value}; regions are not read yet, "
                "list the plain labels instead"
            )
        if name.isdecimal() and isinstance(value, str):
            raise DataError(
                f"{place}: labels map value {name} to {value!r} as in the Decathlon; "
                "write names to values"
            )
    labels = check_labels(declared, place)
    ignore_label = labels.pop("ignore", None)
    if ignore_label is not None and ignore_label < max(labels.values()):
        raise DataError(f"{place}: ignore is {ignore_label}; it must be the highest label")
    return labels, ignore_label


def _found_cases(root: Path, ending: str, channels: int) -> list[RawCase]:
    images = root / "imagesTr"
    numbered: dict[str, dict[int, Path]] = {}
    for path in sorted(images.glob(f"[!.]*{ending}")):
        case_id, channel = split_channel(path.name.removesuffix(ending))
        if channel is None:
            raise DataError(f"{path}: has no channel suffix; rename it to {case_id}_0000{ending}")
        numbered.setdefault(case_id, {})[channel] = path
    if not numbered:
        raise DataError(f"{images}: holds no file ending in {ending}; check file_ending")
    return [
        _case(case_id, files, root / "labelsTr" / f"{case_id}{ending}", channels)
        for case_id, files in numbered.items()
    ]


def _listed_cases(
    root: Path, listed: dict[str, dict[str, Any]], channels: int, place: Path
) -> list[RawCase]:
    cases = []
    for case_id, entry in listed.items():
        if not {"images", "label"} <= set(entry):
            raise DataError(f"{place}: case {case_id}: give both images and label")
        files = {number: root / path for number, path in enumerate(entry["images"])}
        cases.append(_case(case_id, files, root / entry["label"], channels))
    return cases


def _case(case_id: str, files: dict[int, Path], label: Path, channels: int) -> RawCase:
    for path in (*files.values(), label):
        if not path.exists():
            raise DataError(f"case {case_id}: {path} is missing; add the file or remove the case")
    return RawCase(case_id, in_channel_order(case_id, files, channels), str(label))


def _with_split(root: Path, cases: tuple[RawCase, ...]) -> tuple[RawCase, ...]:
    """The cases with fold 0 of the split file, sought here and in the preprocessed sibling."""
    sibling = root.parent.parent / "nnUNet_preprocessed" / root.name
    for place in (root / SPLITS, sibling / SPLITS):
        if place.is_file():
            split_of = _first_fold(place, {case.case_id for case in cases})
            return tuple(replace(case, split=split_of[case.case_id]) for case in cases)
    return cases


def _first_fold(place: Path, known: set[str]) -> dict[str, Any]:
    try:
        fold = json.loads(place.read_text(encoding="utf-8"))[0]
        split_of = {case_id: name for name in ("train", "val") for case_id in fold[name]}
        twice = set(fold["train"]) & set(fold["val"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{place}: not a list of folds with train and val ({error}); correct or remove it"
        ) from error
    for problem, case_ids in (
        ("is in both train and val", twice),
        ("is not in imagesTr", set(split_of) - known),
        ("is in neither train nor val", known - set(split_of)),
    ):
        if case_ids:
            raise DataError(f"{place}: fold 0: case {min(case_ids)} {problem}; correct the file")
    return split_of
