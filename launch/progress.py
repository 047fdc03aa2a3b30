"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int, str], None]
PLAIN_EVERY_S = 10.0


@contextmanager
def case_progress(title: str, quiet: bool = False) -> Iterator[Advance]:
    """Yield `advance(done, total, case_id)`, which does nothing if `quiet`."""
    if quiet:
        yield lambda done, total, case_id: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)

            def draw(done: int, total: int, case_id: str) -> None:
                bar.update(task, completed=done, total=total, description=f"{title} {case_id}")

            yield draw
        return

    last = time.monotonic()

    def tell(done: int, total: int, case_id: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PLAIN_EVERY_S:
            last = time.monotonic()
            print(f"{title}: {done}/{total} {case_id}", file=sys.stderr, flush=True)

    yield tell
