"""Percentiles in two passes against numpy's, which sorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_tools import percentiles as module
from data_tools.percentiles import percentiles

PERCENTS = (0.0, 0.05, 0.5, 37.3, 50.0, 99.5, 99.95, 100.0)
finite = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_equal_numpy_for_any_values(values: np.ndarray) -> None:
    expected = np.percentile(values.astype(np.float64), PERCENTS)
    found = percentiles(lambda: [values], PERCENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_parts_of_a_scan_count_as_one(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_VALUES", 1000)
    scan = np.random.default_rng(0).normal(-300.0, 500.0, (40, 30, 20)).astype(dtype)
    found = percentiles(lambda: np.array_split(scan, 7), PERCENTS)
    expected = np.percentile(scan.astype(np.float64), PERCENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
