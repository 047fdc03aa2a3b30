from __future__ import annotations

import math
import random

import numpy as np
import pytest

from stunet.engine.guard import GuardConfig, is_spike
from stunet.errors import ConfigError


def test_the_threshold_is_that_of_a_robust_normal_fit() -> None:
    draws = random.Random(3)
    recent = [draws.gauss(1.0, 0.5) for _ in range(64)]
    middle = float(np.median(recent))
    # Half of a normal distribution lies within 0.67449 standard deviations.
    deviation = float(np.median(np.abs(np.array(recent) - middle))) / 0.67449
    config = GuardConfig(spike_deviations=5.0)
    assert not is_spike(middle + 4.999 * deviation, recent, config)
    assert is_spike(middle + 5.001 * deviation, recent, config)
    # A tenth of the losses may be anything: the threshold hardly moves.
    spoilt = [1e6 if number % 10 == 0 else loss for number, loss in enumerate(recent)]
    assert is_spike(middle + 8 * deviation, spoilt, config)


def test_flat_losses_do_not_make_every_step_a_spike() -> None:
    recent = [0.2] * 64
    assert not is_spike(2.19, recent, GuardConfig())
    assert is_spike(2.21, recent, GuardConfig())


def test_nothing_is_judged_before_there_is_something_to_compare_with() -> None:
    assert not is_spike(1e9, [1.0] * 63, GuardConfig())
    assert not is_spike(1e9, [1.0] * 64, GuardConfig(spike_deviations=None))


def test_a_loss_that_falls_or_is_not_a_number_is_no_spike() -> None:
    recent = [5.0] * 64
    assert not is_spike(-100.0, recent, GuardConfig())
    assert not is_spike(math.nan, recent, GuardConfig())


@pytest.mark.parametrize("settings", [{"spike_deviations": 0.0}, {"window": 1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"loop\.guard\.\w+ \d"):
        GuardConfig(**settings)  # type: ignore[arg-type]
