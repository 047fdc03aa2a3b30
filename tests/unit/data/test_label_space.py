import json

from stunet.data.label_space import stunet_labels


def test_the_order_is_that_of_the_published_weights(shared_data):
    facts = json.loads((shared_data.parent / "specs" / "stunet_labels.json").read_text())
    order = {name: int(value) for value, name in facts["stunet_label_order"].items()}
    assert stunet_labels() == order


def test_names_are_sorted_as_strings():
    labels = stunet_labels()
    assert len(labels) == 105
    assert labels["background"] == 0
    assert [labels[f"rib_left_{i}"] for i in (1, 10, 2)] == [49, 50, 53]
    assert sorted(labels, key=labels.__getitem__)[1:] == sorted(set(labels) - {"background"})
