"""The shipped crosswalks against the facts they were written from, and what a wrong one says."""

import json

import pytest

from stunet.data.crosswalk import (
    check_sources,
    choose_crosswalk,
    read_crosswalk,
    shipped_crosswalks,
)
from stunet.data.label_space import stunet_labels
from stunet.errors import ConfigError
from stunet.io.volume import read_label_table

PUBLISHED = {
    name: crosswalk
    for name in shipped_crosswalks()
    if (crosswalk := read_crosswalk(name)).published is not None
}


def test_the_published_table_has_14_rows_and_its_printed_means():
    rows = [crosswalk.published for crosswalk in PUBLISHED.values()]
    assert len(rows) == 14
    assert sum(row.cases for row in rows) == 2494
    printed = {"nnU-Net": 76.37, "STU-Net-B": 80.71, "STU-Net-L": 82.83, "STU-Net-H": 84.02}
    for model, mean in printed.items():
        assert round(sum(row.dice_percent[model] for row in rows) / 14, 2) == mean


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_crosswalk_says_what_the_facts_say(name, shared_data):
    """Every mapped value reaches the same classes; every row is copied without a slip."""
    facts = json.loads((shared_data.parent / "specs" / "stunet_labels.json").read_text())
    crosswalk = PUBLISHED[name]
    row = facts["direct_inference"][crosswalk.datasets[0]]
    assert crosswalk.published.dice_percent == row["published_mean_dsc_percent"]
    assert crosswalk.published.cases == row["cases"]
    wanted = {v: sorted(m["upstream_classes"]) for m in row["map"] for v in m["local_values"]}
    found = {
        rule.value: sorted(rule.sources(target))
        for target, rule in crosswalk.classes.items()
        if rule.relation != "not_comparable"
    }
    assert found == wanted
    joined = {tuple(m["local_values"]) for m in row["map"] if len(m["local_values"]) > 1}
    parts = tuple(r.value for r in crosswalk.classes.values() if r.relation == "part_of")
    assert joined == ({parts} if parts else set())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_crosswalk_resolves_in_the_published_label_order(name):
    labels = stunet_labels()
    check_sources(PUBLISHED[name], labels)
    for target, rule in PUBLISHED[name].classes.items():
        assert set(rule.sources(target)) <= set(labels), target


def test_the_three_that_stop_the_authors_script_use_identities():
    identities = {
        name: [t for t, rule in PUBLISHED[name].classes.items() if rule.relation == "identity"]
        for name in ("btcv_cervix", "word", "segthor")
    }
    assert identities == {
        "btcv_cervix": ["urinary_bladder"],
        "word": [
            *("kidney_left", "kidney_right", "colon", "urinary_bladder"),
            *("femur_left", "femur_right"),
        ],
        "segthor": ["trachea"],
    }


def test_the_class_map_of_totalsegmentator_v2_is_the_one_in_its_files(shared_data):
    file = shared_data / "train_ct" / "totalseg" / "example_ct_seg.nii.gz"
    classes = read_crosswalk("totalsegmentator_v2").classes
    assert {name: rule.value for name, rule in classes.items()} == read_label_table(file)


def test_a_crosswalk_is_chosen_by_the_data_sets_name_unless_one_is_given(tmp_path):
    assert choose_crosswalk("Dataset009_Spleen").title == "MSD Spleen"
    assert choose_crosswalk("segthor").title == "SegTHOR"
    assert choose_crosswalk("mine") is None
    assert choose_crosswalk("mine", ["btcv"]).title == "BTCV abdomen"
    assert choose_crosswalk("mine", ["mine=word", "btcv"]).title == "WORD"
    own = tmp_path / "own.yaml"
    own.write_text("title: Mine\nclasses:\n  cord: {equal: spinal_cord}\n")
    assert choose_crosswalk("SegTHOR", [str(own)]).title == "Mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: T\nclasses: {a: {equals: liver}}", ["equals", "ClassRule"]),
        ("title: T\nclasses: {a: {equal: liver, part_of: [liver]}}", ["'a'", "keep one"]),
        ("title: T\nclasses: {a: {union: [liver, liver]}}", ["'a'", "twice"]),
        ("title: T\nclasses: {a: {value: 1}, b: {value: 1}}", ["'a'", "'b'", "share value 1"]),
        ("classes: {a: {value: 1}}", ["title"]),
        ("title: T\nclasses: {a: {value: one}}", ["one", "value"]),
    ],
)
def test_a_malformed_crosswalk_is_refused_in_one_line(text, words, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_crosswalk(file)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_source_or_file_comes_with_the_nearest(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("title: T\nclasses: {left kidney: {equal: kidney_lefft}}")
    with pytest.raises(ConfigError, match=r"'left kidney'.*'kidney_lefft'.*'kidney_left'"):
        check_sources(read_crosswalk(file), stunet_labels())
    with pytest.raises(ConfigError, match=r"'segthorr'.*'segthor'"):
        read_crosswalk("segthorr")
