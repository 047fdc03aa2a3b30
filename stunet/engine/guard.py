"""Whether a step's loss is so far from the last ones that its gradient would do damage.

Non-finite numbers need no judgement: `TrainEngine` skips those steps itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from stunet.errors import ConfigError

DEVIATION_OF_MAD = 1.4826  # standard deviations of a normal distribution per median deviation
LEAST_DEVIATION = 0.1  # of Dice + CE, which differs by some tenths from patch to patch


@dataclass(frozen=True)
class GuardConfig:
    """When a finite loss counts as damage.

    Attributes:
        spike_deviations: So many standard deviations above the median of the last losses; both are
            robust, and the deviation is taken to be 0.1 at least. Patches of a rare structure
            reach a few. None: no loss is a spike.
        window: How many of the last losses are looked at; no spike before there are so many.
    """

    spike_deviations: float | None = 20.0
    window: int = 64

    def __post_init__(self) -> None:
        if self.spike_deviations is not None and not self.spike_deviations > 0:
            raise ConfigError(
                f"loop.guard.spike_deviations {self.spike_deviations}: must be above 0; null "
                "switches the guard off"
            )
        if self.window < 2:
            raise ConfigError(f"loop.guard.window {self.window}: must be at least 2")


def is_spike(loss: float, recent: Sequence[float], config: GuardConfig) -> bool:
    """Whether a loss, given the last good ones, should not move the weights.

    >>> is_spike(9.0, [1.0, 1.1, 0.9, 1.0], GuardConfig(window=4))
    True
    >>> is_spike(2.9, [1.0, 1.1, 0.9, 1.0], GuardConfig(window=4))
    False
    """
    if config.spike_deviations is None or len(recent) < config.window:
        return False
    middle = median(recent)
    deviation = DEVIATION_OF_MAD * median(abs(loss - middle) for loss in recent)
    return loss > middle + config.spike_deviations * max(deviation, LEAST_DEVIATION)
