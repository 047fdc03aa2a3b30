"""Confidence intervals of mean scores over patients by the studentised bootstrap.

The patient is what is drawn: its classes come along together. `docs/metrics.md` holds the coverage
that was measured and why the plain percentile bootstrap was not taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CHUNK = 2**22  # resampled patients at once: 32 MB of float64


@dataclass(frozen=True)
class Interval:
    """A mean over patients and its confidence interval.

    Attributes:
        mean: Of what was scored; NaN if nothing was.
        low, high: Ends of the interval; NaN for fewer than two patients.
        n: Patients with at least one score.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: np.ndarray, seed: int, repeats: int = 5_000, level: float = 0.95
) -> Interval:
    """Interval of the mean of one score over patients.

    Args:
        values: (n,) a score per patient, in an order that does not change; NaN are left out.
        seed: The same seed and number of patients draw the same resamples.
        repeats: Resamples; with 5000 the ends of the interval are quantiles to within 0.4%.
        level: Confidence.
    """
    return bootstrap_macro(np.asarray(values, np.float64).reshape(-1, 1), seed, repeats, level)


def bootstrap_macro(
    scores_nk: np.ndarray, seed: int, repeats: int = 5_000, level: float = 0.95
) -> Interval:
    """Interval of the mean over classes of each class's mean over the patients that have it.

    The error of each resample's mean is divided by that resample's standard error (bootstrap-t),
    which makes the interval as skewed as the scores. The standard error is that of the linear
    approximation to the macro mean. The interval is kept in the range that such a mean of these
    scores can take.

    Args:
        scores_nk: (n patients, K classes), NaN where a patient has no score of a class.
        seed: As for `bootstrap_mean`.
        repeats: As for `bootstrap_mean`.
        level: Confidence.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.
    """
    scored_nk = np.isfinite(scores_nk)
    rows, columns = scored_nk.any(1), scored_nk.any(0)
    scored = scored_nk[rows][:, columns]
    scores = np.where(scored, scores_nk[rows][:, columns], 0.0)
    n = len(scores)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    centre = scores.sum(0) / scored.sum(0)
    mean = float(centre.mean())
    if scored.sum(0).max() < 2:  # nothing tells how patients differ
        return Interval(mean, math.nan, math.nan, n)
    deviation = np.where(scored, scores - centre, 0.0)
    _, (error,) = _mean_and_error(np.ones((1, n)), deviation, scored)
    if error == 0:
        return Interval(mean, mean, mean, n)
    t = np.concatenate(
        [_studentised(drawn, deviation, scored) for drawn in _resamples(n, seed, repeats)]
    )
    t_low, t_high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    lowest = np.where(scored, scores, np.inf).min(0).mean()
    highest = np.where(scored, scores, -np.inf).max(0).mean()
    low, high = np.clip([mean - t_high * error, mean - t_low * error], lowest, highest)
    return Interval(mean, float(low), float(high), n)


def _resamples(n: int, seed: int, repeats: int) -> Iterator[np.ndarray]:
    """How often each of n patients is drawn, (some repeats, n) at a time."""
    rng = np.random.default_rng((seed, n))
    chunk = max(1, _CHUNK // n)
    for start in range(0, repeats, chunk):
        R = min(chunk, repeats - start)
        patient = rng.integers(n, size=(R, n)) + n * np.arange(R)[:, None]
        yield np.bincount(patient.ravel(), minlength=R * n).reshape(R, n).astype(np.float64)


def _studentised(drawn: np.ndarray, deviation: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Error of each resample's mean over its standard error; infinite if that is zero."""
    mean, error = _mean_and_error(drawn, deviation, scored)
    t = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
    return np.divide(mean, error, out=t, where=error > 0)


def _mean_and_error(
    drawn: np.ndarray, deviation: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Macro mean of the deviations and its standard error.

    A class that no drawn patient has is left out of the mean.

    Args:
        drawn: (R, n) how often each patient counts.
        deviation: (n, K) score minus the mean of its class over all patients, 0 if not scored.
        scored: (n, K) whether there is a score.

    Returns:
        (R,) each.
    """
    count = drawn @ scored
    each = np.divide(1.0, count, out=np.zeros_like(count), where=count > 0)
    class_mean = (drawn @ deviation) * each
    classes = (count > 0).sum(1)
    influence = (each @ deviation.T - (class_mean * each) @ scored.T) / classes[:, None]
    return class_mean.sum(1) / classes, np.sqrt((drawn * influence**2).sum(1))
