"""Which cases are trained on by a fold of a cross-validation, or when there shall be few.

Functions on case ids. All give the same cases on every machine, whatever else the store holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stunet.errors import ConfigError, DataError

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

SHUFFLE_SEED = 12345  # nnU-Net's, so that its users find their folds again


def fold_of(case_ids: Iterable[str], folds: int, fold: int) -> dict[str, Split]:
    """Case id to `train` or `val` in one fold; every case is `val` in exactly one of them.

    The same cases as nnU-Net's, for which scikit-learn's KFold shuffles the sorted ids.

    Raises:
        ConfigError: There are fewer cases than folds, or no such fold.

    >>> fold_of(("a", "b", "c"), folds=3, fold=0)
    {'a': 'train', 'b': 'val', 'c': 'train'}
    """
    ordered = sorted(case_ids)
    if not 2 <= folds <= len(ordered):
        raise ConfigError(
            f"split.folds={folds}: {len(ordered)} cases can be parted into 2 to {len(ordered)}"
        )
    if not 0 <= fold < folds:
        raise ConfigError(f"split.fold={fold}: there are folds 0 to {folds - 1}")
    shuffled = np.random.RandomState(SHUFFLE_SEED).permutation(len(ordered))
    held_out = set(np.array_split(shuffled, folds)[fold].tolist())
    return {
        case_id: "val" if number in held_out else "train" for number, case_id in enumerate(ordered)
    }


def read_fold(
    place: Path, fold: int, known: Collection[str], tests: Collection[str] = ()
) -> dict[str, Split]:
    """Case id to `train` or `val` in one fold of nnU-Net's `splits_final.json`.

    Args:
        place: The file: a list of {"train": [case ids], "val": [case ids]}.
        fold: Its number.
        known: The cases that it must tell of, each.
        tests: Cases that it must not name.

    Raises:
        ConfigError: There is no such fold.
        DataError: The file is damaged or does not fit the cases.
    """
    try:
        folds = json.loads(place.read_text(encoding="utf-8"))
        if not isinstance(folds, list) or not folds:
            raise TypeError(f"it is {folds!r:.40}")
        if not 0 <= fold < len(folds):
            raise ConfigError(f"fold={fold}: {place} has {len(folds)} folds, 0 to {len(folds) - 1}")
        split_of: dict[str, Split] = {
            case_id: name for name in SPLITS for case_id in folds[fold][name]
        }
        twice = set(folds[fold]["train"]) & set(folds[fold]["val"])
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{place}: not a list of folds with train and val ({error}); correct or remove it"
        ) from error
    for problem, case_ids in (
        ("is in both train and val", twice),
        ("is a test case", set(split_of) & set(tests)),
        ("is not in the data set", set(split_of) - set(known)),
        ("is in neither train nor val", set(known) - set(split_of)),
    ):
        if case_ids:
            raise DataError(f"{place}: fold {fold}: case {min(case_ids)} {problem}; correct it")
    return split_of


def few_of(case_ids: Sequence[str], wanted: int | str, repeat: int) -> list[str]:
    """So many of the cases, drawn by `repeat`; fewer of the same draw are part of more.

    Whether a case is taken before another depends on these two alone.

    Args:
        case_ids: To draw from.
        wanted: Their number, or a share of them such as `10%`, rounded to at least one.
        repeat: Another number, another draw.

    Raises:
        ConfigError: There are not so many, or `wanted` is neither.
    """
    count = _count(wanted, len(case_ids))
    return sorted(case_ids, key=lambda case_id: _rank(case_id, repeat))[:count]


def _count(wanted: int | str, available: int) -> int:
    text = str(wanted)
    share = text.endswith("%")
    try:
        value = float(text[:-1]) / 100 if share else int(text)
    except ValueError:
        raise ConfigError(
            f"split.train_cases={wanted}: give a number of cases, or a share such as 10%"
        ) from None
    if not 0 < value <= (1 if share else available):
        raise ConfigError(
            f"split.train_cases={wanted}: there are {available} cases to train on; give 1 to"
            f" {available}, or up to 100%"
        )
    return max(1, round(value * available)) if share else int(value)


def _rank(case_id: str, repeat: int) -> str:
    return hashlib.sha256(f"{repeat} {case_id}".encode()).hexdigest()
