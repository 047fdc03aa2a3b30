"""What a prediction scores against its reference: per case and structure, and their means.

Every score is kept as an array of cases times structures, NaN where it is not defined, so that
means, intervals and paired tests all start from the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.matching import Matching
from stunet.metrics.dice import ClassCounts, count_classes, dice_per_class, dice_where_present
from stunet.metrics.intervals import Interval, bootstrap_macro, bootstrap_mean
from stunet.metrics.surface import SurfaceScores, surface_scores
from stunet.types import RawDataset, Spacing

# `Dice` and `NSD` as nnU-Net scores: 0 where a structure is predicted but not in the reference.
# `Dice_where_present` leaves such cases out: references that annotate a structure in some cases
# only would punish correct predictions otherwise.
METRICS = ("Dice", "Dice_where_present", "NSD", "HD95_mm")
Means = Mapping[str, Interval]  # metric to mean and interval


@dataclass(frozen=True)
class CaseScore:
    """What was measured in one case.

    Attributes:
        case_id: The case.
        reference_file: Its label file or folder.
        prediction_file: Its prediction, under the bundle's label values.
        counts: Entry 0 is everything else, entry i the i-th scored structure.
        surfaces: Of the scored structures.
        voxel_ml: Volume of one voxel.
    """

    case_id: str
    reference_file: str
    prediction_file: str
    counts: ClassCounts
    surfaces: tuple[SurfaceScores, ...]
    voxel_ml: float

    def values(self, metric: str) -> np.ndarray:
        """One of `METRICS` for every scored structure, (K,), NaN where it is not defined."""
        if metric == "Dice":
            return dice_per_class(self.counts)[1:]
        if metric == "Dice_where_present":
            return dice_where_present(self.counts)[1:]
        name = {"NSD": "nsd", "HD95_mm": "hd95_mm"}[metric]
        return np.array([getattr(surface, name) for surface in self.surfaces], np.float64)

    def mean_dice(self) -> float:
        """Mean Dice over the structures that have one; NaN if none has."""
        dice = self.values("Dice")
        return float(dice[np.isfinite(dice)].mean()) if np.isfinite(dice).any() else float("nan")


@dataclass(frozen=True)
class LeftOut:
    """A case that was not scored, and the one line that says why."""

    case_id: str
    message: str


@dataclass(frozen=True)
class DatasetMeans:
    """Means over cases with their intervals.

    Attributes:
        overall: Over structures: every structure weighs the same.
        groups: Anatomical group to the same over its structures.
        structures: Structure to the mean over cases.
    """

    overall: Means
    groups: Mapping[str, Means]
    structures: Mapping[str, Means]


@dataclass(frozen=True)
class DatasetScore:
    """All results of one data set.

    Attributes:
        dataset: What was evaluated.
        matching: Which structures were scored.
        cases: The scored cases.
        failures: The cases that could not be scored.
        skipped: The cases without a reference.
        means: Over the scored cases.
    """

    dataset: RawDataset
    matching: Matching
    cases: tuple[CaseScore, ...]
    failures: tuple[LeftOut, ...]
    skipped: tuple[LeftOut, ...]
    means: DatasetMeans

    def dice(self) -> dict[str, float]:
        """Mean Dice over cases of each scored structure."""
        return {name: means["Dice"].mean for name, means in self.means.structures.items()}

    def foreground_mean(self) -> float:
        """Mean of `dice` over structures: every structure weighs the same."""
        return self.means.overall["Dice"].mean


def score_case(
    reference_zyx: np.ndarray,
    prediction_zyx: np.ndarray,
    matching: Matching,
    ignore_label: int | None,
    spacing_mm: Spacing,
    tolerance_mm: float,
) -> tuple[ClassCounts, tuple[SurfaceScores, ...]]:
    """Count and measure every scored structure of one case.

    Args:
        reference_zyx: The data set's label values.
        prediction_zyx: The bundle's label values on the same grid.
        matching: The structures to score.
        ignore_label: Reference voxels of this value are not counted; to surfaces they are
            background in both maps.
        spacing_mm: Voxel spacing, z y x.
        tolerance_mm: How far surfaces may lie apart for NSD.
    """
    reference, prediction = to_common_values(reference_zyx, prediction_zyx, matching, ignore_label)
    entries = range(1, len(matching.scored) + 1)
    ignored = len(matching.scored) + 1
    counts = count_classes(prediction, reference, classes=ignored, ignore_label=ignored)
    if ignore_label is not None:
        outside = reference == ignored
        reference[outside], prediction[outside] = 0, 0
    surfaces = surface_scores(reference, prediction, entries, spacing_mm, tolerance_mm)
    return counts, tuple(surfaces[entry] for entry in entries)


def leave_out(
    counts: ClassCounts, surfaces: tuple[SurfaceScores, ...], entries: Sequence[int]
) -> tuple[ClassCounts, tuple[SurfaceScores, ...]]:
    """Undo the scores of structures that a case does not annotate: what was predicted is unknown.

    Args:
        counts: As `score_case` returns them.
        surfaces: The same.
        entries: Which structures, from 1.
    """
    n_pred, kept = counts.n_pred.copy(), list(surfaces)
    for entry in entries:
        n_pred[entry] = 0
        kept[entry - 1] = SurfaceScores(float("nan"), float("nan"))
    return replace(counts, n_pred=n_pred), tuple(kept)


def to_common_values(
    reference_zyx: np.ndarray,
    prediction_zyx: np.ndarray,
    matching: Matching,
    ignore_label: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Renumber both maps: i for the i-th scored structure, K + 1 for ignored, 0 for all else."""
    numbered = list(enumerate(matching.scored, start=1))
    targets = {value: i for i, s in numbered for value in s.target_values}
    if ignore_label is not None:
        targets[ignore_label] = len(numbered) + 1
    sources = {value: i for i, s in numbered for value in s.bundle_values}
    return _renumber(reference_zyx, targets), _renumber(prediction_zyx, sources)


def summarise(matching: Matching, cases: Sequence[CaseScore], seed: int) -> DatasetMeans:
    """Means over cases with 95% bootstrap intervals over patients.

    Args:
        matching: The structures that were scored.
        cases: The scored cases.
        seed: Of the bootstrap.
    """
    structures = matching.scored
    shape = (len(cases), len(structures))
    tables = {m: np.array([c.values(m) for c in cases]).reshape(shape) for m in METRICS}
    groups: dict[str, list[int]] = {}
    for column, structure in enumerate(structures):
        groups.setdefault(structure.group, []).append(column)
    return DatasetMeans(
        overall={m: bootstrap_macro(table, seed) for m, table in tables.items()},
        groups={
            group: {m: bootstrap_macro(table[:, columns], seed) for m, table in tables.items()}
            for group, columns in groups.items()
        },
        structures={
            structure.name: {m: bootstrap_mean(table[:, k], seed) for m, table in tables.items()}
            for k, structure in enumerate(structures)
        },
    )


def _renumber(label_zyx: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """Replace label values by a table; what is not in it becomes 0."""
    table = np.zeros(max(int(label_zyx.max()), *values) + 1, dtype=np.uint16)
    for old, new in values.items():
        table[old] = new
    return table[label_zyx]
