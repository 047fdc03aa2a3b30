"""Several data sets in one label space: names, values, annotated structures, ids, licences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.ingest import ingest
from data_tools.union import UnionConfig
from stunet.config import find_recipe, load_config
from stunet.errors import ConfigError, DataError

ABDOMEN = {"liver": 1, "spleen": 2, "tumour": 3, "licence": "MIT"}
KIDNEYS = {"kidney": 4, "tumour": 1, "spleen": 9, "licence": "CC0", "ignore": 10}


def pairs(folder: str, labels: dict[str, Any] | None, *case_ids: str) -> dict[str, Any]:
    files: dict[str, Any] = {} if labels is None else {f"{folder}/labels.json": labels}
    for case_id in case_ids or ("1", "2"):
        files |= {f"{folder}/images/{case_id}.nii": "", f"{folder}/labels/{case_id}.nii": ""}
    return files


def member(raw: str, **settings: Any) -> dict[str, Any]:
    return {"name": raw, "raw": raw, "holdout": 1, **settings}


@pytest.fixture
def unite(tmp_path: Path, make_tree: Callable) -> Callable[..., Path]:
    def write(*members: dict[str, Any]) -> Path:
        place = tmp_path / "union.yaml"
        place.write_text(yaml.safe_dump({"name": "all", "datasets": list(members)}))
        return place

    make_tree(tmp_path, pairs("abdomen", ABDOMEN) | pairs("kidneys", KIDNEYS))
    return write


def test_labels_unite_by_name_in_order_of_appearance(unite: Callable[..., Path]) -> None:
    rename = {"tumour": "kidney_tumour"}
    raw = ingest(unite(member("abdomen"), member("kidneys", rename=rename)))
    assert (raw.name, raw.layout, raw.licence) == ("all", "union", "MIT, CC0")
    assert list(raw.labels) == [
        "background",
        "liver",
        "spleen",
        "tumour",
        "kidney_tumour",
        "kidney",
    ]
    assert list(raw.labels.values()) == [0, 1, 2, 3, 4, 5]
    assert raw.ignore_label == 6
    first, _, third, _ = raw.cases
    assert [case.case_id for case in raw.cases] == [
        "abdomen_1",
        "abdomen_2",
        "kidneys_1",
        "kidneys_2",
    ]
    assert first.annotated == ("liver", "spleen", "tumour")
    assert first.label_map == {"liver": (1, 1), "spleen": (2, 2), "tumour": (3, 3)}
    assert third.annotated == ("spleen", "kidney_tumour", "kidney")
    assert third.label_map == {
        "tumour": (1, 4),
        "kidney": (4, 5),
        "spleen": (9, 2),
        "ignore": (10, 6),
    }
    assert (first.licence, third.licence) == ("MIT", "CC0")
    assert sorted(case.split or "" for case in raw.cases) == ["train", "train", "val", "val"]


def test_what_is_dropped_is_not_annotated(unite: Callable[..., Path]) -> None:
    raw = ingest(unite(member("abdomen"), member("kidneys", drop=["tumour", "spleen"])))
    assert list(raw.labels) == ["background", "liver", "spleen", "tumour", "kidney"]
    last = raw.cases[-1]
    assert last.annotated == ("kidney",)
    assert last.label_map == {
        "tumour": (1, 0),
        "kidney": (4, 4),
        "spleen": (9, 0),
        "ignore": (10, 5),
    }


def test_a_member_that_has_everything_is_annotated_fully(unite: Callable[..., Path]) -> None:
    raw = ingest(unite(member("abdomen"), member("kidneys", drop=["kidney"])))
    assert raw.cases[0].annotated is None
    assert raw.cases[-1].annotated == ("spleen", "tumour")


def test_partly_annotated_members_stay_so(
    tmp_path: Path, unite: Callable[..., Path], make_tree: Callable
) -> None:
    make_tree(tmp_path, {"abdomen/annotated.json": {"2": ["spleen"]}})
    raw = ingest(unite(member("abdomen", rename={"spleen": "milt"})))
    assert [case.annotated for case in raw.cases] == [None, ("milt",)]
    assert raw.cases[1].label_map == {"spleen": (2, 2)}


def test_labels_and_channels_of_a_folder_that_names_none(
    tmp_path: Path, unite: Callable[..., Path], make_tree: Callable
) -> None:
    make_tree(tmp_path, pairs("plain", None))
    with pytest.raises(DataError, match="plain names no labels; set labels"):
        ingest(unite(member("plain")))
    named = member("plain", labels={"liver": 7}, channel_names=["CT"], licence="CC BY")
    raw = ingest(unite(named))
    assert (raw.labels, raw.channel_names) == ({"background": 0, "liver": 1}, ("CT",))
    assert raw.cases[0].label_map == {"liver": (7, 1)}
    with pytest.raises(DataError, match="abdomen has channels image but plain has CT"):
        ingest(unite(named, member("abdomen")))


def test_folds_are_those_of_the_members(
    tmp_path: Path, unite: Callable[..., Path], make_tree: Callable
) -> None:
    folds = [{"train": ["1"], "val": ["2"]}, {"train": ["2"], "val": ["1"]}]
    make_tree(tmp_path, {"abdomen/splits_final.json": folds})
    place = unite(member("abdomen", fold="1"), member("kidneys", holdout=0))
    assert [case.split for case in ingest(place).cases] == ["val", "train", "train", "train"]
    assert {case.split for case in ingest(place, "all").cases} == {"train"}
    with pytest.raises(ConfigError, match="set the fold of each there"):
        ingest(place, "1")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "names no data set"),
        ([member("abdomen"), member("abdomen")], "two data sets are named 'abdomen'"),
        ([member("abdomen", rename={"lung": "x"})], "has no label 'lung' to rename or drop"),
        ([member("abdomen", drop=["lung"])], "has no label 'lung' to rename or drop"),
        (
            [member("abdomen", rename={"liver": "spleen"})],
            "two labels of abdomen are named 'spleen'",
        ),
        ([member("abdomen", rename={"liver": "ignore"})], "'ignore' is no structure"),
        (
            [member("abdomen"), member("kidneys", rename={"spleen": "Spleen"})],
            "labels 'spleen' and 'Spleen' differ in case or punctuation only",
        ),
        ([member("abdomen", labels={"a": 1, "b": 1})], "share value 1"),
        ([member("abdomen", name="a b")], "case id 'a b_1' may hold letters"),
        ([member("nowhere")], "no such folder"),
        (
            [member("abdomen", name="a"), member("more", name="a_1")],
            "case id a_1_1 occurs 2 times; rename one",
        ),
    ],
)
def test_what_cannot_be_united_is_named(
    tmp_path: Path,
    unite: Callable[..., Path],
    make_tree: Callable,
    members: list[dict[str, Any]],
    message: str,
) -> None:
    make_tree(tmp_path, pairs("more", ABDOMEN, "1", "x") | pairs("abdomen", ABDOMEN, "1_1"))
    with pytest.raises(DataError, match=message) as caught:
        ingest(unite(*members))
    assert "\n" not in str(caught.value)


def test_regions_are_not_united(
    tmp_path: Path, unite: Callable[..., Path], make_tree: Callable
) -> None:
    declared = {"whole": [1, 2], "core": 2, "regions_class_order": [1, 2]}
    make_tree(tmp_path, pairs("brain", declared))
    with pytest.raises(
        DataError, match=r"brain has regions, which overlap; set labels .* \(1, 2\)"
    ):
        ingest(unite(member("brain")))
    raw = ingest(unite(member("brain", labels={"edema": 1, "core": 2})))
    assert (raw.labels, raw.regions) == ({"background": 0, "edema": 1, "core": 2}, {})


def test_a_union_of_unions_is_refused(tmp_path: Path, unite: Callable[..., Path]) -> None:
    inner = unite(member("abdomen")).rename(tmp_path / "inner.yaml")
    with pytest.raises(DataError, match="inner is a union itself"):
        ingest(unite(member(inner.name, name="inner")))


def test_the_shipped_example_is_a_union() -> None:
    config = load_config(UnionConfig, find_recipe("data/union_example"))
    assert [each.name for each in config.datasets] == ["totalseg", "openkbp", "liver"]
    assert config.datasets[1].rename["left_parotid"] == "parotid_gland_left"
