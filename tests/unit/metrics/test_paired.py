import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from stunet.errors import DataError
from stunet.metrics.intervals import bootstrap_mean
from stunet.metrics.paired import holm, paired_tests

NAN = math.nan


def one_column(differences: list[float]) -> float:
    a = np.array(differences)[:, None]
    return paired_tests(a, np.zeros_like(a), seed=0)[0].p


def by_enumeration(differences: list[float]) -> float:
    """Share of all sign patterns whose rank sum is as far from its mean; zeros are dropped."""
    moved = np.array([d for d in differences if d != 0])
    ranks = rankdata(np.abs(moved))
    signs = np.array(list(itertools.product((0, 1), repeat=len(moved))))
    away = np.abs(signs @ ranks - ranks.sum() / 2)
    return float(np.mean(away >= abs(ranks[moved > 0].sum() - ranks.sum() / 2) - 1e-9))


@pytest.mark.parametrize(
    "differences",
    [
        [0.3],
        [0.1, -0.2],
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.5, -0.1, 0.25, 0.75, -0.3, 1.0, 0.15, 2.0],
        [1.0, 1.0, -1.0, 2.0, 2.0, 3.0],  # ties
        [0.0, 0.0, 1.0, 2.0, -3.0, 4.0, 5.0],  # zeros
        [1.0, -2.0, 2.0, 3.0, 0.0, 3.0, 5.0, 5.0, -5.0, 6.0, 7.0],
    ],
)
def test_exact_on_few_patients(differences: list[float]) -> None:
    assert one_column(differences) == pytest.approx(by_enumeration(differences), abs=1e-12)


def test_five_wins_out_of_five_are_one_in_sixteen() -> None:
    assert one_column([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)


def test_zeros_do_not_spoil_exactness_on_more_patients() -> None:
    moved = [0.01 * k * (-1) ** (k % 3 == 0) for k in range(1, 16)]
    assert one_column([0.0] * 8 + moved) == pytest.approx(by_enumeration(moved), abs=1e-12)


def test_no_difference_and_no_patient() -> None:
    a = np.array([[0.5, NAN, 0.9], [0.7, 0.3, NAN]])
    b = np.array([[0.5, 0.1, NAN], [0.7, NAN, 0.8]])
    same, none, _ = paired_tests(a, b, seed=0)
    assert (same.p, same.p_holm, same.n) == (1.0, 1.0, 2)
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)
    assert math.isnan(none.p)
    assert math.isnan(none.p_holm)
    assert (none.n, none.difference.n) == (0, 0)


def test_differences_come_with_their_interval() -> None:
    rng = np.random.default_rng(0)
    b = rng.beta(6, 2, (20, 3))
    a = b + rng.normal(0.02, 0.01, b.shape)
    a[4, 1] = NAN
    tests = paired_tests(a, b, seed=7)
    for k, test in enumerate(tests):
        pairs = np.isfinite(a[:, k])
        assert test.difference == bootstrap_mean((a - b)[pairs, k], seed=7)
        assert test.n == pairs.sum()
        assert 0 < test.difference.low < test.difference.mean < test.difference.high < 0.04
        assert test.p < 1e-4
    assert [t.p_holm for t in tests] == pytest.approx(holm(np.array([t.p for t in tests])).tolist())


def test_swapping_the_runs_turns_the_difference_only() -> None:
    a, b = np.random.default_rng(1).random((2, 9, 2))
    for one, other in zip(paired_tests(a, b, 0), paired_tests(b, a, 0), strict=True):
        assert one.p == other.p
        assert one.difference.mean == pytest.approx(-other.difference.mean)


def test_holm_by_hand() -> None:
    """Smallest times 4, next times 3, then 2 and 1, never less than the one before."""
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, NAN, 0.5])), [1.0, NAN, 1.0])
    np.testing.assert_allclose(holm(np.array([0.2, NAN, 0.01])), [0.2, NAN, 0.02])
    assert holm(np.array([])).size == 0


def test_runs_of_other_shapes_are_an_error() -> None:
    with pytest.raises(DataError, match=r"run A has scores \(3, 2\) and run B \(2, 2\)"):
        paired_tests(np.zeros((3, 2)), np.zeros((2, 2)), seed=0)
