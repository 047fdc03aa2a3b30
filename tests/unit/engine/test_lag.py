from __future__ import annotations

import pytest

from stunet.engine.lag import Lag, LagWatch, slowest

HOSTS = ("n1", "n1", "n2", "n2")


def test_the_slowest_rank_is_compared_with_the_median() -> None:
    lag = slowest([0.1, 0.1, 0.1, 0.3], step_s=0.4)
    assert lag.rank == 3
    assert lag.ratio == pytest.approx(3.0)
    assert lag.costs == pytest.approx(0.5)
    assert lag.matters


def test_what_costs_next_to_nothing_does_not_matter() -> None:
    assert not slowest([0.001, 0.001, 0.004], step_s=1.0).matters
    assert not slowest([0.8, 0.8, 1.0], step_s=1.2).matters


def test_a_rank_is_named_with_its_host_after_three_intervals_and_once() -> None:
    watch, slow = LagWatch(HOSTS), Lag(rank=2, ratio=2.0, costs=0.25)
    said = [watch.warning(slow) for _ in range(5)]
    assert said[:2] == ["", ""] and said[3:] == ["", ""]
    assert said[2].startswith("rank 2 on n2 has been 2.0 times slower than the others")
    assert "costs 25% of the time" in said[2]


def test_an_interval_without_lag_or_another_rank_starts_the_count_anew() -> None:
    watch, slow, fine = LagWatch(HOSTS), Lag(2, 2.0, 0.25), Lag(2, 1.1, 0.01)
    other = Lag(1, 2.0, 0.25)
    for lag in (slow, slow, fine, slow, slow, other, other):
        assert watch.warning(lag) == ""
    assert watch.warning(other).startswith("rank 1 on n1")
