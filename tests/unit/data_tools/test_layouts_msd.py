"""The Decathlon's layout, and nnU-Net v1's files under the same `dataset.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.ingest import ingest


def declare(case_ids: list[str], **changed: Any) -> dict[str, Any]:
    content = {
        "name": "BRATS",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "numTraining": len(case_ids),
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in case_ids
        ],
        "test": ["./imagesTs/t.nii.gz"],
        **changed,
    }
    return {key: value for key, value in content.items() if value is not None}


def files_of(case_id: str) -> dict[str, str]:
    return {f"imagesTr/{case_id}.nii.gz": "", f"labelsTr/{case_id}.nii.gz": ""}


def test_a_decathlon_folder(tmp_path: Path, make_tree: Callable) -> None:
    hidden = {"imagesTr/._b.nii.gz": "", "imagesTs/t.nii.gz": ""}
    declared = {"dataset.json": declare(["b", "a"])}
    raw = ingest(make_tree(tmp_path, declared | files_of("a") | files_of("b") | hidden))
    assert (raw.name, raw.layout, raw.licence) == ("BRATS", "msd", "CC-BY-SA 4.0")
    assert raw.channel_names == ("FLAIR", "T1w")
    assert raw.labels == {"background": 0, "edema": 1, "tumour": 2}
    assert [case.case_id for case in raw.cases] == ["a", "b"]
    assert raw.cases[0].images == (str(tmp_path / "imagesTr" / "a.nii.gz"),)
    assert raw.cases[0].label == str(tmp_path / "labelsTr" / "a.nii.gz")


def test_channels_in_files_of_their_own_as_in_nnunet_v1(
    tmp_path: Path, make_tree: Callable, assert_refused: Callable
) -> None:
    files = {"dataset.json": declare(["a"]), "labelsTr/a.nii.gz": ""}
    first = {"imagesTr/a_0000.nii.gz": "", "imagesTr/a_b_0000.nii.gz": ""}
    assert_refused(make_tree(tmp_path, files | first), "case a: found image channels [0], expected")
    raw = ingest(make_tree(tmp_path, {"imagesTr/a_0001.nii.gz": ""}))
    assert raw.cases[0].case_id == "a"
    names = [Path(path).name for path in raw.cases[0].images]
    assert names == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modality": None}, "key 'modality' is missing; the Decathlon requires it"),
        ({"modality": {"1": "CT"}}, "modality has keys ['1']; number them '0', '1', ..."),
        ({"labels": {"background": 0}}, "label 'background': 0 is no value and name"),
        ({"labels": {"1": "x", "2": "x"}}, "labels 1 and 2 are both named 'x'"),
        ({"training": {"a": 1}}, "training is {'a': 1}; give a list"),
        ({"training": ["imagesTr/a.nii.gz"]}, "training lists 'imagesTr/a.nii.gz'; give an image"),
        ({"training": [{"image": "../a.nii.gz", "label": "b"}]}, "path '../a.nii.gz' leads out of"),
        ({"training": [{"image": "/a.nii.gz", "label": "b"}]}, "path '/a.nii.gz' leads out of"),
        ({"training": [{"image": "a.nii.gz", "label": ""}]}, "'' is no path"),
        ({"training": []}, "holds no case"),
        ({"numTraining": 7}, "numTraining is 7 but 1 cases were found"),
        ({"training": declare(["a", "a"])["training"]}, "case id a occurs 2 times"),
        ({"training": declare(["b"])["training"]}, "case b: "),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path,
    make_tree: Callable,
    assert_refused: Callable,
    changed: dict[str, Any],
    message: str,
) -> None:
    files = {"dataset.json": declare(["a"], **changed)} | files_of("a")
    assert_refused(make_tree(tmp_path, files), message)


def test_a_missing_label_is_named(
    tmp_path: Path, make_tree: Callable, assert_refused: Callable
) -> None:
    make_tree(tmp_path, {"dataset.json": declare(["a"]), "imagesTr/a.nii.gz": ""})
    assert_refused(tmp_path, f"case a: {tmp_path / 'labelsTr' / 'a.nii.gz'} is missing")
