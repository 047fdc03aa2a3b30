"""What the trainings of a protocol come to: means by number of cases, and what the bundle gains.

All scores are of structures that the reference has. A case counts once: its scores are averaged
over the repeats before anything else is done with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.protocol_trials import FROM_SCRATCH, PRETRAINED, Protocol, Trial
from finetune.scores import DatasetScore
from stunet.io.atomic import atomic_write_json
from stunet.metrics.intervals import Interval, bootstrap_macro, bootstrap_mean
from stunet.metrics.paired import PairedTest, paired_tests

METRICS = ("Dice", "NSD", "HD95_mm")


@dataclass(frozen=True)
class Scored:
    """A training and its scores."""

    trial: Trial
    score: DatasetScore


@dataclass(frozen=True)
class Point:
    """One arm at one number of training cases.

    Attributes:
        arm: Which.
        cases: As asked for.
        trained_on: Cases, the mean over repeats and folds.
        means: Metric to the mean over structures with its interval over patients.
        structures: Structure to the same, of this structure alone.
        spread: Standard deviation of the mean Dice over the repeats; None: there is one.
    """

    arm: str
    cases: str
    trained_on: float
    means: Mapping[str, Interval]
    structures: Mapping[str, Mapping[str, Interval]]
    spread: float | None


@dataclass(frozen=True)
class Gain:
    """What starting from the bundle adds at one number of training cases.

    Attributes:
        cases: As asked for.
        trained_on: As for `Point`.
        tests: Metric to pretrained minus scratch over patients, corrected over all gains.
    """

    cases: str
    trained_on: float
    tests: Mapping[str, PairedTest]

    @property
    def verdict(self) -> str:
        """Which arm has the higher Dice, if that is not chance at 5% after correction."""
        test = self.tests["Dice"]
        if not test.p_holm < 0.05:
            return "undecided"
        return f"{PRETRAINED if test.difference.mean > 0 else FROM_SCRATCH} better"


@dataclass(frozen=True)
class Results:
    """All that a protocol found.

    Attributes:
        points: In the order of the numbers of cases, then of the arms.
        gains: One per number of cases; empty where an arm is missing.
        patients: Cases that were scored.
        trials: What each came from.
    """

    points: tuple[Point, ...]
    gains: tuple[Gain, ...]
    patients: tuple[str, ...]
    trials: tuple[Scored, ...]

    def of(self, arm: str) -> list[Point]:
        """The points of an arm."""
        return [point for point in self.points if point.arm == arm]


def collect(scored: Sequence[Scored], seed: int) -> Results:
    """Average, pair and test.

    Args:
        scored: All trainings of a protocol.
        seed: Of the bootstrap.
    """
    patients = tuple(sorted({case for one in scored for case in one.trial.scored_on}))
    groups: dict[tuple[str, str], list[Scored]] = {}
    for one in scored:
        groups.setdefault((one.trial.cases, one.trial.arm), []).append(one)
    tables = {
        place: {metric: _table(group, patients, metric) for metric in METRICS}
        for place, group in groups.items()
    }
    points = [_point(group, tables[place], patients, seed) for place, group in groups.items()]
    return Results(tuple(points), _gains(points, tables, seed), patients, tuple(scored))


def write_results(path: Path, results: Results, protocol: Protocol) -> None:
    """Write all of it as JSON; what is not defined is null."""
    config = protocol.config
    record = {
        "init": config.init,
        "bundle_sha256": protocol.bundle.sha256,
        "store": config.shares[0].path,
        "steps": config.optim.total_steps,
        "global_batch": config.global_batch,
        **asdict(protocol.how),
        "scored_on": results.patients,
        "results": [asdict(point) for point in results.points],
        "gains": [{**asdict(gain), "verdict": gain.verdict} for gain in results.gains],
        "trials": [
            {
                "run": str(one.trial.run),
                "arm": one.trial.arm,
                "cases": one.trial.cases,
                "repeat": one.trial.repeat,
                "fold": one.trial.fold,
                "trained_on": one.trial.trained_on,
                "scored_on": one.trial.scored_on,
                "mean_dice": one.score.foreground_mean(),
            }
            for one in results.trials
        ],
    }
    atomic_write_json(path, _nulls(record))


def _point(
    group: Sequence[Scored], table: Mapping[str, np.ndarray], patients: Sequence[str], seed: int
) -> Point:
    structures = [structure.name for structure in group[0].score.matching.scored]
    return Point(
        group[0].trial.arm,
        group[0].trial.cases,
        sum(len(one.trial.trained_on) for one in group) / len(group),
        {metric: bootstrap_macro(table[metric], seed) for metric in METRICS},
        {
            name: {metric: bootstrap_mean(table[metric][:, k], seed) for metric in METRICS}
            for k, name in enumerate(structures)
        },
        _spread(group, patients, seed),
    )


def _table(group: Sequence[Scored], patients: Sequence[str], metric: str) -> np.ndarray:
    """(n patients, K structures), the mean over repeats, NaN where no repeat has a score."""
    row = {case_id: number for number, case_id in enumerate(patients)}
    structures = len(group[0].score.matching.scored)
    total, count = np.zeros((2, len(patients), structures))
    for one in group:
        for case in one.score.cases:
            values = case.values(metric)
            scored = np.isfinite(values) & (case.counts.n_ref[1 : structures + 1] > 0)
            total[row[case.case_id], scored] += values[scored]
            count[row[case.case_id], scored] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _spread(group: Sequence[Scored], patients: Sequence[str], seed: int) -> float | None:
    repeats: dict[int, list[Scored]] = {}
    for one in group:
        repeats.setdefault(one.trial.repeat, []).append(one)
    if len(repeats) < 2:
        return None
    tables = (_table(part, patients, "Dice") for part in repeats.values())
    return float(np.std([bootstrap_macro(table, seed).mean for table in tables], ddof=1))


def _gains(
    points: Sequence[Point],
    tables: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    seed: int,
) -> tuple[Gain, ...]:
    """One per number of cases that both arms have; all are one family of tests."""
    sizes = [p for p in points if p.arm == PRETRAINED and (p.cases, FROM_SCRATCH) in tables]
    if not sizes:
        return ()
    tests = {}
    for metric in METRICS:
        pairs = [
            _per_patient(tables[p.cases, PRETRAINED][metric], tables[p.cases, FROM_SCRATCH][metric])
            for p in sizes
        ]
        a_nk, b_nk = (np.stack([pair[side] for pair in pairs], axis=1) for side in (0, 1))
        tests[metric] = paired_tests(a_nk, b_nk, seed)
    return tuple(
        Gain(p.cases, p.trained_on, {metric: tests[metric][k] for metric in METRICS})
        for k, p in enumerate(sizes)
    )


def _per_patient(a_nk: np.ndarray, b_nk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) each: means over the structures that both arms have a score of."""
    both = np.isfinite(a_nk) & np.isfinite(b_nk)
    count = both.sum(1)
    a, b = (
        np.divide(
            np.where(both, side, 0.0).sum(1),
            count,
            out=np.full(len(count), np.nan),
            where=count > 0,
        )
        for side in (a_nk, b_nk)
    )
    return a, b


def _nulls(value: Any) -> Any:
    """JSON values with null for what is not a number."""
    if isinstance(value, dict):
        return {key: _nulls(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
