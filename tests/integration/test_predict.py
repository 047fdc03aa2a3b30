"""`stunet predict` as a user runs it, on real scans with a bundle of random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from launch.predict import PredictOptions, predict_scans
from stunet.bundle import DataSource, Provenance, load_predictor, write_bundle
from stunet.errors import ConfigError, DataError
from stunet.inference.outputs import Outputs
from stunet.inference.predictor import Wish
from stunet.io.volume import read_image, read_label_table
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing

LABELS = {"background": 0, "head": 1, "body": 2, "left/right tail": 3}
SCANS = ("hippocampus_001", "hippocampus_003", "hippocampus_004")


def make_bundle(folder: Path, seed: int = 0) -> Path:
    strides = ((2, 2, 2),) * 4 + ((1, 1, 2),)
    model = ModelConfig(size="XS", in_channels=1, classes=4, strides=strides)
    preprocessing = Preprocessing((2.0, 2.0, 2.0), (32, 32, 32), (Channel("MR", "zscore"),))
    provenance = Provenance(
        "Apache-2.0", (DataSource("none", "none", 0, ""),), {}, None, 0, {}, {"torch": "0"}
    )
    weights = build_model(model, seed=seed).state_dict()
    return write_bundle(folder, model, preprocessing, LABELS, weights, provenance)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "random")


@pytest.fixture
def scans(shared_data, tmp_path) -> Path:
    """A folder of three real scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in SCANS:
        shutil.copy(
            shared_data / "finetune" / "hippocampus_mr" / "images" / f"{name}.nii.gz", folder
        )
    return folder


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()
    }


