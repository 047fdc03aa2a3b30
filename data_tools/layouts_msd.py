"""The layout of the Medical Segmentation Decathlon, which nnU-Net v1 took over.

`dataset.json` lists the training cases: `"training": [{"image": "./imagesTr/BRATS_001.nii.gz",
"label": "./labelsTr/BRATS_001.nii.gz"}, ...]`, names the channels in `modality` and the label
values in `labels` (`{"0": "background", "1": "edema"}`). Several channels are the fourth axis of
the image; in folders of nnU-Net v1 they are files `BRATS_001_0000.nii.gz` and so on. `test` images
have no labels and are not listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.layouts_nnunet import check_count, check_present, declared_licence
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
from stunet.io.volume import file_stem
from stunet.types import RawCase, RawDataset


def is_msd(root: Path) -> bool:
    """Whether the folder has the marks of this layout."""
    place = root / "dataset.json"
    if not place.is_file():
        return False
    declared = read_json_object(place)
    return "training" in declared and "channel_names" not in declared


def ingest_msd(root: Path) -> RawDataset:
    """List the training cases of a Decathlon folder (see `ingest`)."""
    place = root / "dataset.json"
    declared = read_json_object(place)
    for key in ("modality", "labels"):
        if key not in declared:
            raise DataError(f"{place}: key {key!r} is missing; the Decathlon requires it")
    channel_names = numbered_names(declared["modality"], "modality", place)
    space = read_label_space(_names_to_values(declared["labels"], place), place)
    listed = declared["training"]
    if not isinstance(listed, list):
        raise DataError(f"{place}: training is {listed!r}; give a list of images and labels")
    cases = check_cases((_case(root, entry, len(channel_names), place) for entry in listed), root)
    check_count(declared, cases, place)
    return RawDataset(
        name=str(declared.get("name") or root.name),
        layout="msd",
        channel_names=channel_names,
        labels=space.labels,
        ignore_label=space.ignore_label,
        cases=cases,
        licence=declared_licence(declared),
    )


def _names_to_values(declared: Any, place: Path) -> dict[str, int]:
    if not isinstance(declared, dict):
        raise DataError(f"{place}: labels is {declared!r}; give values and names")
    labels: dict[str, int] = {}
    for value, name in declared.items():
        if not value.isdecimal() or not isinstance(name, str):
            raise DataError(f"{place}: label {value!r}: {name!r} is no value and name; write '1'")
        if name in labels:
            raise DataError(
                f"{place}: labels {labels[name]} and {value} are both named {name!r}; "
                "give each its own name"
            )
        labels[name] = int(value)
    return labels


def _case(root: Path, entry: Any, channels: int, place: Path) -> RawCase:
    if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
        raise DataError(f"{place}: training lists {entry!r}; give an image and its label")
    image = path_inside(root, entry["image"], place)
    label = path_inside(root, entry["label"], place)
    case_id = file_stem(image)
    ending = image.name[len(case_id) :]
    files = {0: image}
    if not image.exists() and image.with_name(f"{case_id}_0000{ending}").exists():
        found = image.parent.glob(f"{case_id}_[0-9][0-9][0-9][0-9]{ending}")
        files = {split_channel(file_stem(path))[1] or 0: path for path in found}
        in_channel_order(case_id, files, channels)
    check_present(case_id, *files.values(), label)
    return RawCase(case_id, in_channel_order(case_id, files, len(files)), str(label))
