"""Names, values and regions of labels as data sets declare them, and what is annotated where.

Only declarations: which values the voxels really have is checked when a case is read
(`stunet.io.raw_case`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_tools.raw_files import read_json_object
from stunet.data.region_labels import IGNORE, labels_of_regions
from stunet.errors import DataError
from stunet.types import RawDataset

ANNOTATED = "annotated.json"


@dataclass(frozen=True)
class LabelSpace:
    """What label values mean; the attributes are those of `RawDataset`."""

    labels: dict[str, int]
    ignore_label: int | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Naming:
    """What the optional `labels.json` of a plain folder says."""

    space: LabelSpace
    channel_names: tuple[str, ...]
    licence: str


def read_label_space(declared: Any, place: Path, regions_class_order: Any = None) -> LabelSpace:
    """Understand names and values in the form of nnU-Net.

    Args:
        declared: Name to value; `ignore` names the value of unlabelled voxels; a list of values
            makes a region, and every other name but background and ignore one too.
        place: The file, for messages.
        regions_class_order: As declared; needed with regions.

    Raises:
        DataError: a value is negative or no integer, two names share one, ignore is not the highest
            value, or regions and their class order do not fit each other.
    """
    if not isinstance(declared, dict):
        raise DataError(f"{place}: labels is {declared!r}; give names and values")
    if not any(isinstance(value, list) for value in declared.values()):
        labels = check_labels(declared, place)
        return LabelSpace(*_without_ignore(labels, place))
    regions = {
        name: tuple(value) if isinstance(value, list) else (value,)
        for name, value in declared.items()
        if name != IGNORE and value not in (0, [0])
    }
    for name, values in regions.items():
        if not values or any(type(value) is not int or value <= 0 for value in values):
            raise DataError(f"{place}: region {name!r} is {list(values)}; list integers > 0")
    labels = labels_of_regions(regions)
    if IGNORE in declared:
        labels[IGNORE] = declared[IGNORE]
    labels, ignore_label = _without_ignore(check_labels(labels, place), place)
    order = _class_order(regions_class_order, regions, place)
    return LabelSpace(labels, ignore_label, regions, order)


def check_labels(labels: dict[str, int], place: Path) -> dict[str, int]:
    """Label names to values by value, `background` included.

    Raises:
        DataError: a value is negative or not an integer, or two names share one.
    """
    for name, value in labels.items():
        if type(value) is not int or value < 0:
            raise DataError(f"{place}: label {name!r} has value {value!r}; use an integer >= 0")
    for value, count in Counter(labels.values()).items():
        if count > 1:
            names = [name for name in labels if labels[name] == value]
            raise DataError(f"{place}: labels {names} share value {value}; give each its own")
    if 0 not in labels.values():
        labels = {"background": 0, **labels}
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def _without_ignore(labels: dict[str, int], place: Path) -> tuple[dict[str, int], int | None]:
    ignore_label = labels.pop(IGNORE, None)
    if ignore_label is not None and ignore_label < max(labels.values()):
        raise DataError(f"{place}: ignore is {ignore_label}; it must be the highest label")
    return labels, ignore_label


def _class_order(
    declared: Any, regions: dict[str, tuple[int, ...]], place: Path
) -> tuple[int, ...]:
    """Raise unless there is a value of its own for every region."""
    values = sorted({value for region in regions.values() for value in region})
    known = isinstance(declared, list) and all(value in values for value in declared)
    if not known or not len(declared) == len(set(declared)) == len(regions):
        raise DataError(
            f"{place}: regions_class_order is {declared!r}; give one value of {values} for "
            f"each of the {len(regions)} regions {', '.join(regions)}"
        )
    return tuple(declared)


def read_naming(root: Path) -> Naming:
    """Read `labels.json` of a folder; without it only `background` is named.

    It maps names to values as nnU-Net does, `ignore` included, and may also hold `"licence"` and a
    list `"channel_names"`.
    """
    place = root / "labels.json"
    declared = read_json_object(place) if place.is_file() else {}
    licence = str(declared.pop("licence", None) or "unknown")
    channel_names = declared.pop("channel_names", [])
    if not isinstance(channel_names, list) or not all(isinstance(n, str) for n in channel_names):
        raise DataError(f"{place}: channel_names is {channel_names!r}; give a list of names")
    order = declared.pop("regions_class_order", None)
    return Naming(read_label_space(declared, place, order), tuple(channel_names), licence)


def read_annotated(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the optional `annotated.json`: case id to the structures that are annotated in it.

    Cases that it does not list are annotated fully.
    """
    place = root / ANNOTATED
    declared = read_json_object(place) if place.is_file() else {}
    for case_id, names in declared.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{place}: case {case_id}: {names!r} is no list of structure names")
    return {case_id: tuple(names) for case_id, names in declared.items()}


def with_annotated(raw: RawDataset, root: Path) -> RawDataset:
    """The data set with each case's annotated structures, by label value.

    Raises:
        DataError: `annotated.json` names an unknown case or structure.
    """
    annotated = read_annotated(root)
    known = {case.case_id for case in raw.cases}
    named = [name for name, value in raw.labels.items() if value]
    for case_id, names in annotated.items():
        if case_id not in known:
            raise DataError(f"{root / ANNOTATED}: case {case_id} is not in the data set; remove it")
        for name in names:
            if name not in named:
                raise DataError(
                    f"{root / ANNOTATED}: case {case_id}: {name!r} is not among the labels "
                    f"({', '.join(named)}); correct the name"
                )
    cases = tuple(
        replace(case, annotated=tuple(name for name in named if name in annotated[case.case_id]))
        if case.case_id in annotated
        else case
        for case in raw.cases
    )
    return replace(raw, cases=cases)
