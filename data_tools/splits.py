"""Which cases are trained on and which are held out; decided once, before anything is measured."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from stunet.errors import ConfigError, DataError
from stunet.types import RawDataset


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
