import pytest

from finetune.matching import match_labels
from stunet.data.crosswalk import ClassRule, Crosswalk, read_crosswalk
from stunet.data.label_space import stunet_labels
from stunet.errors import ConfigError


def pairs(matching) -> dict[str, tuple]:
    return {s.name: (s.target_values, s.bundle_values) for s in matching.scored}


def test_names_are_identity_and_values_are_not():
    target = {"background": 0, "liver": 6, "spleen": 1}
    matching = match_labels(target, {"background": 0, "spleen": 2, "liver": 5, "aorta": 1})
    assert pairs(matching) == {"spleen": ((1,), (2,)), "liver": ((6,), (5,))}
    assert list(pairs(matching)) == ["spleen", "liver"]  # in the order of the data set's values
    assert matching.unscored == {}


def test_what_is_left_out_says_why_and_names_the_nearest():
    target = {"background": 0, "kidney left": 1, "tumour": 2, "ignore": 3}
    matching = match_labels(target, {"background": 0, "kidney_left": 1}, ignore_label=3)
    assert matching.scored == ()
    assert set(matching.unscored) == {"kidney left", "tumour"}
    assert "'kidney_left'" in matching.unscored["kidney left"]
    assert "nearest" not in matching.unscored["tumour"]


def test_parts_are_joined_and_scored_as_one():
    target = {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}
    (kidney,) = match_labels(target, stunet_labels(), read_crosswalk("kits2021")).scored
    assert (kidney.name, kidney.relation) == ("kidney", "part_of")
    assert (kidney.targets, kidney.target_values) == (("kidney", "tumor", "cyst"), (1, 2, 3))
    assert (kidney.sources, kidney.bundle_values) == (("kidney_left", "kidney_right"), (38, 39))
    assert (kidney.key, kidney.group) == ("(1, 2, 3)", "organs")


def test_every_kind_of_rule():
    target = {"background": 0, "Left_Kidney": 7, "lung": 2, "bone": 3, "brain": 4}
    crosswalk = Crosswalk(
        title="T",
        classes={
            "left kidney": ClassRule(equal="kidney_left"),
            "lung": ClassRule(union=("lung_left", "lung_right")),
            "bone": ClassRule(not_comparable="holds the skull"),
            "heart": ClassRule(equal="heart"),
        },
    )
    bundle = {"background": 0, "kidney_left": 1, "lung_left": 2, "lung_right": 3, "heart": 4}
    matching = match_labels(target, bundle, crosswalk)
    assert pairs(matching) == {"lung": ((2,), (2, 3)), "left kidney": ((7,), (1,))}
    assert matching.unscored == {
        "heart": "the data set has no such class",
        "bone": "holds the skull",
        "brain": "the bundle has no class 'brain'",
    }


def test_a_class_is_found_by_value_where_its_name_is_another_or_none():
    crosswalk = Crosswalk("T", classes={"aorta": ClassRule(value=8), "ivc": ClassRule(value=9)})
    bundle = {"background": 0, "aorta": 1, "ivc": 2}
    named = match_labels({"background": 0, "arota": 8}, bundle, crosswalk)
    assert pairs(named) == {"aorta": ((8,), (1,))}
    assert "called 'arota'" in named.scored[0].remark
    assert named.unscored == {"ivc": "the data set has no such class"}
    unnamed = match_labels({"background": 0}, bundle, crosswalk)
    assert pairs(unnamed) == {"aorta": ((8,), (1,)), "ivc": ((9,), (2,))}


def test_a_name_wins_over_a_value():
    """Renumbered data sets: value 8 belongs to another class that is known by its name."""
    crosswalk = Crosswalk("T", classes={"aorta": ClassRule(value=8), "liver": ClassRule(value=6)})
    target = {"background": 0, "liver": 8, "vessel": 6}
    matching = match_labels(target, {"background": 0, "aorta": 1, "liver": 2}, crosswalk)
    assert pairs(matching) == {"liver": ((8,), (2,))}
    assert set(matching.unscored) == {"aorta", "vessel"}


def test_a_class_of_a_full_model_that_a_small_bundle_lacks_is_coverage_not_an_error():
    target = {"background": 0, "esophagus": 1, "heart": 2, "trachea": 3, "aorta": 4}
    crosswalk = read_crosswalk("segthor")
    matching = match_labels(target, {"background": 0, "esophagus": 5}, crosswalk)
    assert pairs(matching) == {"esophagus": ((1,), (5,))}
    assert set(matching.unscored) == {"heart", "trachea", "aorta"}


def test_a_voxel_is_scored_once():
    rules = {"a": ClassRule(union=("x", "y")), "b": ClassRule(equal="y")}
    crosswalk, target = Crosswalk("T", classes=rules), {"background": 0, "a": 1, "b": 2}
    with pytest.raises(ConfigError, match=r"'y' is used for 'a' and 'b'"):
        match_labels(target, {"background": 0, "x": 1, "y": 2}, crosswalk)
