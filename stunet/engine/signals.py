"""Being asked to stop: a flag that the system sets and the loop reads between two steps.

Not SIGUSR1: NCCL may use it inside a rank. Batch scripts send SIGTERM or SIGUSR2, Ctrl-C sends
SIGINT, and torchrun sends that once more to each rank: any number of signals is one request.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        signal_name: Name of the signal that asked, or an empty string.
    """

    def __init__(self) -> None:
        self.signal_name = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name


def end_with_parent() -> None:
    """Have the system send SIGTERM to this process when the one that started it dies.

    torchrun gives each rank a session of its own: where only the launcher is killed, its ranks
    would train on beside a run that is started anew in the same folder. Linux only.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside, the stop signals only raise a flag; afterwards they do what they did before.

    Must be entered in the main thread.
    """
    request = StopRequest()
    before = {number: signal.signal(number, request._note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
