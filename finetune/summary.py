"""The two files that tell scores: `summary.json` per data set and `cases.csv` for a whole run.

`summary.json` has the shape of nnU-Net's, so that what reads those reads ours, with NSD and HD95
beside nnU-Net's metrics and one more key, `stunet`: names, intervals, both Dice conventions, what
was not scored and why, and what was evaluated.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from finetune.scores import CaseScore, DatasetScore, Means
from stunet import __version__
from stunet.bundle import Bundle
from stunet.io.atomic import atomic_write_text

METRICS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_ref", "n_pred", "NSD", "HD95_mm")
COLUMNS = (
    *("dataset", "case", "class", "group", "dice", "nsd", "hd95_mm"),
    *("n_ref", "n_pred", "ref_ml", "pred_ml"),
)


def case_metrics(case: CaseScore, entry: int) -> dict[str, float]:
    """Return nnU-Net's metrics of the i-th scored structure, i from 1, then NSD and HD95."""
    counts, surface = case.counts, case.surfaces[entry - 1]
    tp, fp, fn = (int(array[entry]) for array in (counts.tp, counts.fp, counts.fn))
    union = tp + fp + fn
    return {
        "Dice": float(case.values("Dice")[entry - 1]),
        "IoU": tp / union if union else float("nan"),
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": int(counts.n_ref.sum()) - union,
        "n_ref": tp + fn,
        "n_pred": tp + fp,
        "NSD": float(surface.nsd),
        "HD95_mm": float(surface.hd95_mm),
    }


def write_cases_csv(path: Path, scores: Iterable[DatasetScore]) -> None:
    """Write a row per case and structure; a score is empty where it is undefined."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for score in scores:
        for case in score.cases:
            for entry, structure in enumerate(score.matching.scored, start=1):
                m = case_metrics(case, entry)
                table.writerow(
                    (
                        *(score.dataset.name, case.case_id, structure.name, structure.group),
                        *("" if np.isnan(m[k]) else m[k] for k in ("Dice", "NSD", "HD95_mm")),
                        *(m["n_ref"], m["n_pred"]),
                        *(f"{m[k] * case.voxel_ml:.6g}" for k in ("n_ref", "n_pred")),
                    )
                )
    atomic_write_text(path, text.getvalue())


def write_summary(
    path: Path, score: DatasetScore, bundle: Bundle, settings: Mapping[str, Any]
) -> None:
    """Write `summary.json`. NaN is written as nnU-Net writes it, which strict JSON does not know.

    Keys of structures are the data set's label values, as in nnU-Net; "(1, 2)" where two are one.

    Args:
        path: The file to write.
        score: What to tell.
        bundle: What was evaluated.
        settings: How it was: tolerance and seed.
    """
    keys = [structure.key for structure in score.matching.scored]
    per_case = [
        {key: case_metrics(case, entry) for entry, key in enumerate(keys, start=1)}
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
        "stunet": _ours(score, bundle, settings),
    }
    atomic_write_text(path, json.dumps(summary, indent=1) + "\n")


def _ours(score: DatasetScore, bundle: Bundle, settings: Mapping[str, Any]) -> dict[str, Any]:
    published = score.matching.crosswalk.published
    return {
        "version": __version__,
        "dataset": score.dataset.name,
        "dataset_licence": score.dataset.licence,
        "bundle": bundle.folder.name,
        "bundle_sha256": bundle.sha256,
        "trained_on": [source.name for source in bundle.provenance.data],
        "crosswalk": score.matching.crosswalk.title,
        **settings,
        "foreground_mean": _plain(score.means.overall),
        "groups": {name: _plain(means) for name, means in score.means.groups.items()},
        "structures": {
            s.name: {
                "group": s.group,
                "relation": s.relation,
                "targets": dict(zip(s.targets, s.target_values, strict=True)),
                "sources": dict(zip(s.sources, s.bundle_values, strict=True)),
                **_plain(score.means.structures[s.name]),
            }
            for s in score.matching.scored
        },
        "published": asdict(published) if published else None,
        "not_scored": dict(score.matching.unscored),
        "failed_cases": {case.case_id: case.message for case in score.failures},
        "skipped_cases": {case.case_id: case.message for case in score.skipped},
    }


def _plain(means: Means) -> dict[str, dict[str, float]]:
    """Mean, ends of the interval and number of cases per metric."""
    return {metric: asdict(interval) for metric, interval in means.items()}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric without NaN; NaN where nothing else is there."""
    defined = {name: [r[name] for r in rows if not np.isnan(r[name])] for name in METRICS}
    return {name: float(np.mean(v)) if v else float("nan") for name, v in defined.items()}
