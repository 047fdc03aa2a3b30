"""The pipe to a worker, and what is measured at its other end of work that is known."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serve import measured
from benchmarks.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def test_work_is_done_where_the_worker_is(worker: Worker, tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[2:] = 3
    source, out = tmp_path / "label.npy", tmp_path / "fine.npy"
    np.save(source, label)
    turn = worker.open("ours.labels:resampling", label=str(source), shape=(8, 4, 4), out=str(out))
    assert not out.exists()
    assert turn().cpu_ms > 0
    assert np.load(out).tolist() == np.repeat(label, 2, axis=0).tolist()


def test_an_error_of_the_work_arrives_with_its_traceback(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*No module named 'benchmarks.nowhere'"):
        worker.open("nowhere:nothing")


def test_a_worker_that_dies_is_said_so() -> None:
    with Worker() as worker:
        with pytest.raises(RuntimeError, match="the worker ended with 7"):
            worker.open("serve:os._exit", status=7)
        with pytest.raises(RuntimeError, match="the worker ended with 7"):
            worker.open("serve:os._exit", status=7)


def test_peak_memory_is_that_of_the_work() -> None:
    def work() -> str:
        return str(np.ones(50_000_000, np.uint8).sum())

    for _ in range(2):
        found = measured(work)
        assert found["result"] == "50000000"
        assert 49 < found["peak_mb"] < 60


def test_bytes_asked_for_are_those_of_read_calls(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    assert measured(lambda: len(file.read_bytes()))["asked_mb"] == pytest.approx(3, abs=0.1)
