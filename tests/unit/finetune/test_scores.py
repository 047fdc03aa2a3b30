"""Scores of tiny maps, by hand."""

import numpy as np
import pytest

from finetune.matching import match_labels
from finetune.scores import CaseScore, leave_out, score_case, summarise
from stunet.data.crosswalk import ClassRule, Crosswalk
from stunet.metrics.dice import ClassCounts
from stunet.metrics.surface import SurfaceScores

TARGET = {"background": 0, "kidney": 1, "tumour": 2, "liver": 3}
BUNDLE = {"background": 0, "liver": 1, "kidney_left": 2, "kidney_right": 3}
PARTS = ClassRule(part_of=("kidney_left", "kidney_right"))
MATCHING = match_labels(TARGET, BUNDLE, Crosswalk("T", classes={"kidney": PARTS, "tumour": PARTS}))


def maps() -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = np.zeros((2, 8, 8, 8), np.uint8)
    reference[1:3, 1:5, 1:5], reference[3, 1:5, 1:5] = 1, 2  # 32 kidney, 16 tumour
    prediction[1:4, 1:5, 1:3], prediction[1:4, 1:5, 3:5] = 2, 3  # the same place in two halves
    reference[5:7, 5:7, 5:7] = 3
    prediction[5:7, 5:7, 6:8] = 1  # one voxel further along x
    return reference, prediction


def test_organ_with_tumour_against_both_halves():
    counts, surfaces = score_case(*maps(), MATCHING, None, (1.0, 1.0, 1.5), tolerance_mm=1.0)
    assert [s.name for s in MATCHING.scored] == ["kidney", "liver"]
    assert counts.tp[1:].tolist() == [48, 4]
    assert counts.n_ref[1:].tolist() == counts.n_pred[1:].tolist() == [48, 8]
    assert surfaces[0] == SurfaceScores(nsd=1.0, hd95_mm=0.0)
    assert surfaces[1].hd95_mm == 1.5
    assert 0 < surfaces[1].nsd < 1


def test_ignored_voxels_are_neither_counted_nor_a_surface():
    reference, prediction = maps()
    reference[5:7, 5:7, 5:8] = 9
    counts, surfaces = score_case(reference, prediction, MATCHING, 9, (1.0, 1.0, 1.0), 1.0)
    assert counts.n_ref.sum() == reference.size - 12
    assert counts.n_ref[2] == counts.n_pred[2] == 0
    assert np.isnan(surfaces[1].nsd)


def test_what_a_case_does_not_annotate_has_no_score():
    reference, prediction = maps()
    reference[reference == 3] = 0
    scored = score_case(reference, prediction, MATCHING, None, (1.0, 1.0, 1.0), 1.0)
    case = CaseScore("a", "", "", *leave_out(*scored, [2]), voxel_ml=0.001)
    for metric in ("Dice", "Dice_where_present", "NSD", "HD95_mm"):
        assert np.isfinite(case.values(metric)).tolist() == [True, False], metric


def case(dice: list[float | None]) -> CaseScore:
    """A case with the given Dice per structure; None: in neither map."""
    tp = np.array([0, *(0 if d is None else round(100 * d) for d in dice)])
    size = np.array([0, *(0 if d is None else 100 for d in dice)])
    surfaces = tuple(SurfaceScores(float("nan"), float("nan")) for _ in dice)
    return CaseScore("c", "", "", ClassCounts(tp, size, size), surfaces, 1.0)


def test_means_weigh_structures_alike_and_intervals_hold_them():
    cases = [case([0.9, 0.5]), case([0.7, None]), case([0.8, 0.1]), case([0.6, 0.3])]
    means = summarise(MATCHING, cases, seed=0)
    kidney, liver = means.structures["kidney"]["Dice"], means.structures["liver"]["Dice"]
    assert (kidney.mean, kidney.n) == (pytest.approx(0.75), 4)
    assert (liver.mean, liver.n) == (pytest.approx(0.3), 3)
    assert means.overall["Dice"].mean == pytest.approx((0.75 + 0.3) / 2)
    assert means.groups["organs"]["Dice"] == means.overall["Dice"]
    for interval in (kidney, liver, means.overall["Dice"]):
        assert interval.low < interval.mean < interval.high
    assert means == summarise(MATCHING, cases, seed=0)
    assert np.isnan(means.overall["NSD"].mean)


def test_no_case_is_no_score_and_no_error():
    means = summarise(MATCHING, [], seed=0)
    assert np.isnan(means.overall["Dice"].mean)
    assert means.structures["liver"]["Dice"].n == 0
