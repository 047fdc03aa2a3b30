"""Scores of a data set and the two files that tell them: `cases.csv` and `summary.json`.

`summary.json` has the shape of nnU-Net's, so that what reads those reads ours, and one more key,
`stunet`: names, both Dice conventions, what was not scored and why, and what was evaluated. Dice
follows nnU-Net: NaN where a class is in neither map, 0 where it is predicted but not in the
reference. The second convention, `Dice_where_present`, leaves the latter out: a data set that
annotates a structure in some cases only would punish correct predictions otherwise.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.matching import Matching
from stunet import __version__
from stunet.bundle import Bundle
from stunet.io.atomic import atomic_write_text
from stunet.metrics.dice import (
    ClassCounts,
    DiceSummary,
    dice_per_class,
    dice_where_present,
    summarise_dice,
)
from stunet.types import RawDataset

METRICS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_ref", "n_pred")
Convention = Callable[[ClassCounts], np.ndarray]


@dataclass(frozen=True)
class CaseScore:
    """What was counted in one case.

    Attributes:
        case_id: The case.
        reference_file: Its label file or folder.
        prediction_file: Its prediction, under the bundle's label values.
        counts: Entry 0 is everything else, entry i the i-th scored structure.
    """

    case_id: str
    reference_file: str
    prediction_file: str
    counts: ClassCounts


@dataclass(frozen=True)
class Failure:
    """A case that could not be scored, and the one line that says why."""

    case_id: str
    message: str


@dataclass(frozen=True)
class DatasetScore:
    """All results of one data set.

    Attributes:
        dataset: What was evaluated.
        matching: Which structures were scored.
        cases: The scored cases.
        failures: The cases that could not be scored.
    """

    dataset: RawDataset
    matching: Matching
    cases: tuple[CaseScore, ...]
    failures: tuple[Failure, ...]

    def summarise(self, convention: Convention = dice_per_class) -> DiceSummary:
        """Mean Dice over cases and over structures; entry 0 of each array is everything else."""
        rows = [convention(case.counts) for case in self.cases]
        return summarise_dice(np.array(rows).reshape(len(rows), len(self.matching.scored) + 1))

    def dice(self) -> dict[str, float]:
        """Mean Dice over cases of each scored structure."""
        means = self.summarise().per_class[1:].tolist()
        return {s.name: mean for s, mean in zip(self.matching.scored, means, strict=True)}

    def foreground_mean(self) -> float:
        """Mean of `dice` over structures: every structure weighs the same."""
        return self.summarise().foreground_mean


def metrics(counts: ClassCounts, entry: int) -> dict[str, float]:
    """Return nnU-Net's metrics of one entry of the counts, under nnU-Net's names."""
    tp, fp, fn = (int(array[entry]) for array in (counts.tp, counts.fp, counts.fn))
    union = tp + fp + fn
    return {
        "Dice": float(dice_per_class(counts)[entry]),
        "IoU": tp / union if union else float("nan"),
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": int(counts.n_ref.sum()) - union,
        "n_ref": tp + fn,
        "n_pred": tp + fp,
    }


def write_cases_csv(path: Path, score: DatasetScore) -> None:
    """Write a row per case and structure; Dice and IoU are empty where they are undefined."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("case", "structure", "target_value", "bundle_value", *METRICS))
    for case in score.cases:
        for entry, structure in enumerate(score.matching.scored, start=1):
            values = metrics(case.counts, entry)
            cells = ["" if np.isnan(values[name]) else values[name] for name in METRICS]
            table.writerow((case.case_id, *astuple(structure), *cells))
    atomic_write_text(path, text.getvalue())


def write_summary(path: Path, score: DatasetScore, bundle: Bundle) -> None:
    """Write `summary.json`. NaN is written as nnU-Net writes it, which strict JSON does not know.

    Keys of structures are the data set's label values.
    """
    keys = [str(structure.target_value) for structure in score.matching.scored]
    per_case = [
        {key: metrics(case.counts, entry) for entry, key in enumerate(keys, start=1)}
        for case in score.cases
    ]
    mean = {key: _mean([values[key] for values in per_case]) for key in keys}
    summary = {
        "foreground_mean": _mean(list(mean.values())),
        "mean": mean,
        "metric_per_case": [
            {
                "metrics": values,
                "prediction_file": case.prediction_file,
                "reference_file": case.reference_file,
            }
            for case, values in zip(score.cases, per_case, strict=True)
        ],
        "stunet": _ours(score, bundle),
    }
    atomic_write_text(path, json.dumps(summary, indent=1) + "\n")


def _ours(score: DatasetScore, bundle: Bundle) -> dict[str, Any]:
    by_nnunet, where_present = score.summarise(), score.summarise(dice_where_present)
    return {
        "version": __version__,
        "dataset": score.dataset.name,
        "dataset_licence": score.dataset.licence,
        "bundle": bundle.folder.name,
        "bundle_sha256": bundle.sha256,
        "trained_on": [source.name for source in bundle.provenance.data],
        "foreground_mean": {
            "Dice": by_nnunet.foreground_mean,
            "Dice_where_present": where_present.foreground_mean,
        },
        "structures": {
            s.name: {
                "target_value": s.target_value,
                "bundle_value": s.bundle_value,
                "Dice": float(by_nnunet.per_class[i]),
                "Dice_where_present": float(where_present.per_class[i]),
                "cases": int(by_nnunet.scored_cases[i]),
                "cases_where_present": int(where_present.scored_cases[i]),
            }
            for i, s in enumerate(score.matching.scored, start=1)
        },
        "not_scored": dict(score.matching.unscored),
        "failed_cases": {failure.case_id: failure.message for failure in score.failures},
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric without NaN; NaN where nothing else is there."""
    defined = {name: [r[name] for r in rows if not np.isnan(r[name])] for name in METRICS}
    return {name: float(np.mean(v)) if v else float("nan") for name, v in defined.items()}
