"""What data sets say about their labels: regions, ignored voxels, what is annotated where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.ingest import ingest
from data_tools.raw_labels import read_label_space
from stunet.errors import DataError

PLACE = Path("dataset.json")
PAIRS = {"images/a.nii": "", "labels/a.nii": "", "images/b.nii": "", "labels/b.nii": ""}


def test_plain_labels_with_an_ignored_value() -> None:
    space = read_label_space({"b": 2, "a": 1, "ignore": 3}, PLACE)
    assert list(space.labels.items()) == [("background", 0), ("a", 1), ("b", 2)]
    assert (space.ignore_label, space.regions) == (3, {})


def test_regions_in_declared_order_with_the_value_each_paints() -> None:
    declared = {"background": 0, "core": [2, 3], "whole": [1, 2, 3], "rim": 1}
    space = read_label_space(declared, PLACE, [3, 2, 1])
    assert list(space.regions.items()) == [("core", (2, 3)), ("whole", (1, 2, 3)), ("rim", (1,))]
    assert space.regions_class_order == (3, 2, 1)
    assert space.labels == {"background": 0, "rim": 1, "label_2": 2, "label_3": 3}


@pytest.mark.parametrize(
    ("declared", "order", "message"),
    [
        ({"a": [1, 2]}, None, "regions_class_order is None; give one value of"),
        ({"a": [1, 2]}, [1, 2], "for each of the 1 regions a"),
        ({"a": [1, 2], "b": 2}, [1, 1], r"regions_class_order is \[1, 1\]"),
        ({"a": [1, 2], "b": 2}, [1, 9], r"regions_class_order is \[1, 9\]"),
        ({"a": [1, 2]}, [[1]], "regions_class_order is"),
        ({"a": [1, 0]}, [1], r"region 'a' is \[1, 0\]; list integers > 0"),
        ({"a": [], "b": 1}, [1], r"region 'a' is \[\]"),
        ({"a": [1, 2], "ignore": 2}, [1], "labels .* share value 2"),
        ({"a": [1, 3], "ignore": 2}, [1], "ignore is 2; it must be the highest"),
        ({"a": 1, "b": True}, None, "label 'b' has value True; use an integer"),
    ],
)
def test_what_does_not_fit_is_refused(declared: Any, order: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_label_space(declared, PLACE, order)
    assert str(caught.value).startswith("dataset.json: ")


def test_labels_json_may_ignore_and_have_regions(tmp_path: Path, make_tree: Callable) -> None:
    names = {"whole": [1, 2], "core": [2], "ignore": 3, "regions_class_order": [1, 2]}
    raw = ingest(make_tree(tmp_path, PAIRS | {"labels.json": names}))
    assert raw.regions == {"whole": (1, 2), "core": (2,)}
    assert (raw.regions_class_order, raw.ignore_label) == ((1, 2), 3)


def test_what_is_annotated_where(tmp_path: Path, make_tree: Callable) -> None:
    named = {"labels.json": {"liver": 1, "spleen": 2}}
    raw = ingest(make_tree(tmp_path, PAIRS | named | {"annotated.json": {"b": ["spleen"]}}))
    assert [case.annotated for case in raw.cases] == [None, ("spleen",)]


@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        ({"c": ["liver"]}, "case c is not in the data set"),
        ({"a": ["kidney"]}, "case a: 'kidney' is not among the labels (liver, spleen)"),
        ({"a": ["background"]}, "case a: 'background' is not among the labels"),
        ({"a": "liver"}, "case a: 'liver' is no list of structure names"),
    ],
)
def test_an_annotated_list_that_does_not_fit(
    tmp_path: Path, make_tree: Callable, assert_refused: Callable, annotated: Any, message: str
) -> None:
    named = {"labels.json": {"liver": 1, "spleen": 2}, "annotated.json": annotated}
    assert_refused(make_tree(tmp_path, PAIRS | named), message)
