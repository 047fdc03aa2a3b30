import hashlib

import pytest

from data_tools.splits import assign_splits
from stunet.errors import ConfigError, DataError
from stunet.types import RawCase, RawDataset


def dataset(*cases: RawCase) -> RawDataset:
    return RawDataset("set", "pairs", ("CT",), {"background": 0}, None, cases)


def unsplit(count: int) -> RawDataset:
    return dataset(*(RawCase(f"c{number}", ("i",), "l") for number in range(count)))


def held_out(raw: RawDataset) -> set[str]:
    return {case.case_id for case in raw.cases if case.split == "val"}


def test_first_by_hash_are_held_out() -> None:
    raw = assign_splits(unsplit(20), holdout=5)
    hashes = {f"c{n}": hashlib.sha256(f"c{n}".encode()).hexdigest() for n in range(20)}
    assert held_out(raw) == set(sorted(hashes, key=hashes.__getitem__)[:5])
    assert {case.split for case in raw.cases} == {"train", "val"}


def test_adding_a_case_moves_at_most_one_other() -> None:
    for count in range(6, 40):
        before, after = (held_out(assign_splits(unsplit(n), 5)) for n in (count, count + 1))
        assert len(before - after) <= 1


def test_nothing_held_out() -> None:
    assert held_out(assign_splits(unsplit(3), holdout=0)) == set()


def test_own_split_is_kept() -> None:
    raw = dataset(RawCase("a", ("i",), "l", "test"), RawCase("b", ("i",), "l", "train"))
    assert assign_splits(raw, holdout=1) == raw


def test_half_a_split_is_refused() -> None:
    raw = dataset(RawCase("a", ("i",), "l", "train"), RawCase("b", ("i",), "l"))
    with pytest.raises(DataError, match="case b has no split"):
        assign_splits(raw, holdout=1)


@pytest.mark.parametrize("holdout", [-1, 3, 9])
def test_impossible_holdout(holdout: int) -> None:
    with pytest.raises(ConfigError, match=f"holdout={holdout}: set has 3 cases; hold out 0 to 2"):
        assign_splits(unsplit(3), holdout)
