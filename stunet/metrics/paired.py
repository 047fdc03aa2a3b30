"""Paired comparison of two runs on the same patients, column by column.

A column is whatever was scored once per patient: a class, a group, a data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from stunet.errors import DataError
from stunet.metrics.intervals import Interval, bootstrap_mean


@dataclass(frozen=True)
class PairedTest:
    """Run A against run B in one column.

    Attributes:
        difference: Mean of A - B over the patients that both scored, with its interval.
        p: Two-sided, of the Wilcoxon signed-rank test; 1 if all differences are zero, NaN if no
            patient was scored by both.
        p_holm: `p` corrected for the number of columns that have one.
        n: Patients that both scored.
    """

    difference: Interval
    p: float
    p_holm: float
    n: int


def paired_tests(a_nk: np.ndarray, b_nk: np.ndarray, seed: int) -> tuple[PairedTest, ...]:
    """Test in every column whether run A and run B differ.

    Args:
        a_nk: (n patients, K columns) scores of run A, NaN where there is none.
        b_nk: Those of run B, the same patients in the same order.
        seed: Of the intervals.

    Returns:
        A test per column.

    Raises:
        DataError: The runs differ in shape.
    """
    if a_nk.shape != b_nk.shape:
        raise DataError(
            f"run A has scores {a_nk.shape} and run B {b_nk.shape} (patients, columns); compare "
            "the patients and classes that both have"
        )
    differences = a_nk - b_nk
    columns = [column[np.isfinite(column)] for column in differences.T]
    p = np.array([_signed_rank(column) for column in columns])
    rows = zip(columns, p.tolist(), holm(p).tolist(), strict=True)
    return tuple(
        PairedTest(bootstrap_mean(column, seed), p_column, p_holm, len(column))
        for column, p_column, p_holm in rows
    )


def holm(p: np.ndarray) -> np.ndarray:
    """Correct (K,) p-values for their number so that any false alarm is as rare as p says.

    NaN are no tests: they do not count and stay NaN.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Stat. 1979.
    """
    tests = np.isfinite(p).sum()
    ascending = np.argsort(p)[:tests]  # NaN sort to the end
    corrected = np.full(p.shape, np.nan)
    steps = p[ascending] * np.arange(tests, 0, -1)
    corrected[ascending] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _signed_rank(differences: np.ndarray) -> float:
    """Exact up to 50 different sizes of difference, or 13 with ties; normal beyond."""
    if len(differences) == 0:
        return math.nan
    moved = differences[differences != 0]  # as Wilcoxon did; zeros would keep scipy from "exact"
    return float(wilcoxon(moved).pvalue) if len(moved) else 1.0
