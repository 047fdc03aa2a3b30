"""Two real nodes: training together, and being interrupted in every way that clusters know."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 24
BOTH_NODES = ("nodes=2", "processes=1", "exclusive=true", "lead_s=30", "time=10")


@pytest.fixture(scope="module")
def alone(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes on this machine that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    values = (f"store={data / 'store'}", f"out={folder / 'run'}", "processes=2")
    cluster.stunet("launch", "local", "pretrain", recipe(folder, STEPS), *values)
    return folder / "run"


def submit(cluster: Cluster, data: Path, out: Path, steps: int, *values: str) -> str:
    told = cluster.stunet(
        *("launch", "slurm", "pretrain", recipe(out.parent, steps)),
        *(f"store={data / 'store'}", f"out={out}", *BOTH_NODES, *values),
    )
    job = re.match(r"job (\d+), ", told)
    assert job, told
    return job[1]


def rows(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_steps(run: Path, more: int) -> None:
    """Wait until a run has gone so many steps beyond where it is."""
    goal = len(rows(run)) + more
    wait_for(lambda: len(rows(run)) >= goal, 120, f"step {goal} of {run}")


@contextmanager
def until_told(cluster: Cluster, log: Path, words: str) -> Iterator[None]:
    """Hold the ranks of a job, so that they do not finish before SLURM has taken its time."""
    ranks = [*cluster.ranks("n0"), *cluster.ranks("n1")]
    before = log.read_text().count(words)
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    try:
        yield
        wait_for(lambda: log.read_text().count(words) > before, 90, words)
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)


def assert_same_result(run: Path, alone: Path) -> None:
    losses = [[row["loss"] for row in rows(folder)] for folder in (run, alone)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    for name in ("weights.safetensors", "optimizer.safetensors"):
        ours, theirs = (
            load_file(folder / "checkpoints" / f"step_{STEPS:06d}" / name)
            for folder in (run, alone)
        )
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_a_job_on_two_nodes_survives_every_interruption_and_ends_with_the_same_bits(
    cluster: Cluster, data: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(cluster, data, run, STEPS)

    wait_for_steps(run, 3)
    hosts = {rank.environ()["SLURMD_NODENAME"] for n in ("n0", "n1") for rank in cluster.ranks(n)}
    assert hosts == {"n0", "n1"}
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    cluster.wait_for_requeue(job, restarts=1)

    wait_for_steps(run, 3)  # a job of a partition that outranks ours takes both nodes
    command = ("--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    with until_told(cluster, run / f"launch/{job}.log", "SIGTERM: the ranks are asked to save"):
        cluster.run("sbatch", "--partition=urgent", *command)
    cluster.wait_for_requeue(job, restarts=2)

    wait_for_steps(run, 3)
    cluster.ranks("n1")[0].send_signal(signal.SIGKILL)
    cluster.wait_for_requeue(job, restarts=3)

    wait_for_steps(run, 3)
    cluster.lose_node("n1")
    try:
        cluster.wait_for_requeue(job, restarts=4)
    finally:
        cluster.return_node("n1")

    wait_for_steps(run, 3)
    with until_told(cluster, run / f"launch/{job}.log", "SIGUSR1: the ranks are asked to save"):
        cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    cluster.wait_for_requeue(job, restarts=5)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")

    assert cluster.wait_for_end(job) == "COMPLETED", (run / f"launch/{job}.log").read_text()
    assert_same_result(run, alone)
    told = json.loads((run / "run.json").read_text())
    assert told["state"] == "finished"
    assert told["restarts"] == 5
    asked = "USR1: time nearly up, or a user asked"
    by_usr1, preempted, killed, lost, out_of_time = told["history"]
    assert by_usr1["reason"] == out_of_time["reason"] == asked
    assert preempted["reason"] == "SIGTERM from the system"
    assert {row["lost_steps"] for row in (by_usr1, preempted, out_of_time)} == {0}
    assert killed["reason"] == "SIGKILL killed a rank"
    assert lost["reason"] == "ended without a word: killed, or its node was lost"
    assert all(0 <= row["lost_steps"] <= 6 for row in (killed, lost))  # a checkpoint every 5 steps
    starts = [row["step"] for row in told["history"]]
    assert starts == sorted(starts)


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    job = submit(cluster, data, tmp_path / "run", STEPS)
    wait_for_steps(tmp_path / "run", 1)
    cluster.run("scancel", job)
    assert cluster.wait_for_end(job) == "CANCELLED"
    assert cluster.job(job)["Restarts"] == "0"


def test_a_recipe_that_cannot_run_is_not_tried_again(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    values = ("parallel.micro_batch=3", "--no-preflight")
    job = submit(cluster, data, tmp_path / "run", 3, *values)
    assert cluster.wait_for_end(job) == "FAILED"
    assert cluster.job(job)["Restarts"] == "0"
    assert "global batch 2 is no multiple" in (tmp_path / f"run/launch/{job}.log").read_text()
