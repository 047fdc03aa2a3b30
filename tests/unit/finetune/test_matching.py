from finetune.matching import Structure, match_labels


def test_names_are_identity_and_values_are_not():
    target = {"background": 0, "liver": 6, "spleen": 1}
    matching = match_labels(target, {"background": 0, "spleen": 2, "liver": 5, "aorta": 1})
    assert matching.scored == (Structure("liver", 6, 5), Structure("spleen", 1, 2))
    assert matching.unscored == {}


def test_what_is_left_out_says_why_and_names_the_nearest():
    target = {"background": 0, "kidney left": 1, "tumour": 2, "ignore": 3}
    matching = match_labels(target, {"background": 0, "kidney_left": 1}, ignore_label=3)
    assert matching.scored == ()
    assert set(matching.unscored) == {"kidney left", "tumour"}
    assert "'kidney_left'" in matching.unscored["kidney left"]
    assert "nearest" not in matching.unscored["tumour"]
