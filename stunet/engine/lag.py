"""Finds the rank that all others wait for, before somebody looks for it by hand.

Ranks step together, so that each takes as long as the slowest. What differs is the time that a
rank needs for itself, before it first meets the others: to get its patches and to compute the
loss. Under ZeRO 3 weights are sent already in that time, which hides a slow device; slow data
shows at every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FACTOR = 1.5  # times the median of the ranks
WORTH_SAYING = 0.05  # of a step's time: what is lost must be worth looking for
PATIENCE = 3  # intervals in a row; a single one may be a page cache or a neighbour's job


@dataclass(frozen=True)
class Lag:
    """The slowest rank of an interval.

    Attributes:
        rank: Which.
        ratio: Its own time in units of the median rank's.
        costs: Part of a step's time that the others wait for it.
    """

    rank: int
    ratio: float
    costs: float

    @property
    def matters(self) -> bool:
        """Whether it is much slower than the others, and that slows the training."""
        return self.ratio > FACTOR and self.costs > WORTH_SAYING


def slowest(own_s: Sequence[float], step_s: float) -> Lag:
    """Compare the ranks' own seconds in a step that took `step_s`.

    >>> slowest([0.2, 0.2, 0.5], step_s=1.0)
    Lag(rank=2, ratio=2.5, costs=0.3)
    """
    usual, most = median(own_s), max(own_s)
    return Lag(own_s.index(most), most / usual, (most - usual) / step_s)


class LagWatch:
    """Speaks up once a rank has lagged for several intervals in a row.

    Args:
        hosts: The name of each rank's machine.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = tuple(hosts)
        self._suspect = -1
        self._times = 0

    def warning(self, lag: Lag) -> str:
        """One line if the rank should be looked at; an empty string if not, or if said before."""
        if not lag.matters:
            self._suspect = -1
            return ""
        self._times = self._times + 1 if lag.rank == self._suspect else 1
        self._suspect = lag.rank
        if self._times != PATIENCE:
            return ""
        return (
            f"rank {lag.rank} on {self._hosts[lag.rank]} has been {lag.ratio:.1f} times slower "
            f"than the others for {PATIENCE} intervals and costs {lag.costs:.0%} of the time; "
            "look at its device, disk and other jobs"
        )
