"""Two tiny cases whose every number is worked out by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from finetune.matching import match_labels
from finetune.summary import (
    CaseScore,
    DatasetScore,
    Failure,
    metrics,
    write_cases_csv,
    write_summary,
)
from stunet.bundle import Bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.metrics.dice import ClassCounts
from stunet.models.spec import ModelConfig
from stunet.types import Channel, Preprocessing, RawDataset

LABELS = {"background": 0, "liver": 4, "aorta": 7}
SPLEEN_TOO = LABELS | {"spleen": 9}


def counts(tp: list[int], n_pred: list[int], n_ref: list[int]) -> ClassCounts:
    return ClassCounts(np.array(tp), np.array(n_pred), np.array(n_ref))


@pytest.fixture
def score() -> DatasetScore:
    dataset = RawDataset("Toy", "pairs", ("CT",), SPLEEN_TOO, None, (), licence="CC0-1.0")
    # 100 voxels each: everything else, liver, aorta.
    first = counts([80, 8, 0], [90, 10, 0], [84, 16, 0])  # no aorta in either map
    second = counts([60, 20, 0], [66, 30, 4], [70, 30, 0])  # an aorta that is not annotated
    return DatasetScore(
        dataset,
        match_labels(SPLEEN_TOO, {"background": 0, "liver": 1, "aorta": 2}),
        cases=(
            CaseScore("a", "labels/a.nii.gz", "out/a.nii.gz", first),
            CaseScore("b", "labels/b.nii.gz", "out/b.nii.gz", second),
        ),
        failures=(Failure("c", "labels/c.nii.gz: is empty; replace it"),),
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
    assert metrics(score.cases[0].counts, 1) == {
        "Dice": pytest.approx(16 / 26),
        "IoU": pytest.approx(8 / 18),
        "TP": 8,
        "FP": 2,
        "FN": 8,
        "TN": 82,
        "n_ref": 16,
        "n_pred": 10,
    }


def test_means_of_both_conventions(score, bundle, tmp_path):
    write_summary(tmp_path / "summary.json", score, bundle)
    summary = json.loads((tmp_path / "summary.json").read_text())
    liver = (16 / 26 + 40 / 60) / 2
    assert summary["mean"]["4"]["Dice"] == pytest.approx(liver)
    assert summary["mean"]["7"]["Dice"] == 0  # the second case only
    assert summary["foreground_mean"]["Dice"] == pytest.approx(liver / 2)
    assert summary["mean"]["4"]["TP"] == 14
    ours = summary["stunet"]
    assert ours["structures"]["aorta"]["cases"] == 1
    assert ours["structures"]["aorta"]["cases_where_present"] == 0
    assert math.isnan(ours["structures"]["aorta"]["Dice_where_present"])
    assert ours["foreground_mean"] == {
        "Dice": pytest.approx(liver / 2),
        "Dice_where_present": pytest.approx(liver),
    }
    assert score.dice() == {"liver": pytest.approx(liver), "aorta": 0}
    assert score.foreground_mean() == pytest.approx(liver / 2)


def test_summary_has_the_shape_of_nnunet_and_tells_what_is_missing(score, bundle, tmp_path):
    write_summary(tmp_path / "summary.json", score, bundle)
    summary = json.loads((tmp_path / "summary.json").read_text())
    names = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_ref", "n_pred"}
    assert set(summary["foreground_mean"]) == names
    assert set(summary["mean"]) == {"4", "7"}
    first, second = summary["metric_per_case"]
    assert (first["reference_file"], first["prediction_file"]) == (
        "labels/a.nii.gz",
        "out/a.nii.gz",
    )
    assert set(second["metrics"]) == {"4", "7"} and set(second["metrics"]["4"]) == names
    assert math.isnan(first["metrics"]["7"]["Dice"]) and second["metrics"]["7"]["Dice"] == 0
    ours = summary["stunet"]
    assert ours["failed_cases"] == {"c": "labels/c.nii.gz: is empty; replace it"}
    assert "no class of this name" in ours["not_scored"]["spleen"]
    assert ours["bundle_sha256"] == "ab" * 32 and ours["trained_on"] == ["Other"]


def test_a_row_per_case_and_structure(score, tmp_path):
    write_cases_csv(tmp_path / "cases.csv", score)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows] == [
        ("a", "liver"),
        ("a", "aorta"),
        ("b", "liver"),
        ("b", "aorta"),
    ]
    assert rows[0]["target_value"] == "4" and rows[0]["bundle_value"] == "1"
    assert float(rows[0]["Dice"]) == 16 / 26
    assert rows[1]["Dice"] == "" and float(rows[3]["Dice"]) == 0


def test_no_scored_case_gives_nan_and_no_warning(score, bundle, tmp_path):
    nothing = DatasetScore(score.dataset, score.matching, (), score.failures)
    write_cases_csv(tmp_path / "cases.csv", nothing)
    write_summary(tmp_path / "summary.json", nothing, bundle)
    assert math.isnan(nothing.foreground_mean())
    assert len((tmp_path / "cases.csv").read_text().splitlines()) == 1