def stunet(
    *arguments: str | Path, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "launch.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip


def test_a_folder_with_statistics_and_pictures(bundle, scans, tmp_path):
    out = tmp_path / "out"
    run = stunet("predict", bundle, scans, "--out", out, "--preview")
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[-1].startswith("predict: 3/3")
    endings = (".nii.gz", ".png", ".statistics.json")
    assert set(stamps(out)) == {name + ending for name in SCANS for ending in endings}
    predictor = load_predictor(bundle)
    for name in SCANS:
        source, written = nib.load(scans / f"{name}.nii.gz"), nib.load(out / f"{name}.nii.gz")
        assert np.array_equal(written.affine, source.affine)
        labels = np.asarray(written.dataobj)
        volume = read_image(scans / f"{name}.nii.gz")
        assert np.array_equal(labels.T, predictor.predict_volume(volume))
        assert read_label_table(out / f"{name}.nii.gz") == LABELS
        structures = json.loads((out / f"{name}.statistics.json").read_text())["structures"]
        voxel_ml = np.prod(source.header.get_zooms()[:3]) / 1000
        for structure, value in LABELS.items():
            if value and (labels == value).any():
                told, values = structures[structure], np.asarray(source.dataobj)[labels == value]
                assert told["volume_ml"] == pytest.approx((labels == value).sum() * voxel_ml)
                assert told["mean_intensity"]["MR"] == pytest.approx(values.mean(), rel=1e-5)


def test_the_same_command_continues_and_never_replaces_what_is_not_its_own(bundle, scans, tmp_path):
    outputs, options = Outputs(tmp_path / "out"), PredictOptions()
    first = sorted(scans.iterdir())[:1]
    predict_scans(bundle, first, outputs, options)
    before = stamps(outputs.folder)
    predict_scans(bundle, [scans], outputs, options)
    after = stamps(outputs.folder)
    assert {name: after[name] for name in before} == before and len(after) == 6
    other = make_bundle(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="3 of 3 scans failed"):
        predict_scans(other, [scans], outputs, options)
    assert stamps(outputs.folder) == after
    predict_scans(other, [scans], outputs, PredictOptions(overwrite=True))
    replaced = stamps(outputs.folder)
    assert set(replaced) == set(after)
    assert all(replaced[name] > after[name] for name in after)
    predict_scans(other, [scans], Outputs(outputs.folder, preview=True), options)
    assert len(list(outputs.folder.glob("*.png"))) == 3  # what was not wanted before is added


def test_a_killed_run_leaves_nothing_that_counts_as_finished(bundle, scans, tmp_path):
    outputs = Outputs(tmp_path / "out")
    predict_scans(bundle, [scans], outputs, PredictOptions())
    complete = {p.name: p.read_bytes() for p in outputs.folder.glob("*.nii.gz")}
    (outputs.folder / f"{SCANS[1]}.nii.gz").unlink()  # statistics are written first
    predict_scans(bundle, [scans], outputs, PredictOptions())
    assert {p.name: p.read_bytes() for p in outputs.folder.glob("*.nii.gz")} == complete


def test_a_file_per_structure_and_a_subset(bundle, scans, tmp_path):
    whole, apart = Outputs(tmp_path / "whole"), Outputs(tmp_path / "apart", per_structure=True)
    predict_scans(bundle, [scans], whole, PredictOptions())
    options = PredictOptions(wish=Wish(("left/right tail", "head")))
    for _ in range(2):
        predict_scans(bundle, [scans], apart, options)
    for name in SCANS:
        labels = np.asarray(nib.load(whole.folder / f"{name}.nii.gz").dataobj)
        files = {p.name for p in (apart.folder / name).iterdir()}
        assert files == {"head.nii.gz", "left_right tail.nii.gz"}
        for file, value in (("head", 1), ("left_right tail", 3)):
            mask = np.asarray(nib.load(apart.folder / name / f"{file}.nii.gz").dataobj)
            assert np.array_equal(mask, labels == value)
    predict_scans(bundle, [scans], apart, PredictOptions(wish=Wish(("body",)), overwrite=True))
    assert [p.name for p in (apart.folder / SCANS[0]).iterdir()] == ["body.nii.gz"]


def test_what_cannot_be_read_is_listed_after_the_others_are_done(bundle, scans, tmp_path):
    (scans / f"{SCANS[0]}.nii.gz").write_bytes(b"not an image")
    out = tmp_path / "out"
    run = stunet("predict", bundle, scans, tmp_path / "absent.nii.gz", "--out", out)
    assert run.returncode == 2
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [f"{n}.nii.gz" for n in SCANS[1:]]
    *_, absent, bad, summary = run.stderr.splitlines()
    assert absent.startswith("failed: ") and "absent.nii.gz" in absent
    assert bad.startswith("failed: ") and f"{SCANS[0]}.nii.gz" in bad
    assert summary.startswith("stunet: 2 of 4 scans failed")


def test_ranks_share_the_scans_and_tell_failures_once(bundle, scans, tmp_path):
    (scans / "broken.nii.gz").write_bytes(b"")
    launcher = ("torch.distributed.run", "--nproc-per-node=2", "--standalone")
    out = tmp_path / "out"
    run = stunet("predict", bundle, scans, "--out", out, launcher=launcher)
    assert run.returncode != 0
    assert run.stderr.count("failed: ") == 1 and run.stderr.count("1 of 4 scans failed") == 1
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [f"{n}.nii.gz" for n in SCANS]
    before = stamps(out)
    (scans / "broken.nii.gz").unlink()
    assert stunet("predict", bundle, scans, "--out", out).returncode == 0
    assert stamps(out) == before  # all are finished, by whichever rank


def test_a_wrong_structure_is_told_before_any_work(bundle, scans, tmp_path):
    with pytest.raises(ConfigError, match="'tail'"):
        predict_scans(
            bundle, [scans], Outputs(tmp_path / "out"), PredictOptions(wish=Wish(("tail",)))
        )
    assert not (tmp_path / "out").exists()


def test_dicom_segmentation_of_what_is_no_series_is_a_failure_of_that_scan(bundle, scans, tmp_path):
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    with pytest.raises(DataError, match="3 of 3 scans failed"):
        predict_scans(bundle, [scans], Outputs(tmp_path / "out", dicom_seg=True), PredictOptions())
    assert not list((tmp_path / "out").iterdir())


def test_a_machine_without_memory_for_one_scan_goes_on(bundle, scans, tmp_path):
    huge = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4))
    header = huge.header.copy()
    header.set_data_shape((30000, 30000, 30000))
    with (scans / "huge.nii").open("wb") as file:
        header.write_to(file)
    with pytest.raises(DataError, match="1 of 4 scans failed"):
        predict_scans(bundle, [scans], Outputs(tmp_path / "out"), PredictOptions())
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
