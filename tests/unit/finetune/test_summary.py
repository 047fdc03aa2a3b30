"""Two tiny cases whose every number is worked out by hand."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.matching import match_labels
from finetune.scores import CaseScore, DatasetScore, LeftOut, summarise
from finetune.summary import case_metrics, write_cases_csv, write_summary
from stunet.bundle import Bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.metrics.dice import ClassCounts
from stunet.metrics.surface import SurfaceScores
from stunet.models.spec import ModelConfig
from stunet.types import Channel, Preprocessing, RawDataset

LABELS = {"background": 0, "liver": 4, "aorta": 7}
SPLEEN_TOO = LABELS | {"spleen": 9}
SETTINGS = {"tolerance_mm": 2.0, "seed": 0}


def counts(tp: list[int], n_pred: list[int], n_ref: list[int]) -> ClassCounts:
    return ClassCounts(np.array(tp), np.array(n_pred), np.array(n_ref))


@pytest.fixture
def score() -> DatasetScore:
    dataset = RawDataset("Toy", "pairs", ("CT",), SPLEEN_TOO, None, (), licence="CC0-1.0")
    # 100 voxels each: everything else, liver, aorta.
    first = counts([80, 8, 0], [90, 10, 0], [84, 16, 0])  # no aorta in either map
    second = counts([60, 20, 0], [66, 30, 4], [70, 30, 0])  # an aorta that is not annotated
    neither = SurfaceScores(math.nan, math.nan)
    seen = (SurfaceScores(0.5, 4.0), neither), (SurfaceScores(0.7, 6.0), SurfaceScores(0, math.nan))
    matching = match_labels(SPLEEN_TOO, {"background": 0, "liver": 1, "aorta": 2})
    cases = (
        CaseScore("a", "labels/a.nii.gz", "out/a.nii.gz", first, seen[0], voxel_ml=0.5),
        CaseScore("b", "labels/b.nii.gz", "out/b.nii.gz", second, seen[1], voxel_ml=0.5),
    )
    return DatasetScore(
        dataset,
        matching,
        cases,
        failures=(LeftOut("c", "labels/c.nii.gz: is empty; replace it"),),
        skipped=(LeftOut("d", "has no reference"),),
        means=summarise(matching, cases, seed=0),
    )


@pytest.fixture
def bundle() -> Bundle:
    strides = ((2, 2, 2),) * 5
    provenance = Provenance(
        licence="Apache-2.0",
        data=(DataSource("Other", "CC0-1.0", 3, "00"),),
        recipe={},
        commit=None,
        step=1,
        metrics={},
        versions={},
    )
    return Bundle(
        folder=Path("models/toy"),
        model=ModelConfig(in_channels=1, classes=3, strides=strides),
        preprocessing=Preprocessing((1.5, 1.5, 1.5), (64, 64, 64), (Channel("CT", "zscore"),)),
        labels={"background": 0, "liver": 1, "aorta": 2},
        provenance=provenance,
        sha256="ab" * 32,
        weight_files=("model.safetensors",),
    )


def test_metrics_of_one_structure(score):
    assert case_metrics(score.cases[0], 1) == {
        "Dice": pytest.approx(16 / 26),
        "IoU": pytest.approx(8 / 18),
        "TP": 8,
        "FP": 2,
        "FN": 8,
        "TN": 82,
        "n_ref": 16,
        "n_pred": 10,
        "NSD": 0.5,
        "HD95_mm": 4.0,
    }


def test_means_of_both_conventions(score, bundle, tmp_path):
    write_summary(tmp_path / "summary.json", score, bundle, SETTINGS)
    summary = json.loads((tmp_path / "summary.json").read_text())
    liver = (16 / 26 + 40 / 60) / 2
    assert summary["mean"]["4"]["Dice"] == pytest.approx(liver)
    assert summary["mean"]["7"]["Dice"] == 0  # the second case only
    assert summary["foreground_mean"]["Dice"] == pytest.approx(liver / 2)
    assert summary["mean"]["4"]["TP"] == 14
    assert summary["foreground_mean"]["NSD"] == pytest.approx((0.6 + 0) / 2)
    ours = summary["stunet"]
    aorta = ours["structures"]["aorta"]
    assert aorta["Dice"]["n"] == 1 and aorta["Dice_where_present"]["n"] == 0
    assert math.isnan(aorta["Dice_where_present"]["mean"])
    assert ours["foreground_mean"]["Dice"]["mean"] == pytest.approx(liver / 2)
    assert ours["foreground_mean"]["Dice_where_present"]["mean"] == pytest.approx(liver)
    assert ours["groups"]["organs"] == ours["foreground_mean"]
    assert ours["structures"]["liver"]["HD95_mm"]["mean"] == 5
    assert score.dice() == {"liver": pytest.approx(liver), "aorta": 0}
    assert score.foreground_mean() == pytest.approx(liver / 2)


def test_summary_has_the_shape_of_nnunet_and_tells_what_is_missing(score, bundle, tmp_path):
    write_summary(tmp_path / "summary.json", score, bundle, SETTINGS)
    summary = json.loads((tmp_path / "summary.json").read_text())
    names = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_ref", "n_pred"}
    assert names <= set(summary["foreground_mean"])
    assert set(summary["mean"]) == {"4", "7"}
    first, second = summary["metric_per_case"]
    assert (first["reference_file"], first["prediction_file"]) == (
        "labels/a.nii.gz",
        "out/a.nii.gz",
    )
    assert set(second["metrics"]) == {"4", "7"} and names <= set(second["metrics"]["4"])
    assert math.isnan(first["metrics"]["7"]["Dice"]) and second["metrics"]["7"]["Dice"] == 0
    ours = summary["stunet"]
    assert ours["failed_cases"] == {"c": "labels/c.nii.gz: is empty; replace it"}
    assert ours["skipped_cases"] == {"d": "has no reference"}
    assert "no class 'spleen'" in ours["not_scored"]["spleen"]
    assert ours["bundle_sha256"] == "ab" * 32 and ours["trained_on"] == ["Other"]
    assert ours["tolerance_mm"] == 2.0


def test_a_row_per_case_and_structure(score, tmp_path):
    write_cases_csv(tmp_path / "cases.csv", [score])
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["case"], row["class"]) for row in rows] == [
        ("Toy", "a", "liver"),
        ("Toy", "a", "aorta"),
        ("Toy", "b", "liver"),
        ("Toy", "b", "aorta"),
    ]
    assert float(rows[0]["dice"]) == 16 / 26
    assert float(rows[0]["ref_ml"]) == 8 and float(rows[0]["pred_ml"]) == 5
    assert (rows[1]["dice"], rows[1]["nsd"], rows[1]["hd95_mm"]) == ("", "", "")
    assert float(rows[3]["dice"]) == 0 and rows[0]["group"] == "organs"


def test_no_scored_case_gives_nan_and_no_warning(score, bundle, tmp_path):
    means = summarise(score.matching, (), seed=0)
    nothing = replace(score, cases=(), means=means)
    write_cases_csv(tmp_path / "cases.csv", [nothing])
    write_summary(tmp_path / "summary.json", nothing, bundle, SETTINGS)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert math.isnan(summary["foreground_mean"]["Dice"]) and math.isnan(nothing.foreground_mean())
    assert len((tmp_path / "cases.csv").read_text().splitlines()) == 1
