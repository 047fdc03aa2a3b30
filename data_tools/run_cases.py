"""Run one function over many cases, here or on Dask workers, and collect the cases that fail.

A case may fail for reasons of its own (a damaged file, too little memory) without stopping the
others. Any other exception is a bug and ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stunet.errors import StunetError
from stunet.types import RawCase

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one case: a result, or the reason why there is none."""

    case_id: str
    result: Result | None = None
    failure: str | None = None


@contextmanager
def open_pool(workers: int, scheduler: str | None) -> Iterator[Client | None]:
    """Dask workers for the duration of a block; None means that cases run in this process.

    Args:
        workers: Local worker processes of one thread each; 0 for none.
        scheduler: Address of a running scheduler, e.g. `tcp://node7:8786`, used instead.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    from distributed import Client, LocalCluster  # 0.5 s that inline runs never need

    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # the caller limits how many cases run at once; see `run_cases`
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )
    with cluster, Client(cluster) as client:
        yield client


def run_cases(
    task: Callable[[RawCase], Result],
    cases: Sequence[RawCase],
    pool: Client | None,
    at_once: int | None,
    on_done: Progress,
) -> list[Outcome[Result]]:
    """Apply `task` to every case.

    Args:
        task: Must be picklable if there is a pool.
        cases: Taken in order.
        pool: From `open_pool`.
        at_once: Most cases in work at a time, to bound memory; None hands all to the pool.
        on_done: Called in this process with the id of each case that ended, well or not.

    Returns:
        One outcome per case, in the order of `cases`.
    """
    outcomes: dict[str, Outcome[Result]] = {}
    attempts = _inline(task, cases) if pool is None else _pooled(task, cases, pool, at_once)
    for outcome in attempts:
        outcomes[outcome.case_id] = outcome
        on_done(outcome.case_id)
    return [outcomes[case.case_id] for case in cases]


def _attempt(task: Callable[[RawCase], Result], case: RawCase) -> Outcome[Result]:
    try:
        return Outcome(case.case_id, result=task(case))
    except MemoryError:
        return Outcome(case.case_id, failure="out of memory; use fewer workers")
    except (StunetError, OSError) as error:
        return Outcome(case.case_id, failure=str(error).removeprefix(f"case {case.case_id}: "))


def _inline(
    task: Callable[[RawCase], Result], cases: Sequence[RawCase]
) -> Iterator[Outcome[Result]]:
    for case in cases:
        yield _attempt(task, case)


def _pooled(
    task: Callable[[RawCase], Result], cases: Sequence[RawCase], pool: Client, at_once: int | None
) -> Iterator[Outcome[Result]]:
    from distributed import KilledWorker, as_completed

    def submit(case: RawCase) -> None:
        future = pool.submit(_attempt, task, case, pure=False)
        case_of[future.key] = case
        ended.add(future)

    case_of: dict[Any, RawCase] = {}
    ended = as_completed()
    waiting = iter(cases)
    for case in islice(waiting, at_once):
        submit(case)
    for future in ended:
        try:
            yield future.result()
        except KilledWorker:
            reason = "its worker died again and again, likely out of memory; use fewer workers"
            yield Outcome(case_of[future.key].case_id, failure=reason)
        for case in islice(waiting, 1):
            submit(case)
