"""Folds against what nnU-Net made of the same ids; few cases by their definition."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from stunet.data.folds import few_of, fold_of, read_fold
from stunet.errors import ConfigError, DataError

# nnunetv2 2.8, scikit-learn 1.9: generate_crossval_split(ids, seed=12345, n_splits=...)
TWELVE_IN_FIVE = ({0, 3, 8}, {7, 10, 11}, {6, 9}, {1, 4}, {2, 5})
SORTED_TEXT_IN_THREE = (  # of c0 ... c22, which sort as text
    "c0 c11 c16 c18 c2 c3 c4 c6",
    "c14 c15 c19 c20 c21 c22 c5 c7",
    "c1 c10 c12 c13 c17 c8 c9",
)
TEN = [f"c{number}" for number in range(10)]


def held_out(split_of: dict[str, str]) -> set[str]:
    return {case_id for case_id, split in split_of.items() if split == "val"}


def test_folds_are_nnunets() -> None:
    ids = [f"case_{number:02}" for number in range(12)]
    for fold, numbers in enumerate(TWELVE_IN_FIVE):
        assert held_out(fold_of(ids, 5, fold)) == {ids[number] for number in numbers}
    for fold, text in enumerate(SORTED_TEXT_IN_THREE):
        ids = [f"c{number}" for number in range(23)]
        assert held_out(fold_of(reversed(ids), 3, fold)) == set(text.split())


def test_every_case_is_held_out_once() -> None:
    times = [case for fold in range(4) for case in held_out(fold_of(TEN, 4, fold))]
    assert sorted(times) == TEN


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (11, 0, "split.folds=11: 10 cases can be parted into 2 to 10"),
        (1, 0, "split.folds=1: 10 cases can be parted into 2 to 10"),
        (5, 5, "split.fold=5: there are folds 0 to 4"),
        (5, -1, "split.fold=-1: there are folds 0 to 4"),
    ],
)
def test_impossible_folds(folds: int, fold: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fold_of(TEN, folds, fold)


def test_few_are_the_first_by_hash() -> None:
    hashes = {case: hashlib.sha256(f"3 {case}".encode()).hexdigest() for case in TEN}
    assert few_of(TEN, 4, repeat=3) == sorted(TEN, key=hashes.__getitem__)[:4]


def test_fewer_are_part_of_more_and_repeats_differ() -> None:
    for repeat in range(20):
        for count in range(1, 10):
            assert set(few_of(TEN, count, repeat)) < set(few_of(TEN, count + 1, repeat))
    drawn = [few_of(TEN, 1, repeat)[0] for repeat in range(400)]
    times = np.unique(drawn, return_counts=True)[1]
    assert len(times) == 10
    assert np.abs(times - 40).max() < 24  # four standard deviations


@pytest.mark.parametrize(
    ("wanted", "count"), [(3, 3), ("3", 3), ("10%", 1), ("25%", 2), ("100%", 10), ("1%", 1)]
)
def test_shares(wanted: int | str, count: int) -> None:
    assert len(few_of(TEN, wanted, 0)) == count


@pytest.mark.parametrize("wanted", [0, -1, 11, "0%", "101%", "150%", "-5%", "nan%", "inf%"])
def test_impossible_counts(wanted: int | str) -> None:
    with pytest.raises(ConfigError, match=f"train_cases={wanted}: there are 10 cases"):
        few_of(TEN, wanted, 0)


@pytest.mark.parametrize("wanted", ["few", "%", "2.5"])
def test_no_number(wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"train_cases={wanted}: give a number of cases"):
        few_of(TEN, wanted, 0)


def test_a_file_of_folds(tmp_path: Path) -> None:
    place = tmp_path / "splits_final.json"
    place.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    assert read_fold(place, 1, {"a", "b"}) == {"a": "val", "b": "train"}
    for known, tests, message in (
        (["a"], [], "case b is not in the data set"),
        (["a", "b", "c"], [], "case c is in neither train nor val"),
        (["a"], ["b"], "case b is a test case"),
    ):
        with pytest.raises(DataError, match=message):
            read_fold(place, 0, known, tests)
    with pytest.raises(ConfigError, match="has 2 folds, 0 to 1"):
        read_fold(place, 2, ["a", "b"])
    with pytest.raises(DataError, match="cannot be read"):
        read_fold(tmp_path / "none.json", 0, ["a"])
    place.write_text('{"train": []}')
    with pytest.raises(DataError, match="not a list of folds"):
        read_fold(place, 0, ["a"])
