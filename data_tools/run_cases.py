"""Run one function over many cases, here or on Dask workers, and collect the cases that fail.

A case may fail for reasons of its own (a damaged file, too little memory) without stopping the
others. Any other exception is a bug and ends the run. Workers are started by `workers.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stunet.errors import StunetError
from stunet.types import RawCase

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Admission:
    """How many cases may be in work at a time on this machine.

    Attributes:
        workers: At most so many.
        memory_bytes: What they may take together; a case that takes more runs alone.
        need_bytes: Memory that a case takes.
    """

    workers: int
    memory_bytes: int
    need_bytes: Callable[[RawCase], int]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one case: a result, or the reason why there is none."""

    case_id: str
    result: Result | None = None
    failure: str | None = None


def run_cases(
    task: Callable[[RawCase], Result],
    cases: Sequence[RawCase],
    pool: Client | None,
    admission: Admission | None,
    on_done: Progress,
) -> list[Outcome[Result]]:
    """Apply `task` to every case.

    Args:
        task: Must be picklable if there is a pool.
        cases: Taken in order.
        pool: From `open_workers`.
        admission: Bounds memory where cases share this machine's; None hands all to the pool.
        on_done: Called in this process with the id of each case that ended, well or not.

    Returns:
        One outcome per case, in the order of `cases`.
    """
    outcomes: dict[str, Outcome[Result]] = {}
    attempts = _inline(task, cases) if pool is None else _pooled(task, cases, pool, admission)
    for outcome in attempts:
        outcomes[outcome.case_id] = outcome
        on_done(outcome.case_id)
    return [outcomes[case.case_id] for case in cases]


def _attempt(task: Callable[[RawCase], Result], case: RawCase) -> Outcome[Result]:
    try:
        return Outcome(case.case_id, result=task(case))
    except MemoryError:
        return Outcome(case.case_id, failure="out of memory; use fewer workers")
    except StunetError as error:
        return Outcome(case.case_id, failure=str(error).removeprefix(f"case {case.case_id}: "))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return Outcome(case.case_id, failure=f"{place}{error.strerror or error}")


def _inline(
    task: Callable[[RawCase], Result], cases: Sequence[RawCase]
) -> Iterator[Outcome[Result]]:
    for case in cases:
        yield _attempt(task, case)


def _pooled(
    task: Callable[[RawCase], Result],
    cases: Sequence[RawCase],
    pool: Client,
    admission: Admission | None,
) -> Iterator[Outcome[Result]]:
    from distributed import KilledWorker, as_completed

    waiting = deque(cases)
    running: dict[Any, RawCase] = {}  # by the key of its future
    suspects: list[RawCase] = []
    ended = as_completed()
    while waiting or running:
        while waiting and _has_room(waiting[0], running.values(), admission):
            future = pool.submit(_attempt, task, waiting[0], pure=False)
            running[future.key] = waiting.popleft()
            ended.add(future)
        future = next(ended)
        case = running.pop(future.key)
        try:
            yield future.result()
        except KilledWorker:  # perhaps by another case that its workers had in hand as well
            suspects.append(case)
    for case in suspects:
        try:
            yield pool.submit(_attempt, task, case, pure=False).result()
        except KilledWorker:
            reason = "its worker died again and again, alone too, likely out of memory"
            yield Outcome(case.case_id, failure=f"{reason}; use a machine with more")


def _has_room(case: RawCase, running: Collection[RawCase], admission: Admission | None) -> bool:
    if admission is None or not running:
        return True
    if len(running) >= admission.workers:
        return False
    return sum(map(admission.need_bytes, (case, *running))) <= admission.memory_bytes
