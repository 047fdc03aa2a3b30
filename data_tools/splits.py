"""Which cases are trained on and which are held out; decided once, before anything is measured."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from stunet.data.folds import read_fold
from stunet.errors import ConfigError, DataError
from stunet.types import RawDataset

FOLDS = "splits_final.json"  # nnU-Net's list of {"train": [case ids], "val": [case ids]}
ALL_FOLDS = "all"


def assign_splits(raw: RawDataset, holdout: int) -> RawDataset:
    """Give every case a split.

    The data set's own split is kept. Otherwise cases are ordered by the sha256 of their id and the
    first `holdout` become `val`, the rest `train`: the same cases on every machine, and adding a
    case moves at most one other.

    Args:
        raw: The data set as listed.
        holdout: Cases held out for validation and never trained on; at least one case must remain.

    Raises:
        ConfigError: nothing would be left to train on.
        DataError: only some cases have a split.
    """
    without = [case.case_id for case in raw.cases if case.split is None]
    if not without:
        return raw
    if len(without) < len(raw.cases):
        raise DataError(
            f"{raw.name}: case {without[0]} has no split but others have; complete the split file"
        )
    if not 0 <= holdout < len(raw.cases):
        raise ConfigError(
            f"holdout={holdout}: {raw.name} has {len(raw.cases)} cases; "
            f"hold out 0 to {len(raw.cases) - 1}"
        )
    held_out = set(sorted(without, key=_rank)[:holdout])
    cases = tuple(
        replace(case, split="val" if case.case_id in held_out else "train") for case in raw.cases
    )
    return replace(raw, cases=cases)


def _rank(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()


def with_fold(raw: RawDataset, root: Path, fold: str) -> RawDataset:
    """The data set with the split that its folder declares.

    Args:
        raw: As listed.
        root: Its folder; `splits_final.json` is sought here and in the preprocessed sibling where
            nnU-Net keeps it.
        fold: Number of the fold, or `all` to train on validation cases too (test cases stay out).

    Raises:
        ConfigError: there is no such fold.
        DataError: the split file is damaged or does not fit the cases.
    """
    if fold == ALL_FOLDS:
        cases = (
            replace(case, split="test" if case.split == "test" else "train") for case in raw.cases
        )
        return replace(raw, cases=tuple(cases))
    if not fold.isdecimal():
        raise ConfigError(f"fold={fold}: give the number of a fold, or {ALL_FOLDS!r}")
    sibling = root.parent.parent / "nnUNet_preprocessed" / root.name
    place = next((p for p in (root / FOLDS, sibling / FOLDS) if p.is_file()), None)
    if place is None:
        if int(fold):
            raise ConfigError(f"fold={fold}: {raw.name} has no {FOLDS}; leave fold out")
        return raw
    split_of = read_fold(place, int(fold), {case.case_id for case in raw.cases})
    cases = (replace(case, split=split_of[case.case_id]) for case in raw.cases)
    return replace(raw, cases=tuple(cases))
