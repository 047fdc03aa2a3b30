"""What an audit reports: one record per finding, and the checks that findings come from.

Plain data that `audit_report` writes; no measuring here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Severity(IntEnum):
    """How bad it is; severe findings make the command fail."""

    NOTE = 0
    WARNING = 1
    SEVERE = 2


class Check(StrEnum):
    """What was looked for."""

    SIDES = "left and right"
    DUPLICATES = "duplicated scans"
    POSITION = "position"
    VOLUME = "volume"
    PIECES = "islands and fragments"
    HOLES = "holes"
    GRID = "spacing and field of view"


@dataclass(frozen=True)
class Case:
    """A case of one of the audited stores.

    Attributes:
        store: Index into the audited stores.
        index: Index into the rows of the store.
        case_id, dataset, split: As in the store.
    """

    store: int
    index: int
    case_id: str
    dataset: str
    split: str


@dataclass(frozen=True)
class Finding:
    """One thing that a person should look at.

    Attributes:
        check: What was looked for.
        severity: How bad it is.
        case: The case, or None if it concerns the whole data set.
        dataset: The data set.
        structures: The structures; the first is the one that the number is of. May be empty.
        number, unit: The measurement that decided, e.g. `61.3` and `mm`.
        message: What was found, a sentence with the numbers.
        action: What to do about it.
        other: The other case of a pair of duplicates.
        centre_zyx: Voxel that a picture should go through; None: the structure's own centre.
    """

    check: Check
    severity: Severity
    case: Case | None
    dataset: str
    structures: tuple[str, ...]
    number: float
    unit: str
    message: str
    action: str
    other: Case | None = None
    centre_zyx: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        place = self.case.case_id if self.case else self.dataset
        kind = self.severity.name.lower()
        return f"{kind}: {self.check}: {place}: {self.message}; {self.action}"
