"""From raw folders of several layouts to a store: names, values and sides, seen in world space.

Expected values are read with nibabel at a voxel deep inside a structure, and looked up in the store
by millimetres alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import ndimage

from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from data_tools.verify import verify
from stunet.io.store import Store, open_store

CT, MR = Path("train_ct") / "openkbp", Path("finetune") / "hippocampus_mr"
TOTALSEG = Path("train_ct") / "totalseg"


def config(spacing_mm: float, **settings: Any) -> PrepareConfig:
    plan = PlanConfig(spacing_mm=(spacing_mm,) * 3, patch_size=(32, 32, 32))
    return PrepareConfig(plan=plan, **{"holdout": 0, **settings})


def link(target: Path, *parts: str | Path) -> None:
    place = Path(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save(path: Path, array_xyz: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array_xyz, affine), path)


def deepest_mm(label: Path, value: int) -> np.ndarray:
    """RAS+ mm of the voxel of a structure that lies furthest from its surface."""
    file = nib.load(label)
    inside = np.asarray(file.dataobj) == value
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    padded = np.pad(inside[box], 1)
    depth = ndimage.distance_transform_edt(padded, sampling=file.header.get_zooms())
    place = np.subtract(np.unravel_index(depth.argmax(), depth.shape), 1)
    index = place + [side.start for side in box]
    return nib.affines.apply_affine(file.affine, index)


def label_at(store: Store, case_id: str, mm: np.ndarray) -> int:
    case = [row.case_id for row in store.rows].index(case_id)
    row = store.rows[case]
    x, y, z = np.rint(nib.affines.apply_affine(np.linalg.inv(np.reshape(row.affine, (4, 4))), mm))
    return int(store.read_label(case, (int(z), int(y), int(x)), (1, 1, 1))[0, 0, 0])


def assert_values(store: Store, case_id: str, label: Path, value_of: dict[int, int]) -> None:
    """The store holds `value_of[v]` where the label file holds v."""
    for own, value in value_of.items():
        assert label_at(store, case_id, deepest_mm(label, own)) == value, (case_id, own)


def test_decathlon(shared_data: Path, tmp_path: Path) -> None:
    names = ["hippocampus_001", "hippocampus_003"]
    for name in names:
        for own, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
            link(shared_data / MR / own / f"{name}.nii.gz", tmp_path, folder, f"{name}.nii.gz")
    declared = {
        "name": "Hippocampus",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
    }
    write_json(tmp_path / "dataset.json", declared)
    store = open_store(prepare(ingest(tmp_path), tmp_path / "store", config(1.0)))
    assert store.info.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert (store.info.channels[0].name, store.info.channels[0].scheme) == ("MRI", "zscore")
    for name in names:
        assert_values(store, name, tmp_path / "labelsTr" / f"{name}.nii.gz", {1: 1, 2: 2})
    assert [row.annotated for row in store.rows] == [None, None]
    assert verify(store.root) == []


def test_decathlon_with_channels_in_the_fourth_axis(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((20, 24, 28), np.uint8)
    label[2:12, 4:16, 5:20] = 1
    image = np.stack([label * 100.0, label * 10.0 + 5], axis=3) + rng.random((*label.shape, 1))
    affine = np.diag([-1.0, -1, 1, 1])  # stored LPS
    save(tmp_path / "imagesTr" / "a.nii.gz", image.astype(np.float32), affine)
    save(tmp_path / "labelsTr" / "a.nii.gz", label, affine)
    declared = {
        "modality": {"0": "CT", "1": "T1w"},
        "labels": {"0": "background", "1": "box"},
        "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
    }
    write_json(tmp_path / "dataset.json", declared)
    store = open_store(prepare(ingest(tmp_path), tmp_path / "store", config(1.0)))
    assert [channel.scheme for channel in store.info.channels] == ["ct", "zscore"]
    row = store.rows[0]
    stored = store.read_image(0, (0, 0, 0), row.shape_zyx)
    for channel in range(2):
        physical = stored[channel] * row.scale[channel] + row.offset[channel]
        expected = image[::-1, ::-1, :, channel].T
        assert np.abs(physical - expected).max() <= 0.51 * row.scale[channel]
    assert_values(store, "a", tmp_path / "labelsTr" / "a.nii.gz", {1: 1})


def test_regions_and_ignored_voxels(tmp_path: Path) -> None:
    label = np.zeros((20, 24, 28), np.uint8)
    label[2:12, 4:16, 5:20], label[4:9, 6:11, 7:14], label[16:, :, :] = 1, 2, 3
    for case_id in ("a", "b"):
        image = label + np.random.default_rng(1).random(label.shape).astype(np.float32)
        save(tmp_path / "imagesTr" / f"{case_id}_0000.nii.gz", image, np.eye(4))
        save(tmp_path / "labelsTr" / f"{case_id}.nii.gz", label, np.eye(4))
    declared = {
        "channel_names": {"0": "noNorm"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    write_json(tmp_path / "dataset.json", declared)
    write_json(tmp_path / "splits_final.json", [{}, {"train": ["b"], "val": ["a"]}])
    raw = ingest(tmp_path, fold="1")
    store = open_store(prepare(raw, tmp_path / "store", config(1.0)))
    assert store.info.regions == {"whole": (1, 2), "core": (2,)}
    assert store.info.regions_class_order == (1, 2)
    assert store.info.labels == {"background": 0, "label_1": 1, "core": 2}
    assert (store.info.ignore_label, store.info.channels[0].scheme) == (3, "none")
    assert [row.split for row in store.rows] == ["val", "train"]
    assert np.array_equal(store.read_label(0, (0, 0, 0), (28, 24, 20)), label.T)
    assert 3 not in store.rows[0].foreground
    assert verify(store.root) == []


def test_series_in_patient_folders(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / TOTALSEG
    link(source / "example_ct_dicom", tmp_path, "p1", "dicom")
    link(source / "example_ct_dicom_seg.nii.gz", tmp_path, "p1", "seg.nii.gz")
    stored = np.unique(np.asarray(nib.load(source / "example_ct_dicom_seg.nii.gz").dataobj))
    names = {f"class_{value}": value for value in stored.tolist() if value}
    names["class_1"], names["class_5"] = 1, 5  # spleen and liver of TotalSegmentator v2
    write_json(tmp_path / "labels.json", {**names, "channel_names": ["CT"]})
    store = open_store(prepare(ingest(tmp_path), tmp_path / "store", config(3.0)))
    label = tmp_path / "p1" / "seg.nii.gz"
    assert_values(store, "p1", label, {1: 1, 5: 5, 20: 20})
    affine = np.reshape(store.rows[0].affine, (4, 4))
    spleen, liver = (
        nib.affines.apply_affine(affine, store.foreground(0, value)[:, ::-1]).mean(axis=0)
        for value in (1, 5)
    )
    assert spleen[0] < liver[0] - 50  # mm to the left; x grows to the right
    assert store.info.channels[0].scheme == "ct"


def test_bids_in_an_unusual_orientation(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "finetune" / "sct_spinalcord_mr" / "t2"
    link(source / "t2.nii.gz", tmp_path, "sub-01", "anat", "sub-01_T2w.nii.gz")
    label = tmp_path / "derivatives" / "manual" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    link(source / "t2_seg-manual.nii.gz", label)
    write_json(tmp_path / "dataset_description.json", {"Name": "spine", "License": "MIT"})
    (tmp_path / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n1\tcord\n")
    store = open_store(prepare(ingest(tmp_path), tmp_path / "store", config(1.0)))
    assert nib.aff2axcodes(nib.load(label).affine) == ("P", "S", "R")
    assert (store.info.labels, store.info.licence) == ({"background": 0, "cord": 1}, "MIT")
    assert_values(store, "sub-01", label, {1: 1})
    assert store.rows[0].voxel_counts[1] == pytest.approx(
        int(np.asarray(nib.load(label).dataobj).sum())
        * np.prod(nib.load(label).header.get_zooms()[:3]),
        rel=0.03,
    )


@pytest.fixture
def united(shared_data: Path, tmp_path: Path) -> Path:
    """Two head-and-neck CT with seven structures and one abdominal CT with thirty others."""
    for name in ("pt_109", "pt_119"):
        for folder in ("images", "labels"):
            file = f"{name}.nii.gz"
            link(shared_data / CT / folder / file, tmp_path, "openkbp", folder, file)
    link(shared_data / CT / "labels.json", tmp_path, "openkbp", "labels.json")
    for name in ("example_ct_dicom", "example_ct_dicom_seg.nii.gz"):
        link(shared_data / TOTALSEG / name, tmp_path, "abdomen", name)
    stored = shared_data / TOTALSEG / "example_ct_dicom_seg.nii.gz"
    values = np.unique(np.asarray(nib.load(stored).dataobj)).tolist()
    names = {1: "spleen", 5: "liver", 79: "cord"}
    labels = {names.get(value, f"class_{value}"): value for value in values if value}
    members = [
        {
            "name": "kbp",
            "raw": "openkbp",
            "channel_names": ["CT"],
            "licence": "MIT",
            "rename": {"spinal_cord": "cord"},
            "drop": ["larynx"],
            "holdout": 1,
        },
        {
            "name": "ts",
            "raw": "abdomen",
            "channel_names": ["CT"],
            "labels": labels,
            "licence": "Apache-2.0",
            "holdout": 0,
        },
    ]
    place = tmp_path / "union.yaml"
    place.write_text(yaml.safe_dump({"name": "two", "datasets": members}, sort_keys=False))
    return place


def test_union_of_two_data_sets(united: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    store = open_store(prepare(ingest(united), tmp_path / "store", config(4.0)))
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing is copied
    labels = store.info.labels
    kbp = [labels[n] for n in ("brainstem", "cord", "right_parotid", "left_parotid", "esophagus")]
    assert kbp == [1, 2, 3, 4, 5]
    assert labels["mandible"] == 6
    assert "larynx" not in labels
    first, second, abdomen = store.rows
    assert [row.case_id for row in store.rows] == [
        "kbp_pt_109",
        "kbp_pt_119",
        "ts_example_ct_dicom",
    ]
    assert first.annotated == second.annotated == (1, 2, 3, 4, 5, 6)
    assert abdomen.annotated == (2, *range(7, max(labels.values()) + 1))
    assert [row.licence for row in store.rows] == ["MIT", "MIT", "Apache-2.0"]
    assert sorted(row.split for row in store.rows) == ["train", "train", "val"]
    own_label = tmp_path / "openkbp" / "labels" / "pt_109.nii.gz"
    own = {1: 1, 2: 2, 3: 3, 4: 4, 6: 0, 7: 6}  # 6: the larynx that was dropped
    assert_values(store, "kbp_pt_109", own_label, own)
    own_label = tmp_path / "abdomen" / "example_ct_dicom_seg.nii.gz"
    own = {1: labels["spleen"], 5: labels["liver"], 79: labels["cord"]}
    assert_values(store, "ts_example_ct_dicom", own_label, own)
    right, left = (deepest_mm(tmp_path / "openkbp/labels/pt_109.nii.gz", v)[0] for v in (3, 4))
    assert right > left  # x grows to the patient's right
    assert verify(store.root) == []


def test_a_renamed_structure_is_written_anew(united: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(united.read_text())
    first = content["datasets"][0]
    again = {**first, "name": "again"}
    label = tmp_path / "openkbp" / "labels" / "pt_109.nii.gz"
    for swap, expected in (
        ({}, {3: 3, 4: 4}),
        ({"right_parotid": "left_parotid", "left_parotid": "right_parotid"}, {3: 4, 4: 3}),
    ):
        content["datasets"] = [first, {**again, "rename": again["rename"] | swap}]
        united.write_text(yaml.safe_dump(content, sort_keys=False))
        store = open_store(prepare(ingest(united), tmp_path / "store", config(6.0)))
        assert_values(store, "kbp_pt_109", label, {3: 3, 4: 4})
        assert_values(store, "again_pt_109", label, expected)


def test_the_command_line_reads_a_union(united: Path) -> None:
    command = [sys.executable, "-m", "launch.cli", "data", "ingest", str(united)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "two: union layout, 3 cases, licence MIT, Apache-2.0" in text
    assert "annotated in 2 cases only: brainstem, cord, right_parotid" in text
    united.write_text(united.read_text().replace("larynx", "lung"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "kbp has no label 'lung' to rename or drop" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
