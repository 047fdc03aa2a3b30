"""Common raw layouts, on trees of real scans or, for what goes wrong, of empty files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.ingest import ingest
from stunet.errors import ConfigError, DataError

CHANNELS = {"0": "T1"}
LABELS = {"background": 0, "anterior": 1, "posterior": 2}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def expect(root: Path, message: str) -> None:
    """Ingesting fails with one line that holds `message`."""
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        ingest(root)
    assert "\n" not in str(caught.value)


# Pairs


def make_pairs(root: Path, images: list[str], labels: list[str], names: Any = None) -> Path:
    touch(*(root / "images" / name for name in images), *(root / "labels" / n for n in labels))
    if names is not None:
        write_json(root / "labels.json", names)
    return root


def test_pairs_of_real_scans(shared_data: Path) -> None:
    raw = ingest(shared_data / "train_ct" / "openkbp")
    assert (raw.name, raw.layout, raw.channel_names) == ("openkbp", "pairs", ("image",))
    assert len(raw.cases) == 24
    assert [case.case_id for case in raw.cases] == sorted(case.case_id for case in raw.cases)
    assert list(raw.labels.items())[:3] == [("background", 0), ("brainstem", 1), ("spinal_cord", 2)]
    assert raw.ignore_label is None
    for case in raw.cases:
        assert Path(case.images[0]).name == Path(case.label or "").name == f"{case.case_id}.nii.gz"
        assert case.split is None


def test_pairs_with_channels_and_any_ending(tmp_path: Path) -> None:
    names = {"tumour": 2, "organ": 1, "licence": "MIT", "channel_names": ["CT", "PET"]}
    images = ["b_0001.mha", "b_0000.nii", "a_1_0000.nrrd", "a_1_0001.nii.gz", "._a_1_0000.nrrd"]
    raw = ingest(make_pairs(tmp_path, images, ["a_1.nrrd", "b.nii.gz", "notes.txt"], names))
    assert raw.channel_names == ("CT", "PET")
    assert list(raw.labels.items()) == [("background", 0), ("organ", 1), ("tumour", 2)]
    assert raw.licence == "MIT"
    assert [case.case_id for case in raw.cases] == ["a_1", "b"]
    assert [Path(path).name for path in raw.cases[1].images] == ["b_0000.nii", "b_0001.mha"]


def test_pairs_case_id_that_ends_like_a_channel(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, ["pt_0012.nii", "pt_0013.nii"], ["pt_0012.nii", "pt_0013.nii"])
    raw = ingest(root)
    assert [case.case_id for case in raw.cases] == ["pt_0012", "pt_0013"]
    assert raw.labels == {"background": 0}


def test_pairs_dicom_folder_is_an_image(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a" / "1.dcm", tmp_path / "labels" / "a.nii.gz")
    assert ingest(tmp_path).cases[0].images == (str(tmp_path / "images" / "a"),)


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (["a.nii", "b.nii"], ["a.nii"], None, "case b: label missing for"),
        (["a.nii"], ["a.nii", "b.nii"], None, "case b: image missing for"),
        (["a.nii", "a.nrrd"], ["a.nii"], None, "case id a occurs twice: a.nii and a.nrrd"),
        (["a.nii"], ["a.nii", "a.mha"], None, "case id a occurs twice: a.mha and a.nii"),
        (["a b.nii"], ["a b.nii"], None, "case id 'a b' may hold letters"),
        (["a_0000.nii", "b_0000.nii", "b_0001.nii"], ["a.nii", "b.nii"], None, "case b: found"),
        (["a_0001.nii"], ["a.nii"], None, "case a: found image channels [1], expected 0 to 0"),
        (["readme.txt"], ["a.nii"], None, "holds no volume"),
        (["a.nii"], ["a.nii"], {"x": 1, "y": 1}, "labels ['x', 'y'] share value 1"),
        (["a.nii"], ["a.nii"], {"x": "1"}, "label 'x' has value '1'"),
        (["a.nii"], ["a.nii"], {"x": -1}, "label 'x' has value -1"),
        (["a.nii"], ["a.nii"], ["x"], "holds a list, expected one JSON object"),
        (["a.nii"], ["a.nii"], {"channel_names": "CT"}, "channel_names is 'CT'; give a list"),
        (
            ["a_0000.nii", "a_0001.nii"],
            ["a.nii"],
            {"channel_names": ["a", "b", "c"]},
            "names 3 channels but case a has 2",
        ),
    ],
)
def test_pairs_errors(
    tmp_path: Path, images: list[str], labels: list[str], names: Any, message: str
) -> None:
    expect(make_pairs(tmp_path, images, labels, names), message)


# nnU-Net


def make_nnunet(root: Path, case_ids: list[str], **declared: Any) -> Path:
    for case_id in case_ids:
        touch(root / "imagesTr" / f"{case_id}_0000.nii.gz", root / "labelsTr" / f"{case_id}.nii.gz")
    content = {
        "channel_names": CHANNELS,
        "labels": LABELS,
        "file_ending": ".nii.gz",
        "numTraining": len(case_ids),
        **declared,
    }
    write_json(root / "dataset.json", {k: v for k, v in content.items() if v is not None})
    return root


def test_nnunet(tmp_path: Path) -> None:
    labels = {"background": 0, "b": 2, "a": 1, "ignore": 3}
    root = make_nnunet(tmp_path / "Dataset004_X", ["h_2", "h_10"], labels=labels, licence="CC0")
    touch(root / "imagesTs" / "t_0000.nii.gz")
    raw = ingest(root)
    assert (raw.name, raw.layout, raw.channel_names) == ("Dataset004_X", "nnunet", ("T1",))
    assert raw.labels == {"background": 0, "a": 1, "b": 2}
    assert raw.ignore_label == 3
    assert raw.licence == "CC0"
    assert [case.case_id for case in raw.cases] == ["h_10", "h_2"]
    assert raw.cases[0].images == (str(root / "imagesTr" / "h_10_0000.nii.gz"),)
    assert raw.cases[0].label == str(root / "labelsTr" / "h_10.nii.gz")
    assert raw.cases[0].split is None


def test_nnunet_explicit_paths(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "one.mha", tmp_path / "y" / "one.mha")
    listed = {"one": {"images": ["x/one.mha"], "label": "y/one.mha"}}
    raw = ingest(make_nnunet(tmp_path, [], dataset=listed, numTraining=1))
    assert raw.cases[0].images == (str(tmp_path / "x" / "one.mha"),)
    assert raw.cases[0].label == str(tmp_path / "y" / "one.mha")


@pytest.mark.parametrize("beside", [True, False])
def test_nnunet_split_of_its_own(tmp_path: Path, beside: bool) -> None:
    root = make_nnunet(tmp_path / "nnUNet_raw" / "Dataset001_A", ["a", "b", "c"])
    sibling = tmp_path / "nnUNet_preprocessed" / "Dataset001_A"
    folds = [{"train": ["c", "a"], "val": ["b"]}, {"train": ["b"], "val": ["a", "c"]}]
    write_json((root if beside else sibling) / "splits_final.json", folds)
    assert [case.split for case in ingest(root).cases] == ["train", "val", "train"]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"train": ["a"], "val": ["b", "z"]}], "fold 0: case z is not in the data set"),
        ([{"train": ["a"], "val": []}], "fold 0: case b is in neither train nor val"),
        ([{"train": ["a", "b"], "val": ["b"]}], "fold 0: case b is in both train and val"),
        ([], "not a list of folds"),
        ({"train": ["a"], "val": ["b"]}, "not a list of folds"),
        ([{"train": ["a", "b"]}], "not a list of folds"),
    ],
)
def test_nnunet_wrong_split(tmp_path: Path, folds: Any, message: str) -> None:
    root = make_nnunet(tmp_path, ["a", "b"])
    write_json(root / "splits_final.json", folds)
    expect(root, message)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order is None; give one"),
        ({"labels": ["background"]}, "labels is ['background']; give names and values"),
        ({"dataset": ["a"]}, "dataset is no object"),
        (
            {"dataset": {"a": {"images": ["../x.nii"], "label": "y"}}},
            "path '../x.nii' leads out of",
        ),
        ({"dataset": {"a": {"images": ["/x.nii"], "label": "y"}}}, "path '/x.nii' leads out of"),
        ({"channel_names": {"0": 1}}, "channel_names names a channel 1; give text"),
        ({"labels": {"0": "background", "1": "x"}}, "as in the Decathlon"),
        ({"labels": {"background": 0, "ignore": 1, "x": 2}}, "ignore is 1; it must be the highest"),
        ({"labels": None}, "key 'labels' is missing"),
        ({"channel_names": None}, "key 'channel_names' is missing"),
        ({"channel_names": {"1": "CT"}}, "number them '0', '1', ..."),
        ({"channel_names": {"0": "a", "1": "b"}}, "case a: found image channels [0], expected 0"),
        ({"file_ending": ".nrrd"}, "holds no file ending in .nrrd"),
        ({"file_ending": None}, "key 'file_ending' is missing"),
        ({"file_ending": 3}, "file_ending is 3; give e.g."),
        ({"numTraining": 5}, "numTraining is 5 but 1 cases were found"),
        ({"dataset": {"a": {"images": ["x.nii"]}}}, "None is no path"),
        ({"dataset": {"a": {"images": ["x.nii"], "label": "y.nii"}}}, "is missing; add the file"),
    ],
)
def test_nnunet_errors(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    expect(make_nnunet(tmp_path, ["a"], **declared), message)


def test_nnunet_label_or_suffix_missing(tmp_path: Path) -> None:
    root = make_nnunet(tmp_path, ["a", "b"])
    (root / "labelsTr" / "b.nii.gz").unlink()
    expect(root, f"case b: {root / 'labelsTr' / 'b.nii.gz'} is missing")
    touch(root / "labelsTr" / "b.nii.gz", root / "imagesTr" / "c.nii.gz")
    expect(root, "rename it to c_0000.nii.gz")


def test_nnunet_broken_json(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    expect(tmp_path, "not valid JSON")
    (tmp_path / "dataset.json").write_text('{"dataset": {"a": 1, "a": 2}}')
    expect(tmp_path, "key 'a' occurs 2 times in one object")


def test_nnunet_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    root = make_nnunet(tmp_path, ["a"], labels=labels, regions_class_order=[1, 2, 3])
    raw = ingest(root)
    assert list(raw.regions.items()) == [
        ("whole", (1, 2, 3)),
        ("core", (2, 3)),
        ("enhancing", (3,)),
    ]
    assert raw.regions_class_order == (1, 2, 3)
    assert raw.labels == {"background": 0, "label_1": 1, "label_2": 2, "enhancing": 3}
    assert raw.ignore_label == 4


def test_nnunet_any_fold(tmp_path: Path) -> None:
    root = make_nnunet(tmp_path, ["a", "b", "c"])
    folds = [{"train": ["c", "a"], "val": ["b"]}, {"train": ["b"], "val": ["a", "c"]}]
    write_json(root / "splits_final.json", folds)
    assert [case.split for case in ingest(root, "1").cases] == ["val", "train", "val"]
    assert {case.split for case in ingest(root, "all").cases} == {"train"}
    for fold, message in (("2", "has 2 folds, 0 to 1"), ("first", "give the number of a fold")):
        with pytest.raises(ConfigError, match=message):
            ingest(root, fold)
    (root / "splits_final.json").unlink()
    with pytest.raises(ConfigError, match=r"fold=1: .* has no splits_final.json; leave fold out"):
        ingest(root, "1")


# TotalSegmentator


def make_totalsegmentator(root: Path, case_ids: list[str], image: str = "ct.nii.gz") -> Path:
    for case_id in case_ids:
        masks = root / case_id / "segmentations"
        touch(
            root / case_id / image, *(masks / f"{n}.nii.gz" for n in ("rib_2", "rib_10", "Aorta"))
        )
    return root


@pytest.mark.parametrize(("image", "channel"), [("ct.nii.gz", "CT"), ("mri.nii.gz", "MR")])
def test_totalsegmentator(tmp_path: Path, image: str, channel: str) -> None:
    raw = ingest(make_totalsegmentator(tmp_path, ["s0002", "s0001"], image))
    assert (raw.layout, raw.channel_names) == ("totalsegmentator", (channel,))
    assert raw.labels == {"background": 0, "Aorta": 1, "rib_10": 2, "rib_2": 3}
    assert [case.case_id for case in raw.cases] == ["s0001", "s0002"]
    assert raw.cases[0].label == str(tmp_path / "s0001" / "segmentations")
    assert raw.cases[0].split is None


def test_totalsegmentator_official_split(tmp_path: Path) -> None:
    root = make_totalsegmentator(tmp_path, ["s0001", "s0002", "s0003"])
    lines = ["image_id;age;split", "s0003;61;test", "s0001;;train", "s0002;9;val", "s0009;9;train"]
    (root / "meta.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert [case.split for case in ingest(root).cases] == ["train", "val", "test"]


def test_totalsegmentator_split_of_a_comma_separated_copy(tmp_path: Path) -> None:
    root = make_totalsegmentator(tmp_path, ["s0001", "s0002"])
    (root / "meta.csv").write_text("image_id,split\ns0001,test\ns0002,train\n")
    assert [case.split for case in ingest(root).cases] == ["test", "train"]
    assert [case.split for case in ingest(root, "all").cases] == ["test", "train"]


def test_totalsegmentator_masks_that_nobody_drew(tmp_path: Path) -> None:
    root = make_totalsegmentator(tmp_path, ["s0001", "s0002"])
    remove_mask(root)
    write_json(root / "annotated.json", {"s0002": ["rib_2", "Aorta"]})
    assert [case.annotated for case in ingest(root).cases] == [None, ("Aorta", "rib_2")]
    write_json(root / "annotated.json", {"s0002": ["rib_10"]})
    expect(root, "lacks rib_10, which other cases have")


def test_totalsegmentator_meta_without_split(tmp_path: Path) -> None:
    root = make_totalsegmentator(tmp_path, ["s0001"])
    (root / "meta.csv").write_text("image_id;age\ns0001;61\n")
    assert ingest(root).cases[0].split is None


def remove_mask(root: Path) -> None:
    (root / "s0002" / "segmentations" / "rib_10.nii.gz").unlink()


def remove_masks(root: Path) -> None:
    for path in (root / "s0002" / "segmentations").iterdir():
        path.unlink()
    (root / "s0002" / "segmentations").rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_mask, "case s0002: "),
        (remove_mask, "lacks rib_10, which other cases have"),
        (remove_masks, "case s0002: label missing"),
        (lambda root: (root / "s0002" / "ct.nii.gz").unlink(), "case s0002: "),
        (lambda root: touch(root / "m1" / "mri.nii.gz"), "has both ct.nii.gz and mri.nii.gz"),
        (
            lambda root: (root / "meta.csv").write_text("image_id;split\ns0001;train\n"),
            "case s0002: not listed in",
        ),
        (
            lambda root: (root / "meta.csv").write_text("image_id;split\ns0001;Train\n"),
            "line 2: split is 'Train'",
        ),
    ],
)
def test_totalsegmentator_errors(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    root = make_totalsegmentator(tmp_path, ["s0001", "s0002"])
    damage(root)
    expect(root, message)


# None of them


def test_missing_empty_and_unknown_folders(tmp_path: Path) -> None:
    expect(tmp_path / "nowhere", "no such folder")
    expect(tmp_path, "the folder is empty")
    touch(tmp_path / "scan.nii.gz")
    for known in (
        "nnU-Net raw v2",
        "TotalSegmentator",
        "pairs (images/, labels/)",
        "DICOM",
        "BIDS",
    ):
        expect(tmp_path, known)
