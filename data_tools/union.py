"""Several data sets in one label space, each labelled for its own structures only.

A YAML file names the folders (`configs/data/union_example.yaml`); nothing is copied. The labels of
the union are those of its members by name, in order of appearance. A structure that a member does
not label is not annotated in its cases, which is something else than absent: see
`stunet.types.RawCase.annotated`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_tools.raw_files import check_cases
from data_tools.raw_labels import check_labels
from data_tools.splits import assign_splits
from stunet.data.region_labels import IGNORE
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset


@dataclass(frozen=True)
class Member:
    """One data set of a union.

    Attributes:
        name: Short name; case ids become `NAME_CASE`.
        raw: Its folder, relative to the YAML file.
        rename: Its name of a structure to the union's. Structures of one name are taken to be the
            same: rename what means something else.
        drop: Structures not to use; their voxels count as not annotated.
        labels: Names and values instead of those it declares, e.g. where it declares none.
        channel_names: Instead of those it declares.
        licence: Instead of the one it declares.
        fold: Which of its own folds to use, as in preparation.
        holdout: Cases held out as `val` if it has no split of its own.
    """

    name: str
    raw: str
    rename: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    licence: str = ""
    fold: str = "0"
    holdout: int = 4


@dataclass(frozen=True)
class UnionConfig:
    """Data sets to unite.

    Attributes:
        name: Name of the union.
        datasets: Its members; a new one at the end leaves the values of all labels as they were.
        stage: Tells recipes of one stage from those of another.
    """

    name: str
    datasets: list[Member]  # a list for OmegaConf, which checks no tuple of records
    stage: Literal["union"] = "union"


def unite(config: UnionConfig, members: Sequence[RawDataset], place: Path) -> RawDataset:
    """Put data sets into one label space.

    Args:
        config: As read from `place`.
        members: The listed data sets, in the order of `config.datasets`.
        place: The YAML file, for messages.

    Raises:
        DataError: members have other channels, no named labels, regions, or names that differ in
            case and punctuation only; a renamed or dropped structure does not exist; two cases or
            two members would have one id or name.
    """
    _check_members(config, place)
    declared = [
        _as_declared(member, raw, place)
        for member, raw in zip(config.datasets, members, strict=True)
    ]
    _check_channels(config, declared, place)
    names_of = [
        _names(member, raw, place) for member, raw in zip(config.datasets, declared, strict=True)
    ]
    named = dict.fromkeys(name for names in names_of for name in names.values() if name)
    _check_alike(list(named), place)
    labels = {"background": 0, **{name: value for value, name in enumerate(named, start=1)}}
    has_ignore = any(raw.ignore_label is not None for raw in declared)
    ignore_label = len(labels) if has_ignore else None
    cases = []
    for member, raw, names in zip(config.datasets, declared, names_of, strict=True):
        cases += _cases(member, raw, names, labels, ignore_label)
    licences = dict.fromkeys(raw.licence for raw in declared)
    return RawDataset(
        name=config.name,
        layout="union",
        channel_names=declared[0].channel_names,
        labels=labels,
        ignore_label=ignore_label,
        cases=check_cases(cases, place),
        licence=", ".join(licences),
    )


def _check_members(config: UnionConfig, place: Path) -> None:
    names = [member.name for member in config.datasets]
    if not names:
        raise DataError(f"{place}: names no data set; list them under datasets")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{place}: two data sets are named {name!r}; give each its own name")


def _check_channels(config: UnionConfig, declared: Sequence[RawDataset], place: Path) -> None:
    first = declared[0].channel_names
    for member, raw in zip(config.datasets, declared, strict=True):
        if raw.channel_names != first:
            raise DataError(
                f"{place}: {member.name} has channels {', '.join(raw.channel_names)} but "
                f"{config.datasets[0].name} has {', '.join(first)}; set channel_names if they are "
                "the same, else prepare them apart"
            )


def _as_declared(member: Member, raw: RawDataset, place: Path) -> RawDataset:
    """A member with what the YAML file declares in its place, and a split."""
    if raw.layout == "union":
        raise DataError(f"{place}: {member.name} is a union itself; list its data sets instead")
    if member.labels:
        raw = replace(raw, labels=check_labels(dict(member.labels), place), regions={})
    if set(raw.labels.values()) == {0}:
        raise DataError(f"{place}: {member.name} names no labels; set labels to names and values")
    if raw.regions:
        raise DataError(
            f"{place}: {member.name} has regions, which overlap; set labels to names and values of "
            f"what does not ({', '.join(str(value) for value in raw.labels.values() if value)})"
        )
    raw = replace(
        raw,
        channel_names=member.channel_names or raw.channel_names,
        licence=member.licence or raw.licence,
    )
    return assign_splits(raw, member.holdout)


def _names(member: Member, raw: RawDataset, place: Path) -> dict[str, str | None]:
    """The member's names, without background, to the union's; None for what is dropped."""
    own = [name for name, value in raw.labels.items() if value]
    for name in (*member.rename, *member.drop):
        if name not in own:
            raise DataError(
                f"{place}: {member.name} has no label {name!r} to rename or drop; it has "
                f"{', '.join(own)}"
            )
    names = {name: None if name in member.drop else member.rename.get(name, name) for name in own}
    kept = [name for name in names.values() if name]
    for name in kept:
        if kept.count(name) > 1:
            raise DataError(
                f"{place}: two labels of {member.name} are named {name!r}; give each its own name"
            )
        if name in (IGNORE, "background"):
            raise DataError(
                f"{place}: {member.name}: {name!r} is no structure; choose another name"
            )
    return names


def _check_alike(names: list[str], place: Path) -> None:
    """Refuse `spinal_cord` beside `Spinal Cord`: they would become two structures."""
    seen: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[\W_]+", "", name).casefold()
        if plain in seen:
            raise DataError(
                f"{place}: labels {seen[plain]!r} and {name!r} differ in case or punctuation only; "
                "rename one to the other, or to a name that says how they differ"
            )
        seen[plain] = name


def _cases(
    member: Member,
    raw: RawDataset,
    names: dict[str, str | None],
    labels: dict[str, int],
    ignore_label: int | None,
) -> list[RawCase]:
    """The cases of a member: their ids, label values and annotated structures in the union."""
    label_map: dict[tuple[str, ...] | None, dict[str, tuple[int, int]]] = {}  # few, for many cases
    annotated: dict[tuple[str, ...] | None, tuple[str, ...] | None] = {}
    for given in {case.annotated for case in raw.cases}:
        own = [name for name in names if given is None or name in given]
        label_map[given] = {
            name: (raw.labels[name], labels[names[name] or "background"]) for name in own
        }
        if raw.ignore_label is not None and ignore_label is not None:
            label_map[given][IGNORE] = (raw.ignore_label, ignore_label)
        united = {names[name] for name in own}
        found = tuple(name for name in labels if name in united)
        annotated[given] = None if len(found) == len(labels) - 1 else found
    return [
        replace(
            case,
            case_id=f"{member.name}_{case.case_id}",
            label_map=label_map[case.annotated],
            annotated=annotated[case.annotated],
            licence=raw.licence,
        )
        for case in raw.cases
    ]
