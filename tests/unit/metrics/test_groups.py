import json
from pathlib import Path

import pytest

from stunet.metrics.groups import GROUPS, group_of


def test_all_105_labels_fall_in_the_published_groups(shared_data: Path) -> None:
    path = shared_data.parent / "specs" / "stunet_labels.json"
    if not path.is_file():
        pytest.skip(f"the label facts are not at hand: {path} is absent")
    facts = json.loads(path.read_text())
    published = {
        name: group
        for group, names in facts["totalsegmentator_v1_groups"].items()
        for name in names
    }
    labels = set(facts["stunet_label_order"].values()) - {"background"}
    assert len(labels) == 104
    assert {name: group_of(name) for name in labels} == published


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("vertebrae_C1", "vertebrae"),
        ("vertebrae_S1", "vertebrae"),
        ("L5", "vertebrae"),
        ("T12", "vertebrae"),
        ("right kidney", "organs"),
        ("kidney_cyst_left", "organs"),
        ("prostate", "organs"),
        ("superior_vena_cava", "cardiac"),
        ("common_carotid_artery_left", "cardiac"),
        ("costal_cartilages", "ribs"),
        ("sternum", "ribs"),
        ("rib_left_12", "ribs"),
        ("spinal_cord", "muscles"),
        ("skull", "muscles"),
        ("tumour", "other"),
        ("T1", "vertebrae"),
        ("L7th something", "other"),
        ("", "other"),
    ],
)
def test_names_beyond_version_1(name: str, group: str) -> None:
    assert group_of(name) == group
    assert group in GROUPS
