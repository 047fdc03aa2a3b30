"""Which cases of a store are trained on and which are held out, decided in one place.

Cases that the store marks as `test` are neither, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stunet.data.folds import Split, few_of, fold_of, read_fold
from stunet.errors import ConfigError
from stunet.io.manifest import CaseRow
from stunet.io.manifest_rows import splits


@dataclass(frozen=True)
class SplitConfig:
    """Other cases than those that the store marks for training and for validation.

    Attributes:
        fold: A fold of a cross-validation over the `train` and `val` cases together.
        folds: How many there are; the cases are nnU-Net's, by its seed.
        file: nnU-Net's `splits_final.json` to take the fold from instead.
        train_cases: Train on so many cases only, or on a share of them such as `10%`. What is
            validated on stays.
        repeat: Another number draws other few cases. Within one, fewer are part of more.
    """

    fold: int | None = None
    folds: int = 5
    file: str = ""
    train_cases: int | str | None = None
    repeat: int = 0

    def __post_init__(self) -> None:
        if self.file and self.fold is None:
            raise ConfigError(f"split.file={self.file}: say which of its folds, split.fold=0")


@dataclass(frozen=True)
class CaseChoice:
    """Indices of rows of a store's manifest, in its order."""

    train: tuple[int, ...]
    val: tuple[int, ...]


def training_cases(rows: Sequence[CaseRow], config: SplitConfig = SplitConfig()) -> CaseChoice:
    """The cases that are trained and validated on.

    Args:
        rows: Of one store; parsed only where the configuration asks for case ids.
        config: What to choose.

    Raises:
        ConfigError: There is no such fold, or there are not so many cases.
        DataError: The file of folds is damaged or does not fit the store.
    """
    marks: dict[str, list[int]] = {"train": [], "val": []}
    for index, split in enumerate(splits(rows)):
        if split in marks:
            marks[split].append(index)
    train, val = marks["train"], marks["val"]
    if config.fold is not None:
        number = {rows[index].case_id: index for index in sorted((*train, *val))}
        split_of = (
            _fold_in_file(rows, config, number)
            if config.file
            else fold_of(number, config.folds, config.fold)
        )
        train, val = (
            [index for case_id, index in number.items() if split_of[case_id] == split]
            for split in ("train", "val")
        )
    if config.train_cases is not None:
        number = {rows[index].case_id: index for index in train}
        few = few_of(list(number), config.train_cases, config.repeat)
        train = sorted(number[case_id] for case_id in few)
    return CaseChoice(tuple(train), tuple(val))


def _fold_in_file(
    rows: Sequence[CaseRow], config: SplitConfig, number: dict[str, int]
) -> dict[str, Split]:
    assert config.fold is not None
    tests = [rows[index].case_id for index, split in enumerate(splits(rows)) if split == "test"]
    return read_fold(Path(config.file), config.fold, number, tests)
