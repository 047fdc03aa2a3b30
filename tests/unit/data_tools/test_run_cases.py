import os

import pytest

from data_tools.run_cases import Outcome, open_pool, run_cases
from stunet.errors import VolumeError
from stunet.types import RawCase

CASES = tuple(RawCase(name, ("image",), "label") for name in ("a", "b", "c", "d"))


def shout(case: RawCase) -> str:
    if case.case_id == "b":
        raise VolumeError("case b: is damaged; replace it")
    if case.case_id == "c":
        raise MemoryError
    return case.case_id.upper()


def test_failing_cases_do_not_stop_the_others() -> None:
    done: list[str] = []
    with open_pool(workers=0, scheduler=None) as pool:
        outcomes = run_cases(shout, CASES, pool, at_once=1, on_done=done.append)
    assert outcomes == [
        Outcome("a", result="A"),
        Outcome("b", failure="is damaged; replace it"),
        Outcome("c", failure="out of memory; use fewer workers"),
        Outcome("d", result="D"),
    ]
    assert done == ["a", "b", "c", "d"]


def test_a_bug_is_not_a_failing_case() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cases(lambda case: 1 // 0, CASES, None, at_once=1, on_done=lambda case_id: None)


def die_on_b(case: RawCase) -> str:
    if case.case_id == "b":
        os._exit(9)  # what the kernel does to a process that takes too much memory
    return case.case_id.upper()


@pytest.mark.slow
def test_a_worker_that_dies_fails_one_case_only() -> None:
    with open_pool(workers=2, scheduler=None) as pool:
        outcomes = run_cases(die_on_b, CASES, pool, at_once=2, on_done=lambda case_id: None)
    assert [outcome.result for outcome in outcomes] == ["A", None, "C", "D"]
    assert "its worker died again and again" in (outcomes[1].failure or "")
