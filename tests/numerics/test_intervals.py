"""How often the 95% intervals hold the true mean: 500 simulated studies each, seeds fixed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from stunet.metrics.intervals import bootstrap_macro, bootstrap_mean

STUDIES = 500
ABOUT_95 = (0.92, 0.98)  # three standard errors of a share of 500 around 0.95
Draw = Callable[[np.random.Generator, int], np.ndarray]


def dice_like(rng: np.random.Generator, patients: int) -> np.ndarray:
    return rng.beta(6, 1.2, patients)  # mean 5/6, a long tail to the left


def hausdorff_like(rng: np.random.Generator, patients: int) -> np.ndarray:
    return rng.lognormal(1.0, 0.6, patients)


def dice_with_failures(rng: np.random.Generator, patients: int) -> np.ndarray:
    return np.where(rng.random(patients) < 0.1, rng.beta(2, 5, patients), rng.beta(20, 2, patients))


MEANS = {
    dice_like: 6 / 7.2,
    hausdorff_like: math.exp(1.0 + 0.6**2 / 2),
    dice_with_failures: 0.1 * 2 / 7 + 0.9 * 20 / 22,
}


def coverage(draw: Draw, patients: int) -> float:
    hits = 0
    for study in range(STUDIES):
        values = draw(np.random.default_rng((patients, study)), patients)
        interval = bootstrap_mean(values, seed=study, repeats=1000)
        hits += interval.low <= MEANS[draw] <= interval.high
    return hits / STUDIES


@pytest.mark.parametrize(
    ("draw", "patients"),
    [
        (dice_like, 10),
        (dice_like, 20),
        (dice_like, 30),
        (dice_like, 50),
        (hausdorff_like, 30),
        (dice_with_failures, 50),
    ],
)
def test_a_mean_over_patients_is_covered(draw: Draw, patients: int) -> None:
    assert ABOUT_95[0] <= coverage(draw, patients) <= ABOUT_95[1]


def test_the_percentile_bootstrap_would_not_do() -> None:
    """The same studies of ten patients, so that the test above is known to be able to fail."""
    hits = 0
    for study in range(STUDIES):
        values = dice_like(np.random.default_rng((10, study)), 10)
        drawn = np.random.default_rng(study).choice(values, (1000, 10)).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        hits += low <= MEANS[dice_like] <= high
    assert hits / STUDIES < 0.91


CLASS_LOGITS = np.linspace(0.5, 3.0, 10)
CLASS_SHARES = np.linspace(0.3, 1.0, 10)  # of patients who have the class


def patients_of_ten_classes(rng: np.random.Generator, patients: int) -> np.ndarray:
    """Good and bad patients, easy and hard classes; NaN where a patient lacks the class."""
    logits = CLASS_LOGITS + rng.normal(0, 0.5, (patients, 1)) + rng.normal(0, 0.6, (patients, 10))
    scores = expit(logits)
    scores[rng.random(scores.shape) > CLASS_SHARES] = np.nan
    return scores


def true_macro_mean() -> float:
    """Over the logit-normal distribution, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    sd = math.hypot(0.5, 0.6)
    means = (expit(CLASS_LOGITS[:, None] + sd * nodes) * weights).sum(1) / weights.sum()
    return float(means.mean())


@pytest.mark.parametrize("patients", [10, 30])
def test_a_macro_mean_with_gaps_is_covered(patients: int) -> None:
    hits = 0
    for study in range(STUDIES):
        scores = patients_of_ten_classes(np.random.default_rng((patients, study)), patients)
        interval = bootstrap_macro(scores, seed=study, repeats=1000)
        hits += interval.low <= true_macro_mean() <= interval.high
    assert ABOUT_95[0] <= hits / STUDIES <= ABOUT_95[1]
