"""Which cases a recipe trains and validates on, and that test cases are neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.config import PretrainConfig
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.training.data import chosen_ids, open_data
from stunet.training.recipe import StoreShare, without_logistics
from stunet.training.split import SplitConfig, training_cases
from stunet.types import CaseArrays

SPLIT_OF = {
    **{f"t{number}": "train" for number in range(8)},
    **{"u0": "test", "u1": "test"},
    **{"v0": "val", "v1": "val"},
}
POOL = sorted(case for case, split in SPLIT_OF.items() if split != "test")


@pytest.fixture
def store(
    tmp_path: Path, make_info: Callable[..., DatasetInfo], make_case: Callable[..., CaseArrays]
) -> Path:
    writer = StoreWriter(tmp_path / "store", make_info())
    cases = [replace(make_case(case_id), split=split) for case_id, split in SPLIT_OF.items()]
    writer.finish([writer.write_case(case) for case in cases])
    return tmp_path / "store"


def ids(store: Path, split: SplitConfig) -> tuple[list[str], list[str]]:
    rows = open_store(store).rows
    chosen = training_cases(rows, split)
    return [rows[i].case_id for i in chosen.train], [rows[i].case_id for i in chosen.val]


def test_the_stores_own(store: Path) -> None:
    assert ids(store, SplitConfig()) == ([f"t{number}" for number in range(8)], ["v0", "v1"])


def test_folds_leave_test_cases_out(store: Path) -> None:
    held_out = []
    for fold in range(5):
        train, val = ids(store, SplitConfig(fold=fold))
        assert sorted(train + val) == POOL
        held_out += val
    assert sorted(held_out) == POOL


def test_few_cases_leave_validation_alone(store: Path) -> None:
    train, val = ids(store, SplitConfig(train_cases=3, repeat=1))
    assert len(train) == 3
    assert set(train) < {f"t{number}" for number in range(8)}
    assert val == ["v0", "v1"]
    fold_train, fold_val = ids(store, SplitConfig(fold=2, train_cases="50%"))
    whole_train, whole_val = ids(store, SplitConfig(fold=2))
    assert (len(fold_train), fold_val) == (4, whole_val)
    assert set(fold_train) < set(whole_train)


def test_a_file_of_folds(store: Path, tmp_path: Path) -> None:
    place = tmp_path / "splits_final.json"
    place.write_text(json.dumps([{"train": POOL[:3], "val": POOL[3:]}]))
    assert ids(store, SplitConfig(fold=0, file=str(place))) == (POOL[:3], POOL[3:])
    place.write_text(json.dumps([{"train": [*POOL[:3], "u0"], "val": POOL[3:]}]))
    with pytest.raises(DataError, match="case u0 is a test case"):
        ids(store, SplitConfig(fold=0, file=str(place)))
    with pytest.raises(ConfigError, match=r"say which of its folds, split\.fold=0"):
        SplitConfig(file=str(place))


def test_a_run_says_whom_it_chose(store: Path) -> None:
    recipe = PretrainConfig("o", str(store), split=SplitConfig(train_cases=2))
    data = open_data(recipe)
    (chosen,) = chosen_ids(data, recipe)
    assert (len(chosen["train"]), chosen["val"]) == (2, ["v0", "v1"])
    assert chosen_ids(open_data(PretrainConfig("o", str(store))), PretrainConfig("o", "s")) == []


def test_a_file_is_of_one_data_set() -> None:
    split = SplitConfig(fold=0, file="splits_final.json")
    assert without_logistics(PretrainConfig("o", "s", split=split)).split == split
    with pytest.raises(ConfigError, match="it is of one data set, and mixture has 2"):
        PretrainConfig("o", mixture=[StoreShare("a"), StoreShare("b")], split=split)
