from __future__ import annotations

import math
from itertools import pairwise

import pytest

from launch.runs_page import BUCKETS, chart, nice_ticks, thin
from launch.runs_plot import curve, plot


def dots(text: str, width: int, height: int) -> set[tuple[int, int]]:
    """The dots of a plot as (column, row), by the layout of Braille: dots 1 2 3 7, then 4 5 6 8."""
    bits = ((0, 1, 2, 6), (3, 4, 5, 7))
    lines = [line.split("│")[1] for line in text.splitlines() if "│" in line]
    assert [len(line) for line in lines] == [width] * height
    return {
        (2 * column + x, 4 * row + y)
        for row, line in enumerate(lines)
        for column, cell in enumerate(line)
        for x in range(2)
        for y in range(4)
        if (ord(cell) - 0x2800) >> bits[x][y] & 1
    }


def test_a_straight_line_is_drawn_from_corner_to_corner() -> None:
    seen = dots(plot("up", [(0, 0), (10, 5)], width=4, height=2), 4, 2)
    assert seen == {(n, 7 - n) for n in range(8)}


def test_a_constant_and_a_single_point_can_be_drawn() -> None:
    assert dots(plot("flat", [(0, 3), (9, 3)], width=3, height=1), 3, 1) == {
        (n, 0) for n in range(6)
    }
    assert len(dots(plot("one", [(5, 3)], width=3, height=1), 3, 1)) == 1
    assert plot("none", []) == "none: nothing yet"


def test_gaps_of_a_curve_are_left_out() -> None:
    rows = [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}, {"step": 3}]
    assert curve(rows, "loss") == [(2.0, 0.5)]


def test_thinning_keeps_spikes_and_order() -> None:
    points = [(float(x), math.sin(x / 300)) for x in range(10_000)]
    points[777] = (777.0, 40.0)
    kept = thin(points)
    assert len(kept) <= 2 * BUCKETS
    assert (777.0, 40.0) in kept
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert thin(points[:50]) == points[:50]


@pytest.mark.parametrize("low, high", [(0.13, 0.87), (-3e-7, 9e-6), (5.0, 5.0), (0, 12345), (0, 0)])
def test_ticks_are_even_and_enclose_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    gaps = [b - a for a, b in pairwise(ticks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))


def test_a_chart_places_points_and_restarts_in_percent() -> None:
    made = chart("Loss", "", [(100, 0.0), (200, 1.0)], restarts=[50, 150])
    assert made.path == "0.00,100.00 100.00,0.00"
    assert made.marks == [50.0]
    assert made.ticks[0] == ("0", 100.0)
