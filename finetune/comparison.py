"""Two runs of transfer on the same cases: what differs, and whether that could be chance.

Starts from the `cases.csv` of both. Compared are cases whose reference has the structure, since
both runs have a score there: what one run invents and the other does not is no pair.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.page import render
from stunet.errors import DataError
from stunet.io.atomic import atomic_write_text
from stunet.metrics.paired import PairedTest, paired_tests

METRICS = ("dice", "nsd", "hd95_mm")
LEVELS = ("dataset", "group", "class")
FIGURES = ("n", "a", "b", "difference", "low", "high", "p", "p_holm")  # columns per metric
AXIS_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Key(NamedTuple):
    """One structure of one case."""

    dataset: str
    case: str
    structure: str


@dataclass(frozen=True)
class RunTable:
    """The scores of a run as its `cases.csv` holds them.

    Attributes:
        folder: Of the run.
        bundle: Name and identity of what was evaluated, where `summary.json` tells.
        groups: Structure to anatomical group.
        scores: To the metrics, NaN where undefined, for references that have the structure.
        reference_voxels: Of all structures.
    """

    folder: Path
    bundle: str
    groups: dict[str, str]
    scores: dict[Key, dict[str, float]]
    reference_voxels: dict[Key, int]


@dataclass(frozen=True)
class Compared:
    """One line of a comparison.

    Attributes:
        level: One of `LEVELS`: what the scores of a case were averaged over.
        dataset: The data set.
        name: Structure, group or data set.
        means: Metric to the means of A and B over the pairs.
        tests: Metric to the test of A - B, corrected over all lines of the level.
    """

    level: str
    dataset: str
    name: str
    means: dict[str, tuple[float, float]]
    tests: dict[str, PairedTest]

    @property
    def verdict(self) -> str:
        """Which run has the higher Dice, if that is not chance at 5% after correction."""
        test = self.tests["dice"]
        if not test.p_holm < 0.05:
            return "undecided"
        return "A better" if test.difference.mean > 0 else "B better"


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        a, b: The runs.
        rows: Data sets, then groups, then structures.
        cases: Cases that both hold.
        alone: Cases that only A and only B hold.
    """

    a: RunTable
    b: RunTable
    rows: tuple[Compared, ...]
    cases: int
    alone: tuple[int, int]


def compare_runs(folder_a: Path, folder_b: Path, out: Path, seed: int, command: str = "") -> Path:
    """Compare two runs; write `comparison.csv` and `comparison.html` below `out`.

    Args:
        folder_a: What `transfer` wrote.
        folder_b: The same for the other run.
        out: Folder for the two files.
        seed: Of the bootstrap.
        command: What the user typed, for the page.

    Returns:
        The page.

    Raises:
        DataError: A folder is no run, no case is common, or references differ.
    """
    comparison = compare(read_run(folder_a), read_run(folder_b), seed)
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / "comparison.csv", comparison)
    levels = {level: [r for r in comparison.rows if r.level == level] for level in LEVELS}
    limit = axis_limit(row.tests["dice"] for row in comparison.rows)
    page = out / "comparison.html"
    atomic_write_text(
        page,
        render(
            "comparison.html",
            comparison=comparison,
            levels=levels,
            limit=limit,
            seed=seed,
            command=command,
        ),
    )
    return page


def read_run(folder: Path) -> RunTable:
    """Read the scores of a run.

    Raises:
        DataError: The folder holds no `cases.csv` of ours.
    """
    place = folder / "cases.csv"
    try:
        with place.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        groups = {row["class"]: row["group"] for row in rows}
        keyed = {Key(row["dataset"], row["case"], row["class"]): row for row in rows}
        voxels = {key: int(row["n_ref"]) for key, row in keyed.items()}
        scores = {
            key: {metric: float(row[metric] or "nan") for metric in METRICS}
            for key, row in keyed.items()
            if voxels[key] > 0
        }
    except OSError as error:
        raise DataError(
            f"{place}: cannot be read ({error.strerror}); give a folder that transfer wrote"
        ) from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{place}: is not a table of transfer ({error}); run it again") from None
    return RunTable(folder, _bundle_of(folder), groups, scores, voxels)


