"""Results of a protocol from scores written by hand; p values and means by scipy and numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from finetune.config import FinetuneConfig
from finetune.matching import match_labels
from finetune.protocol_report import draw_chart
from finetune.protocol_results import Results, Scored, collect
from finetune.protocol_trials import ProtocolConfig, Trial
from finetune.scores import CaseScore, DatasetScore, summarise
from stunet.errors import ConfigError
from stunet.metrics.dice import ClassCounts
from stunet.metrics.surface import SurfaceScores
from stunet.types import RawDataset

LABELS = {"background": 0, "front": 1, "back": 2}
MATCHING = match_labels(LABELS, LABELS)
PATIENTS = tuple(f"p{number}" for number in range(8))
CONFIG = FinetuneConfig(out="o", store="s", init="b")


def scored(arm: str, size: int, dice_nk: np.ndarray, repeat: int = 0) -> Scored:
    """A training with these Dice; NSD is Dice squared; NaN: the reference has it not."""
    cases = []
    for patient, dice in zip(PATIENTS, dice_nk, strict=True):
        there = np.isfinite(dice)
        n_ref = np.array([0, *(10_000 * there)])
        n_pred = np.array([0, 10_000, 10_000])  # invented where the reference has it not
        tp = np.array([0, *np.where(there, np.round(1e4 * dice), 0)]).astype(int)
        surfaces = tuple(SurfaceScores(d**2, 10 * (1 - d)) for d in dice)
        cases.append(CaseScore(patient, "", "", ClassCounts(tp, n_pred, n_ref), surfaces, 1.0))
    raw = RawDataset("set", "pairs", ("MR",), LABELS, None, ())
    means = summarise(MATCHING, cases, 0)
    score = DatasetScore(raw, MATCHING, tuple(cases), (), (), means)
    trained_on = tuple(f"t{number}" for number in range(size))
    trial = Trial(arm, str(size), repeat, None, Path(arm), "r", (), CONFIG, trained_on, PATIENTS)
    return Scored(trial, score)


def drawn(seed: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (8, 2)).round(3)


@pytest.fixture
def tables() -> dict[tuple[str, int], np.ndarray]:
    return {
        ("pretrained", 5): drawn(0, 0.7, 0.8),
        ("scratch", 5): drawn(1, 0.5, 0.6),
        ("pretrained", 30): drawn(2, 0.7, 0.9),
        ("scratch", 30): drawn(3, 0.7, 0.9),
    }


@pytest.fixture
def results(tables) -> Results:
    return collect([scored(*place, table) for place, table in tables.items()], seed=0)


def test_means_of_every_arm_and_size(results, tables):
    assert [(point.arm, point.trained_on) for point in results.points] == list(tables)
    for point, table in zip(results.points, tables.values(), strict=True):
        dice = point.means["Dice"]
        assert dice.mean == pytest.approx(table.mean())
        assert dice.low < dice.mean < dice.high and dice.n == 8
        assert point.means["NSD"].mean == pytest.approx((table**2).mean())
        assert point.structures["back"]["Dice"].mean == pytest.approx(table[:, 1].mean())
        assert point.spread is None


def test_gains_are_paired_and_corrected(results, tables):
    few, many = results.gains
    per_patient = {place: table.mean(1) for place, table in tables.items()}
    for gain, size in ((few, 5), (many, 30)):
        a, b = per_patient["pretrained", size], per_patient["scratch", size]
        test = gain.tests["Dice"]
        assert test.difference.mean == pytest.approx((a - b).mean())
        assert test.p == pytest.approx(wilcoxon(a, b).pvalue)
    assert few.tests["Dice"].p_holm == pytest.approx(2 * 2 / 2**8)  # all 8 better, 2 lines
    assert (few.verdict, many.verdict) == ("pretrained better", "undecided")
    assert few.tests["HD95_mm"].difference.mean < 0


def test_a_case_counts_once_however_often_it_was_repeated(tables):
    first, second = drawn(4, 0.2, 0.4), drawn(5, 0.6, 0.8)
    both = collect([scored("pretrained", 5, t, r) for r, t in enumerate((first, second))], seed=0)
    (point,) = both.points
    once = collect([scored("pretrained", 5, (first + second) / 2)], seed=0).points[0]
    assert point.means["Dice"].mean == pytest.approx(once.means["Dice"].mean)
    assert point.means["Dice"].low == pytest.approx(once.means["Dice"].low)
    assert point.spread == pytest.approx(np.std([first.mean(), second.mean()], ddof=1))
    assert both.gains == ()


def test_a_structure_that_the_reference_lacks_does_not_count(tables):
    lacking = tables["pretrained", 5].copy()
    lacking[3, 1] = math.nan
    other = tables["scratch", 5].copy()
    other[3, 1] = math.nan
    results = collect([scored("pretrained", 5, lacking), scored("scratch", 5, other)], seed=0)
    assert results.points[0].structures["back"]["Dice"].n == 7
    a, b = (np.nanmean(table, axis=1) for table in (lacking, other))
    assert results.gains[0].tests["Dice"].difference.mean == pytest.approx((a - b).mean())


def test_the_chart_is_monotone_in_both_directions(results):
    chart = draw_chart(results, ("pretrained", "scratch"))
    assert [label for label, _ in chart.marks] == ["5", "30"]
    pretrained, scratch = chart.curves
    assert pretrained.dots[0][0] < pretrained.dots[1][0]
    assert pretrained.dots[0][1] < scratch.dots[0][1]  # higher Dice is further up
    heights = dict(chart.ticks)
    assert heights["50"] == max(heights.values()) == 100
    for curve in chart.curves:
        for (_, y), (_, high, low) in zip(curve.dots, curve.bars, strict=True):
            assert 0 <= high < y < low <= 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": ()}, r"cases=\[\]: give each once, and at least 1"),
        ({"cases": ("5", "5")}, "give each once"),
        ({"arms": ("pretrained", "random")}, "'random' is none"),
        ({"repeats": 0}, "repeats=0: must be at least 1"),
    ],
)
def test_impossible_protocols(changes, message):
    with pytest.raises(ConfigError, match=message):
        ProtocolConfig(raw="raw", **changes)
