"""DICOM series with labels: a folder per patient, and series and label beside each other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.ingest import ingest


def test_both_places_of_a_series(tmp_path: Path, make_tree: Callable) -> None:
    files = {
        "a/dicom/IM0001": "",
        "a/seg.nii.gz": "",
        "b/1.dcm": "",
        "b/LABELS.txt": "",
        "b/label.nrrd": "",
        ".cache/x.dcm": "",
        "labels.json": {"liver": 5, "licence": "MIT", "channel_names": ["CT"]},
    }
    raw = ingest(make_tree(tmp_path, files))
    assert (raw.layout, raw.licence, raw.channel_names) == ("dicom", "MIT", ("CT",))
    assert raw.labels == {"background": 0, "liver": 5}
    assert [(case.case_id, case.images, case.label) for case in raw.cases] == [
        ("a", (str(tmp_path / "a" / "dicom"),), str(tmp_path / "a" / "seg.nii.gz")),
        ("b", (str(tmp_path / "b"),), str(tmp_path / "b" / "label.nrrd")),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"b/dicom/1": ""}, "case b: label missing or not the only one (none)"),
        ({"b/1.dcm": "", "b/seg.nii": "", "b/mask.nii": ""}, "not the only one (mask.nii, seg.nii"),
        ({"b/seg.nii": ""}, "has no dicom/ and no .dcm file; add the series"),
        ({"labels.json": {"channel_names": ["CT", "PET"]}}, "names 2 channels; a series has one"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path,
    make_tree: Callable,
    assert_refused: Callable,
    files: dict[str, str],
    message: str,
) -> None:
    sound = {"a/dicom/1": "", "a/seg.nii.gz": ""}
    assert_refused(make_tree(tmp_path, sound | files), message)


def test_real_scans_beside_their_labels(shared_data: Path) -> None:
    raw = ingest(shared_data / "train_ct" / "totalseg")
    assert (raw.layout, raw.channel_names) == ("beside", ("image",))
    assert [(case.case_id, Path(case.images[0]).name) for case in raw.cases] == [
        ("example_ct", "example_ct.nii.gz"),
        ("example_ct_dicom", "example_ct_dicom"),
    ]
    assert Path(raw.cases[1].label or "").name == "example_ct_dicom_seg.nii.gz"


def test_channels_beside_their_label(
    tmp_path: Path, make_tree: Callable, assert_refused: Callable
) -> None:
    files = {"a_0000.nii": "", "a_0001.nii": "", "a_seg.nii.gz": "", "labels.json": {"x": 1}}
    raw = ingest(make_tree(tmp_path, files))
    assert [Path(path).name for path in raw.cases[0].images] == ["a_0000.nii", "a_0001.nii"]
    assert raw.labels == {"background": 0, "x": 1}
    assert_refused(make_tree(tmp_path, {"b.nii": ""}), "case b: label missing for")


def test_expert_labels_of_the_spinal_cord_toolbox(shared_data: Path) -> None:
    raw = ingest(shared_data / "finetune/sct_spinalcord_mr/t2")
    (case,) = raw.cases
    assert (raw.layout, case.case_id) == ("beside", "t2")
    assert Path(case.label or "").name == "t2_seg-manual.nii.gz"
