from __future__ import annotations

import os
import signal

import pytest

from stunet.engine.signals import stop_request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_stop_signal_raises_the_flag_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_request() as request:
        assert not request
        os.kill(os.getpid(), number)
        assert request
        assert request.signal_name == number.name
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), stop_request():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before
