import itertools
import math

import numpy as np
import pytest

from stunet.metrics.intervals import Interval, bootstrap_macro, bootstrap_mean

NAN = math.nan


def by_enumeration(scores_nk: np.ndarray, level: float) -> tuple[float, float]:
    """The studentised bootstrap over all n**n resamples, one loop per step of the definition."""
    n, K = scores_nk.shape
    centre = [np.nanmean(scores_nk[:, k]) for k in range(K)]

    def error_and_standard_error(rows: tuple[int, ...]) -> tuple[float, float]:
        present = [k for k in range(K) if np.isfinite(scores_nk[list(rows), k]).any()]
        means = {k: np.nanmean(scores_nk[list(rows), k]) for k in present}
        variance = 0.0
        for i in rows:
            influence = 0.0
            for k in present:
                if np.isfinite(scores_nk[i, k]):
                    share = np.isfinite(scores_nk[list(rows), k]).sum() * len(present)
                    influence += (scores_nk[i, k] - means[k]) / share
            variance += influence**2
        return sum(means[k] - centre[k] for k in present) / len(present), math.sqrt(variance)

    t = []
    for rows in itertools.product(range(n), repeat=n):
        error, standard_error = error_and_standard_error(rows)
        t.append(error / standard_error if standard_error > 1e-12 else math.copysign(1e9, error))
    t.sort()
    low, high = (t[math.ceil(q * len(t)) - 1] for q in ((1 - level) / 2, (1 + level) / 2))
    _, standard_error = error_and_standard_error(tuple(range(n)))
    mean = float(np.mean(centre))
    return mean - high * standard_error, mean - low * standard_error


@pytest.mark.parametrize(
    ("scores_nk", "level"),
    [
        ([[0.91], [0.82], [0.97], [0.6], [0.88]], 0.5),
        ([[0.9, 0.6], [0.81, NAN], [0.95, NAN], [0.77, NAN], [0.7, 0.72]], 0.9),
    ],
)
def test_equals_the_enumeration_of_all_resamples(scores_nk: list, level: float) -> None:
    scores = np.array(scores_nk)
    got = bootstrap_macro(scores, seed=3, repeats=200_000, level=level)
    low, high = by_enumeration(scores, level)
    assert np.nanmin(scores) < low < got.mean < high < np.nanmax(scores)
    assert (got.low, got.high) == pytest.approx((low, high), abs=5e-4)


def test_means_leave_out_what_was_not_scored() -> None:
    assert bootstrap_mean(np.array([0.5, NAN, 0.7]), seed=0).mean == pytest.approx(0.6)
    macro = bootstrap_macro(np.array([[0.5, NAN], [0.7, 0.2], [NAN, NAN]]), seed=0)
    assert macro.mean == pytest.approx((0.6 + 0.2) / 2)
    assert macro.n == 2


def test_a_column_alone_is_its_own_macro_mean() -> None:
    values = np.random.default_rng(0).beta(6, 2, 25)
    assert bootstrap_mean(values, 5) == bootstrap_macro(values[:, None], 5)
    assert bootstrap_mean(values, 5) == bootstrap_macro(np.c_[values, values * NAN], 5)


@pytest.mark.parametrize(
    ("scores_nk", "mean", "n"),
    [
        (np.empty((0, 1)), NAN, 0),
        (np.full((3, 2), NAN), NAN, 0),
        (np.array([[0.4]]), 0.4, 1),
        (np.array([[0.4, NAN], [NAN, 0.6]]), 0.5, 2),  # no class tells how patients differ
    ],
)
def test_no_interval_without_two_patients_of_a_class(
    scores_nk: np.ndarray, mean: float, n: int
) -> None:
    got = bootstrap_macro(scores_nk, seed=0)
    assert (got.mean, got.n) == (pytest.approx(mean, nan_ok=True), n)
    assert math.isnan(got.low)
    assert math.isnan(got.high)


def test_equal_scores_have_an_interval_of_no_width() -> None:
    for value in (0.1, 1.0, 0.7):
        got = bootstrap_mean(np.full(3, value), seed=0)
        assert got == Interval(pytest.approx(value), got.mean, got.mean, 3)


def test_stays_in_the_range_of_the_scores() -> None:
    few = bootstrap_mean(np.array([1.0, 1.0, 0.1]), seed=0)
    assert (few.low, few.high) == (0.1, 1.0)
    two = bootstrap_macro(np.array([[0.9, 0.2], [0.8, 0.4]]), seed=0)
    assert (two.low, two.high) == (pytest.approx(0.5), pytest.approx(0.65))


def test_the_seed_decides_and_nothing_else() -> None:
    values = np.random.default_rng(1).beta(6, 2, 12)
    np.random.seed(0)  # the global generator must not matter
    first = bootstrap_mean(values, seed=1)
    np.random.seed(1)
    assert bootstrap_mean(values, seed=1) == first
    assert bootstrap_mean(values, seed=2) != first


def test_a_higher_level_is_wider() -> None:
    values = np.random.default_rng(2).beta(6, 2, 20)
    wide, narrow = bootstrap_mean(values, 0, level=0.99), bootstrap_mean(values, 0, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_resamples_in_parts_when_there_are_many_patients() -> None:
    values = np.random.default_rng(3).normal(0, 1, 3000)
    got = bootstrap_mean(values, seed=0)  # 5000 x 3000 do not fit one part
    half = 1.96 * values.std() / math.sqrt(3000)
    assert (got.low, got.high) == pytest.approx((got.mean - half, got.mean + half), abs=0.002)
