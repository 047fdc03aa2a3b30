"""`stunet transfer` as a user types it, on real scans that no part of the bundle has seen."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from data_tools.ingest import ingest
from finetune.transfer import TransferOptions, transfer
from stunet.bundle import DataSource, Provenance, write_bundle
from stunet.inference.predictor import WindowOptions
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing

LABELS = {"background": 0, "spinal_cord": 1, "esophagus": 2, "mandible": 3}


def stunet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", "transfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def random_bundle(folder: Path, seed: int) -> Path:
    strides = ((2, 2, 2),) * 3 + ((1, 1, 1),) * 2
    model = ModelConfig(size="XS", in_channels=1, classes=len(LABELS), strides=strides)
    provenance = Provenance(
        licence="Apache-2.0",
        data=(DataSource("none", "none", 0, ""),),
        recipe={},
        commit=None,
        step=0,
        metrics={},
        versions={"torch": torch.__version__},
    )
    preprocessing = Preprocessing((8.0, 8.0, 8.0), (32, 32, 32), (Channel("image", "zscore"),))
    weights = build_model(model, seed=seed).state_dict()
    return write_bundle(folder, model, preprocessing, LABELS, weights, provenance)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return random_bundle(folder / "first", 0), random_bundle(folder / "second", 1)


@pytest.fixture
def scans(shared_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of spinal-cord MR with unnamed masks, and one of two head-and-neck CT."""
    cord, neck = tmp_path / "cord", tmp_path / "neck"
    for folder in (cord, neck):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True)
    for name, image, mask in (
        ("t2", "t2/t2.nii.gz", "t2/t2_seg-manual.nii.gz"),
        ("t1", "t1/t1w.nii.gz", "t1/t1w_seg-manual.nii.gz"),
    ):
        source = shared_data / "finetune" / "sct_spinalcord_mr"
        shutil.copy(source / image, cord / "images" / f"{name}.nii.gz")
        shutil.copy(source / mask, cord / "labels" / f"{name}.nii.gz")
    source = shared_data / "train_ct" / "openkbp"
    for case in sorted(path.name for path in (source / "images").iterdir())[:2]:
        for kind in ("images", "labels"):
            shutil.copy(source / kind / case, neck / kind)
    shutil.copy(source / "labels.json", neck)
    return cord, neck


def test_from_scans_to_report_and_comparison(bundles, scans, tmp_path):
    cord, neck = scans
    runs = tmp_path / "a", tmp_path / "b"
    for bundle, run in zip(bundles, runs, strict=True):
        done = stunet(bundle, cord, neck, "--crosswalk", "cord=spinal_cord", "--out", run)
        assert done.returncode == 0, done.stderr
        assert "cord: mean Dice 0." in done.stdout and "over 1 structures in 2 cases" in done.stdout
        assert "brainstem: not scored, the bundle has no class" in done.stdout
        assert f"report {run / 'report.html'}" in done.stdout
        assert "cord=spinal_cord" in (run / "report.html").read_text()

    # The numbers are those of the files, whatever orientation they are stored in.
    entry = json.loads((runs[0] / "cord" / "summary.json").read_text())["metric_per_case"][1]
    image, mask, found = (
        nib.load(path)
        for path in (cord / "images/t2.nii.gz", entry["reference_file"], entry["prediction_file"])
    )
    assert np.allclose(found.affine, image.affine) and found.shape == image.shape
    reference = np.asarray(mask.dataobj) > 0
    predicted = np.asarray(found.dataobj) == LABELS["spinal_cord"]
    assert entry["metrics"]["1"]["n_ref"] == reference.sum()
    assert entry["metrics"]["1"]["n_pred"] == predicted.sum()
    assert entry["metrics"]["1"]["TP"] == (reference & predicted).sum()

    compared = stunet("--compare", *runs, "--out", tmp_path / "c")
    assert compared.returncode == 0, compared.stderr
    with (tmp_path / "c" / "comparison.csv").open(newline="") as file:
        rows = {(r["level"], r["dataset"], r["name"]): r for r in csv.DictReader(file)}
    assert rows["class", "neck", "mandible"]["dice_n"] == "2"
    assert rows["dataset", "cord", "cord"]["dice_n"] == "2"


def test_label_maps_without_names_are_read_by_a_crosswalk_of_values(bundles, shared_data, tmp_path):
    raw = ingest(shared_data / "train_ct" / "totalseg")
    options = TransferOptions(
        only=["example_ct"],
        crosswalks=("totalsegmentator_v2",),
        window=WindowOptions(step=1.0),
    )
    (score,) = transfer(bundles[0], [raw], tmp_path / "out", options)
    assert [s.name for s in score.matching.scored] == ["esophagus", "spinal_cord"]
    assert len(score.matching.unscored) == 115
    reference = np.asarray(nib.load(score.cases[0].reference_file).dataobj)
    assert score.cases[0].counts.n_ref[1:].tolist() == [(reference == v).sum() for v in (15, 79)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "o"], ["BUNDLE and DATASET"]),
        (["bundle", "--compare", "a", "b", "--out", "o"], ["two runs and no bundle"]),
        (["--compare", "absent_a", "absent_b", "--out", "o"], ["absent_a", "transfer wrote"]),
    ],
)
def test_a_wrong_call_is_one_line(arguments, words):
    done = stunet(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
