"""From a bundle with random weights and real scans to scores, checked with nibabel and numpy."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from finetune.transfer import TransferOptions, choose_cases, transfer
from stunet.bundle import DataSource, Provenance, read_bundle, write_bundle
from stunet.errors import ConfigError, DataError
from stunet.inference.predictor import WindowOptions
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing, RawCase, RawDataset

# In another order than the data set's, with a structure that it has not.
BUNDLE_LABELS = {"background": 0, "posterior hippocampus": 1, "brainstem": 2, "amygdala": 3}
PICKED = ("hippocampus_001", "hippocampus_003")


def make_bundle(folder: Path, seed: int) -> Path:
    model = ModelConfig(
        size="XS", in_channels=1, classes=4, strides=((2, 2, 2),) * 4 + ((1, 1, 2),)
    )
    preprocessing = Preprocessing((1.5, 1.5, 1.5), (32, 32, 32), (Channel("MR", "zscore"),))
    provenance = Provenance(
        licence="Apache-2.0",
        data=(DataSource("none", "none", 0, ""),),
        recipe={},
        commit=None,
        step=0,
        metrics={},
        versions={"torch": torch.__version__},
    )
    weights = build_model(model, seed=seed).state_dict()
    return write_bundle(folder, model, preprocessing, BUNDLE_LABELS, weights, provenance)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "random", seed=0)


@pytest.fixture
def dataset(shared_data, tmp_path) -> RawDataset:
    """Two real cases, copied so that they can be damaged."""
    source = shared_data / "finetune" / "hippocampus_mr"
    labels = json.loads((source / "labels.json").read_text())
    cases = []
    for case_id, split in zip(PICKED, ("val", "test"), strict=True):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(source / kind / f"{case_id}.nii.gz", tmp_path / kind)
        image, label = (tmp_path / k / f"{case_id}.nii.gz" for k in ("images", "labels"))
        cases.append(RawCase(case_id, (str(image),), str(label), split))
    # Named so that one structure is matched by name, one is not.
    names = {"background": 0, "anterior": 1, "posterior hippocampus": 2}
    assert set(labels.values()) == set(names.values())
    return RawDataset("hippocampus", "pairs", ("MR",), names, None, tuple(cases), "CC BY-SA 4.0")


def read_summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "predictions").iterdir()}


def test_scores_are_those_of_the_files_on_disk(bundle, dataset, tmp_path):
    seen = []
    (score,) = transfer(
        bundle, [dataset], tmp_path / "out", on_progress=lambda *args: seen.append(args)
    )
    assert seen == [(1, 2, PICKED[0]), (2, 2, PICKED[1])]
    folder = tmp_path / "out" / "hippocampus"
    summary = read_summary(folder)
    assert len(summary["metric_per_case"]) == 2
    dice = []
    for case, entry in zip(dataset.cases, summary["metric_per_case"], strict=True):
        written, reference = nib.load(entry["prediction_file"]), nib.load(case.label)
        assert written.shape == reference.shape
        assert np.array_equal(written.affine, nib.load(case.images[0]).affine)
        found = np.asarray(written.dataobj) == BUNDLE_LABELS["posterior hippocampus"]
        truth = np.asarray(reference.dataobj) == dataset.labels["posterior hippocampus"]
        expected = entry["metrics"]["2"]
        assert expected["TP"] == (found & truth).sum()
        assert expected["FP"] == (found & ~truth).sum()
        assert expected["FN"] == (truth & ~found).sum()
        assert expected["TN"] == (~truth & ~found).sum()
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        assert expected["Dice"] == pytest.approx(dice[-1])
        assert found.any() and not found.all()
    assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(dice))
    assert score.foreground_mean() == pytest.approx(np.mean(dice))
    assert set(summary["stunet"]["not_scored"]) == {"anterior"}
    assert len((tmp_path / "out" / "cases.csv").read_text().splitlines()) == 3


def test_the_same_call_again_predicts_nothing_and_scores_the_same(bundle, dataset, tmp_path):
    folder = tmp_path / "out" / "hippocampus"
    transfer(bundle, [dataset], tmp_path / "out", TransferOptions(only="val"))
    first = stamps(folder)
    assert set(first) == {"hippocampus_001.nii.gz", "hippocampus_001.json"}
    transfer(bundle, [dataset], tmp_path / "out")
    text = (folder / "summary.json").read_bytes()
    assert {name: stamps(folder)[name] for name in first} == first
    before = stamps(folder)
    transfer(bundle, [dataset], tmp_path / "out")
    assert stamps(folder) == before
    assert (folder / "summary.json").read_bytes() == text


@pytest.mark.parametrize("changed", ["bundle", "prediction", "window", "image"])
def test_a_prediction_of_other_making_is_not_reused(changed, bundle, dataset, tmp_path):
    out = tmp_path / "out"
    first = TransferOptions(only=[PICKED[0]])
    transfer(bundle, [dataset], out, first)
    target = out / "hippocampus" / "predictions" / f"{PICKED[0]}.nii.gz"
    os.utime(target, ns=(0, 0))
    window = first.window
    if changed == "bundle":
        bundle = make_bundle(tmp_path / "other", seed=1)
    elif changed == "prediction":
        target.write_bytes(target.read_bytes() + b"\0")
    elif changed == "window":
        window = WindowOptions(step=1.0)
    else:
        shutil.copy(dataset.cases[1].images[0], dataset.cases[0].images[0])
        shutil.copy(dataset.cases[1].label, dataset.cases[0].label)
    transfer(bundle, [dataset], out, replace(first, window=window))
    assert target.stat().st_mtime_ns > 10**18


def test_a_failing_case_is_reported_and_the_others_finish(bundle, dataset, tmp_path):
    Path(dataset.cases[0].images[0]).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1 of 2 cases failed.*hippocampus_001") as caught:
        transfer(bundle, [dataset], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert PICKED[0] in (tmp_path / "out" / "report.html").read_text()
    summary = read_summary(tmp_path / "out" / "hippocampus")
    assert set(summary["stunet"]["failed_cases"]) == {PICKED[0]}
    assert [Path(c["prediction_file"]).name for c in summary["metric_per_case"]] == [
        f"{PICKED[1]}.nii.gz"
    ]


def test_ignored_voxels_are_not_scored(bundle, dataset, tmp_path):
    case = dataset.cases[0]
    reference = nib.load(case.label)
    marked = np.asarray(reference.dataobj).astype(np.uint8)
    marked[: marked.shape[0] // 2] = 9
    nib.save(nib.Nifti1Image(marked, reference.affine), case.label)
    options = TransferOptions(only=[case.case_id])
    (score,) = transfer(bundle, [replace(dataset, ignore_label=9)], tmp_path / "out", options)
    assert score.cases[0].counts.n_ref.sum() == (marked != 9).sum()
    assert score.cases[0].counts.n_ref[1] == (marked == 2).sum()


def test_what_cannot_be_scored_is_refused_before_any_work(bundle, dataset, tmp_path):
    foreign = replace(dataset, labels={"background": 0, "femur": 1})
    with pytest.raises(DataError, match="none of its structures"):
        transfer(bundle, [foreign], tmp_path / "out")
    with pytest.raises(DataError, match="two have one name"):
        transfer(bundle, [dataset, dataset], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_choice_of_cases(dataset):
    assert choose_cases(dataset, "all") == dataset.cases
    assert choose_cases(dataset, "test") == dataset.cases[1:]
    assert choose_cases(dataset, [PICKED[1]]) == dataset.cases[1:]
    for only, word in (("train", "no train"), ("trial", "choose all"), (["x"], "no case x")):
        with pytest.raises(DataError, match=word):
            choose_cases(dataset, only)


def test_the_bundle_of_a_transfer_can_be_given_read(bundle, dataset, tmp_path):
    options = TransferOptions(only="val")
    (score,) = transfer(read_bundle(bundle), [dataset], tmp_path / "out", options)
    assert [case.case_id for case in score.cases] == [PICKED[0]]


def test_label_maps_are_removed_once_all_is_told(bundle, dataset, tmp_path):
    options = TransferOptions(only="val", keep_predictions=False)
    transfer(bundle, [dataset], tmp_path / "out", options)
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"summary.json", "cases.csv", "report.html"}


def test_a_case_without_reference_is_skipped_and_said(bundle, dataset, tmp_path):
    first, second = dataset.cases
    some = replace(dataset, cases=(first, replace(second, label=None)))
    (score,) = transfer(bundle, [some], tmp_path / "out")
    assert [case.case_id for case in score.cases] == [PICKED[0]]
    summary = read_summary(tmp_path / "out" / "hippocampus")
    assert summary["stunet"]["skipped_cases"] == {PICKED[1]: "has no reference"}


def test_a_structure_that_a_case_does_not_annotate_is_not_scored(bundle, dataset, tmp_path):
    case = dataset.cases[0]
    reference = nib.load(case.label)
    kept = np.asarray(reference.dataobj).astype(np.uint8)
    kept[kept == 2] = 0
    nib.save(nib.Nifti1Image(kept, reference.affine), case.label)
    some = replace(dataset, cases=(replace(case, annotated=("anterior",)), dataset.cases[1]))
    (score,) = transfer(bundle, [some], tmp_path / "out")
    assert np.isnan(score.cases[0].mean_dice()) and np.isfinite(score.cases[1].mean_dice())


def test_a_crosswalk_joins_and_renames(bundle, dataset, tmp_path):
    """Both parts of the reference against both of ours, from a file of the user."""
    own = tmp_path / "own.yaml"
    own.write_text(
        "title: Whole\nclasses:\n"
        "  anterior: {part_of: [posterior hippocampus, amygdala]}\n"
        "  posterior hippocampus: {part_of: [amygdala, posterior hippocampus]}\n"
    )
    options = TransferOptions(only="val", crosswalks=(f"hippocampus={own}",))
    (score,) = transfer(bundle, [dataset], tmp_path / "out", options)
    (whole,) = score.matching.scored
    assert (whole.target_values, whole.bundle_values) == ((1, 2), (1, 3))
    summary = read_summary(tmp_path / "out" / "hippocampus")
    reference = np.asarray(nib.load(dataset.cases[0].label).dataobj)
    written = np.asarray(nib.load(summary["metric_per_case"][0]["prediction_file"]).dataobj)
    found = np.isin(written, (1, 3))
    entry = summary["metric_per_case"][0]["metrics"]["(1, 2)"]
    assert entry["n_ref"] == (reference > 0).sum() and entry["n_pred"] == found.sum()
    assert entry["TP"] == (found & (reference > 0)).sum()


def test_a_crosswalk_with_an_unknown_name_stops_before_any_work(bundle, dataset, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("title: T\nclasses: {anterior: {equal: amygdalla}}\n")
    with pytest.raises(ConfigError, match=r"'amygdalla'.*'amygdala'"):
        transfer(bundle, [dataset], tmp_path / "out", TransferOptions(crosswalks=(str(own),)))
    assert not (tmp_path / "out").exists()