def compare(a: RunTable, b: RunTable, seed: int) -> Comparison:
    """Pair the scores of two runs and test every structure, group and data set.

    Raises:
        DataError: No case is common, or references differ.
    """
    for key in a.reference_voxels.keys() & b.reference_voxels.keys():
        if a.reference_voxels[key] != b.reference_voxels[key]:
            raise DataError(
                f"{key.dataset}/{key.case}: the reference of {key.structure} has "
                f"{a.reference_voxels[key]} voxels in {a.folder}, {b.reference_voxels[key]} in "
                f"{b.folder}; evaluate both on the same data"
            )
    common = sorted(a.scores.keys() & b.scores.keys())
    if not common:
        raise DataError(f"{a.folder} and {b.folder}: hold no common case; compare runs of one data")
    level_keys: dict[str, Callable[[Key], str]] = {
        "dataset": lambda key: key.dataset,
        "group": lambda key: a.groups[key.structure],
        "class": lambda key: key.structure,
    }
    rows = [row for level in LEVELS for row in _level(level, level_keys[level], common, a, b, seed)]
    cases_a, cases_b = ({key[:2] for key in run.reference_voxels} for run in (a, b))
    return Comparison(
        a, b, tuple(rows), len(cases_a & cases_b), (len(cases_a - cases_b), len(cases_b - cases_a))
    )


def _level(
    level: str,
    part: Callable[[Key], str],
    common: list[Key],
    a: RunTable,
    b: RunTable,
    seed: int,
) -> list[Compared]:
    """Average each case over what belongs together, then test over cases."""
    columns = sorted({(key.dataset, part(key)) for key in common})
    cases = sorted({key[:2] for key in common})
    members: dict[tuple[int, int], list[Key]] = {}
    for key in common:
        place = (cases.index(key[:2]), columns.index((key.dataset, part(key))))
        members.setdefault(place, []).append(key)
    means: dict[str, list[tuple[float, float]]] = {}
    tests: dict[str, tuple[PairedTest, ...]] = {}
    for metric in METRICS:
        pair_nk = np.full((2, len(cases), len(columns)), np.nan)
        for place, keys in members.items():
            pairs = np.array([(a.scores[key][metric], b.scores[key][metric]) for key in keys])
            pairs = pairs[np.isfinite(pairs).all(1)]
            if len(pairs):
                pair_nk[:, *place] = pairs.mean(0)
        tests[metric] = paired_tests(pair_nk[0], pair_nk[1], seed)
        means[metric] = [_column_means(pair_nk[:, :, k]) for k in range(len(columns))]
    return [
        Compared(
            level,
            dataset,
            name,
            {metric: means[metric][k] for metric in METRICS},
            {metric: tests[metric][k] for metric in METRICS},
        )
        for k, (dataset, name) in enumerate(columns)
    ]


def _column_means(pair_n: np.ndarray) -> tuple[float, float]:
    defined = pair_n[:, np.isfinite(pair_n[0])]
    if not defined.size:
        return math.nan, math.nan
    a, b = defined.mean(1).tolist()
    return a, b


def _bundle_of(folder: Path) -> str:
    for place in sorted(folder.glob("*/summary.json")):
        ours = json.loads(place.read_text()).get("stunet", {})
        return f"{ours.get('bundle')} (sha256 {str(ours.get('bundle_sha256'))[:12]})"
    return "not recorded"


def axis_limit(tests: Iterable[PairedTest]) -> float:
    """Half the width of the drawings: the first step that holds every interval."""
    ends = [abs(v) for t in tests for v in (t.difference.mean, t.difference.low, t.difference.high)]
    largest = max((end for end in ends if math.isfinite(end)), default=0.0)
    return next((step for step in AXIS_STEPS if step >= largest), AXIS_STEPS[-1])


def _write_csv(path: Path, comparison: Comparison) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    header = [f"{metric}_{figure}" for metric in METRICS for figure in FIGURES]
    table.writerow(["level", "dataset", "name", *header])
    for row in comparison.rows:
        figures: list[float] = []
        for metric in METRICS:
            test, gap = row.tests[metric], row.tests[metric].difference
            figures += [
                test.n,
                *row.means[metric],
                gap.mean,
                gap.low,
                gap.high,
                test.p,
                test.p_holm,
            ]
        cells = ["" if math.isnan(figure) else f"{figure:.6g}" for figure in figures]
        table.writerow([row.level, row.dataset, row.name, *cells])
    atomic_write_text(path, text.getvalue())
