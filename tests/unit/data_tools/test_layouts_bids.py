"""BIDS trees, on the names that the standard gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.ingest import ingest

DESCRIPTION = {"dataset_description.json": {"Name": "spine", "License": "MIT"}}
TABLE = "index\tname\tabbreviation\n0\tbackground\tBG\n1\tcord\tSC\n2\tcanal\tCSF\n"
LABELS = "derivatives/manual"


def image(subject: str, suffix: str = "T2w") -> dict[str, str]:
    return {f"sub-{subject}/anat/sub-{subject}_{suffix}.nii.gz": ""}


def label(subject: str, middle: str = "") -> dict[str, str]:
    return {f"{LABELS}/sub-{subject}/anat/sub-{subject}{middle}_dseg.nii.gz": ""}


def test_sessions_channels_and_names(tmp_path: Path, make_tree: Callable) -> None:
    session = "sub-02/ses-1/anat/sub-02_ses-1"
    files = {
        **DESCRIPTION,
        **image("01"),
        **image("01", "T1w"),
        **label("01", "_space-orig"),
        f"{session}_T1w.nii.gz": "",
        f"{session}_T2w.nii.gz": "",
        f"{LABELS}/{session}_dseg.nii.gz": "",
        **image("03"),  # nobody labelled it
        f"{LABELS}/dseg.tsv": TABLE,
    }
    raw = ingest(make_tree(tmp_path, files))
    assert (raw.name, raw.layout, raw.licence) == ("spine", "bids", "MIT")
    assert raw.channel_names == ("T1w", "T2w")
    assert raw.labels == {"background": 0, "cord": 1, "canal": 2}
    assert [case.case_id for case in raw.cases] == ["sub-01", "sub-02_ses-1"]
    names = [Path(path).name for path in raw.cases[1].images]
    assert names == ["sub-02_ses-1_T1w.nii.gz", "sub-02_ses-1_T2w.nii.gz"]
    assert Path(raw.cases[0].label or "").name == "sub-01_space-orig_dseg.nii.gz"


def test_a_label_named_after_its_image_belongs_to_that_image(
    tmp_path: Path, make_tree: Callable
) -> None:
    ct = {"sub-01/ct/sub-01_ct.nii.gz": ""}
    files = {**DESCRIPTION, **ct, **image("01"), **label("01", "_ct")}
    raw = ingest(make_tree(tmp_path, files))
    assert raw.channel_names == ("CT",)
    assert Path(raw.cases[0].images[0]).name == "sub-01_ct.nii.gz"
    assert raw.labels == {"background": 0}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (image("01"), "holds no sub-*_dseg.nii.gz; add the labels"),
        ({**image("01"), **label("02")}, "no image has its entities"),
        (
            {**image("01"), **label("01"), "derivatives/b/sub-01_dseg.nii.gz": ""},
            "case id sub-01 occurs 2 times",
        ),
        (
            {**image("01"), **label("01"), **image("02", "T1w"), **label("02")},
            "case sub-02: has T1w but case sub-01 has T2w",
        ),
        (
            {**image("01"), **image("01", "acq-a_T2w"), **label("01", "_acq-a")},
            "could belong to sub-01_T2w.nii.gz, sub-01_acq-a_T2w.nii.gz",
        ),
        ({**image("01"), **label("01"), "dseg.tsv": "a\tb\n1\t2\n"}, "columns index and name"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path,
    make_tree: Callable,
    assert_refused: Callable,
    files: dict[str, Any],
    message: str,
) -> None:
    assert_refused(make_tree(tmp_path, DESCRIPTION | files), message)
