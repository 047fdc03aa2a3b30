"""Exact percentiles of values that need not be in memory at once.

Two passes and a constant amount of memory, instead of sorting a copy of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

HALF_BITS = 16  # of a float32: found in two steps
COUNTED_VALUES = 1 << 22  # at a time: bincount casts to int64, 32 MB

Parts = Callable[[], Iterable[np.ndarray]]


def percentiles(parts: Parts, percents: Sequence[float]) -> tuple[float, ...]:
    """Percentiles with linear interpolation, as `numpy.percentile` gives of all values together.

    Args:
        parts: Gives all values anew each time it is called, in arrays of any shape; finite, taken
            as float32. At least one value.
        percents: 0 to 100.
    """
    upper = _count(key >> HALF_BITS for key in _keys(parts))
    wanted = [percent / 100 * (int(upper.sum()) - 1) for percent in percents]
    last = int(upper.sum()) - 1
    ranks = sorted({rank for place in wanted for rank in (int(place), min(int(place) + 1, last))})
    ends = np.cumsum(upper)
    halves = {rank: int(np.searchsorted(ends, rank, side="right")) for rank in ranks}
    lower = {half: _count(_lower_halves(parts, half)) for half in set(halves.values())}
    values = {}
    for rank, half in halves.items():
        before = int(ends[half - 1]) if half else 0
        low = int(np.searchsorted(np.cumsum(lower[half]), rank - before, side="right"))
        values[rank] = _value(half << HALF_BITS | low)
    return tuple(
        values[int(place)] + (values[min(int(place) + 1, last)] - values[int(place)]) * (place % 1)
        for place in wanted
    )


def _keys(parts: Parts) -> Iterable[np.ndarray]:
    """Unsigned integers that are ordered as the float32 values are."""
    for part in parts():
        flat = part.reshape(-1)
        for start in range(0, flat.size, COUNTED_VALUES):
            bits = flat[start : start + COUNTED_VALUES].astype(np.float32).view(np.uint32)
            negative = bits >> 31 == 1
            yield np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _lower_halves(parts: Parts, half: int) -> Iterable[np.ndarray]:
    for key in _keys(parts):
        yield key[key >> HALF_BITS == half] & np.uint32((1 << HALF_BITS) - 1)


def _count(parts: Iterable[np.ndarray]) -> np.ndarray:
    counts = np.zeros(1 << HALF_BITS, np.int64)
    for part in parts:
        counts += np.bincount(part, minlength=counts.size)
    return counts


def _value(key: int) -> float:
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
