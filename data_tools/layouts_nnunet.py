"""The nnU-Net raw v2 layout: `dataset.json`, `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`.

Honoured: channel names (they drive the normalisation), labels, regions with their class order,
ignore label, file ending and explicit paths (`dataset`). Folds of `splits_final.json` are applied
by `splits.py`. Test images (`imagesTs`) have no labels and are not listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.raw_files import (
    check_cases,
    in_channel_order,
    numbered_names,
    path_inside,
    read_json_object,
    split_channel,
)
from data_tools.raw_labels import read_label_space
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset


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
    if not isinstance(declared["file_ending"], str):
        raise DataError(f"{place}: file_ending is {declared['file_ending']!r}; give e.g. '.nii.gz'")
    channel_names = numbered_names(declared["channel_names"], "channel_names", place)
    _refuse_values_to_names(declared["labels"], place)
    space = read_label_space(declared["labels"], place, declared.get("regions_class_order"))
    if "dataset" in declared:
        listed = _listed_cases(root, declared["dataset"], len(channel_names), place)
    else:
        listed = _found_cases(root, declared["file_ending"], len(channel_names))
    cases = check_cases(listed, root)
    check_count(declared, cases, place)
    return RawDataset(
        name=str(declared.get("name") or root.name),
        layout="nnunet",
        channel_names=channel_names,
        labels=space.labels,
        ignore_label=space.ignore_label,
        cases=cases,
        licence=declared_licence(declared),
        regions=space.regions,
        regions_class_order=space.regions_class_order,
    )


def declared_licence(declared: dict[str, Any]) -> str:
    """The licence of a `dataset.json`, in either spelling."""
    return str(declared.get("licence") or declared.get("license") or "unknown")


def check_count(declared: dict[str, Any], cases: tuple[RawCase, ...], place: Path) -> None:
    """Raise a DataError if `numTraining` says that cases are missing or too many."""
    expected = declared.get("numTraining", len(cases))
    if expected != len(cases):
        raise DataError(
            f"{place}: numTraining is {expected} but {len(cases)} cases were found; "
            "complete the copy or correct the number"
        )


def check_present(case_id: str, *paths: Path) -> None:
    """Raise a DataError that names the first path of a case that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"case {case_id}: {path} is missing; add the file or remove the case")


def _refuse_values_to_names(declared: Any, place: Path) -> None:
    for name, value in declared.items() if isinstance(declared, dict) else ():
        if name.isdecimal() and isinstance(value, str):
            raise DataError(
                f"{place}: labels map value {name} to {value!r} as in the Decathlon; "
                "write names to values"
            )


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


def _listed_cases(root: Path, listed: Any, channels: int, place: Path) -> list[RawCase]:
    if not isinstance(listed, dict):
        raise DataError(f"{place}: dataset is no object; give case ids with images and label")
    cases = []
    for case_id, entry in listed.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
            raise DataError(f"{place}: case {case_id}: give a list of images and a label")
        files = {
            number: path_inside(root, path, place) for number, path in enumerate(entry["images"])
        }
        label = path_inside(root, entry.get("label"), place)
        cases.append(_case(case_id, files, label, channels))
    return cases


def _case(case_id: str, files: dict[int, Path], label: Path, channels: int) -> RawCase:
    check_present(case_id, *files.values(), label)
    return RawCase(case_id, in_channel_order(case_id, files, channels), str(label))
