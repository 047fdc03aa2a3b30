import os
import time
from functools import partial
from pathlib import Path

import pytest

from data_tools.run_cases import Admission, Outcome, run_cases
from data_tools.workers import SlurmConfig, open_workers
from stunet.errors import VolumeError
from stunet.types import RawCase

CASES = tuple(RawCase(name, ("image",), "label") for name in ("a", "b", "c", "d"))


def shout(case: RawCase) -> str:
    if case.case_id == "b":
        raise VolumeError("case b: is damaged; replace it")
    if case.case_id == "c":
        raise MemoryError
    return case.case_id.upper()


def ignore(case_id: str) -> None:
    pass


def test_failing_cases_do_not_stop_the_others() -> None:
    done: list[str] = []
    with open_workers(0, None, SlurmConfig()) as pool:
        outcomes = run_cases(shout, CASES, pool, admission=None, on_done=done.append)
    assert outcomes == [
        Outcome("a", result="A"),
        Outcome("b", failure="is damaged; replace it"),
        Outcome("c", failure="out of memory; use fewer workers"),
        Outcome("d", result="D"),
    ]
    assert done == ["a", "b", "c", "d"]


def test_a_bug_is_not_a_failing_case() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cases(lambda case: 1 // 0, CASES, None, admission=None, on_done=ignore)


def die_on_b(case: RawCase) -> str:
    if case.case_id == "b":
        os._exit(9)  # what the kernel does to a process that takes too much memory
    return case.case_id.upper()


def at_work(case: RawCase, folder: Path, companion: dict[str, str]) -> list[str]:
    """Wait for the case that should be in work at the same time; return all that are."""
    (folder / f"{case.case_id}.began").touch()
    expected = folder / f"{companion.get(case.case_id, case.case_id)}.began"
    deadline = time.monotonic() + 30
    while not expected.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # long enough for one too many to begin
    began, ended = ({path.stem for path in folder.glob(f"*.{word}")} for word in ("began", "ended"))
    (folder / f"{case.case_id}.ended").touch()
    return sorted(began - ended)


@pytest.mark.slow
def test_workers_survive_a_death_and_keep_to_the_memory(tmp_path: Path) -> None:
    with open_workers(2, None, SlurmConfig()) as pool:
        assert pool is not None
        outcomes = run_cases(die_on_b, CASES, pool, admission=None, on_done=ignore)
        assert [outcome.result for outcome in outcomes] == ["A", None, "C", "D"]
        assert "its worker died again and again" in (outcomes[1].failure or "")

        pool.wait_for_workers(2, timeout=60)
        # Of 10 bytes a takes 9 and d 20: with neither goes another, b and c go together.
        need = {"a": 9, "b": 5, "c": 4, "d": 20}
        admission = Admission(2, 10, lambda case: need[case.case_id])
        work = partial(at_work, folder=tmp_path, companion={"b": "c", "c": "b"})
        outcomes = run_cases(work, CASES, pool, admission, ignore)
    together = [outcome.result or [] for outcome in outcomes]
    assert together[0] == ["a"]
    assert ["b", "c"] in together[1:3]  # the second to look may find the first gone
    assert together[3] == ["d"]
