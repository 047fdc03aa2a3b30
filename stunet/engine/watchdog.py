"""Ends a process whose steps no longer finish, so that whoever started it can start it anew.

A rank hangs where another died without a word, a file system stopped answering, or a lock is never
released. Not for ranks that are slow: `lag.py`.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HUNG_EXIT_CODE = 70  # EX_SOFTWARE; neither a user error (2) nor preempted and saved (75)


class Watchdog:
    """Leaves the process when `paused` was not entered for a time; a context manager.

    Args:
        stacks: Where the stacks of all threads are written before.
        timeout_s: That time; None: wait for ever.
    """

    def __init__(self, stacks: Path, timeout_s: float | None) -> None:
        self._stacks = stacks
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._paused = False
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count; a new turn begins after it."""
        self._paused = True
        yield
        self._last = time.monotonic()
        self._paused = False

    def _watch(self) -> None:
        assert self._timeout_s is not None
        while not self._closed.wait(self._timeout_s / 20):
            if not self._paused and time.monotonic() - self._last > self._timeout_s:
                self._leave()

    def _leave(self) -> None:
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        with self._stacks.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        print(
            f"stunet: no step finished for {self._timeout_s:g} s (loop.hang_timeout_s), this rank "
            f"leaves; {self._stacks} tells where it hung",
            file=sys.stderr,
            flush=True,
        )
        os._exit(HUNG_EXIT_CODE)

    def __enter__(self) -> Watchdog:
        if self._timeout_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed.set()
