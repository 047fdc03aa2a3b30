"""Chains, arrays, staging and the drill on two real nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stunet.bundle import read_bundle
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ONE_RANK = ("processes=1", "time=10", "lead_s=30", "parallel.micro_batch=2")


def stages(run: Path) -> dict[str, tuple[str, str]]:
    read = (json.loads(file.read_text()) for file in (run / "pipeline").glob("*.json"))
    return {stage["stage"]: (stage["state"], stage["reason"]) for stage in read}


def pipeline(cluster: Cluster, data: Path, folder: Path, raw: Path) -> tuple[Path, dict[str, str]]:
    run = folder / "run"
    told = cluster.stunet(
        *("launch", "slurm", "pipeline", recipe(folder, 3), f"store={data / 'store'}"),
        *(f"out={run}", *ONE_RANK, "--transfer", raw, "--publish", folder / "released"),
    )
    return run, dict(re.findall(r"(\w+): job (\d+)", told))


def test_a_pipeline_ends_with_a_published_bundle(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    run, jobs = pipeline(cluster, data, tmp_path, data / "raw")
    assert list(jobs) == ["pretrain", "export", "transfer", "publish"]
    assert cluster.wait_for_end(jobs["publish"]) == "COMPLETED", stages(run)
    assert stages(run) == dict.fromkeys(jobs, ("done", ""))
    assert read_bundle(tmp_path / "released").sha256 == read_bundle(run / "bundle").sha256
    assert (run / "transfer" / "raw" / "summary.json").exists()


def test_a_failing_stage_stops_the_chain_and_says_why(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    run, jobs = pipeline(cluster, data, tmp_path, tmp_path / "absent")
    assert cluster.wait_for_end(jobs["publish"]) == "CANCELLED", stages(run)
    found = stages(run)
    assert found["export"] == ("done", "")
    assert found["transfer"][0] == "failed"
    assert str(tmp_path / "absent") in found["transfer"][1]
    assert found["publish"] == ("not run", "transfer failed")
    assert not (tmp_path / "released").exists()


def test_an_array_trains_a_run_for_each_value_on_a_staged_store(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    local = tmp_path / "local disk"
    told = cluster.stunet(
        *("launch", "slurm", "pretrain", recipe(tmp_path, 3), f"store={data / 'store'}"),
        *(f"out={tmp_path / 'runs'}", *ONE_RANK, "array={seed: [3, 4]}", f"stage_to={local}"),
    )
    job = re.search(r"job (\d+)", told)
    assert job
    for task in (0, 1):
        assert cluster.wait_for_end(f"{job[1]}_{task}") == "COMPLETED"
    losses = []
    for seed in (3, 4):
        run = tmp_path / "runs" / f"seed_{seed}"
        assert json.loads((run / "run.json").read_text())["state"] == "finished"
        assert str(local) in (run / "config.yaml").read_text()
        losses.append((run / "metrics.jsonl").read_text())
    assert losses[0] != losses[1]
    (copy,) = local.glob("store-*")
    assert (copy / "dataset.json").read_bytes() == (data / "store/dataset.json").read_bytes()


def test_the_drill_passes_here(cluster: Cluster, tmp_path: Path) -> None:
    told = cluster.stunet(
        *("launch", "drill", "nodes=2", "exclusive=true", "--out", tmp_path / "drill")
    )
    assert re.search(r"drill passed: job \d+ saved itself at step \d+, was requeued", told)
    assert "losses and weights equal those of an undisturbed run to the bit" in told


@pytest.mark.parametrize("by", ["the user's value", "the site's environment"])
def test_the_drill_says_where_requeueing_is_forbidden(
    cluster: Cluster, tmp_path: Path, by: str
) -> None:
    users = by == "the user's value"
    done = cluster.try_stunet(
        *("launch", "drill", "--out", tmp_path / "drill"),
        *(["requeue=false"] if users else []),
        **({} if users else {"SBATCH_NO_REQUEUE": "1"}),
    )
    assert done.returncode == 2
    assert "may not be requeued (Requeue=0): set requeue=true" in done.stderr


def test_the_drill_says_where_signals_do_not_reach_the_ranks(
    cluster: Cluster, tmp_path: Path
) -> None:
    template = tmp_path / "deaf.sbatch.j2"
    template.write_text(
        '{% extends "train.sbatch.j2" %}{% block work %}{{ super() | replace("kill -USR2", "true")'
        ' | replace("; (sleep", "; : (sleep") }}{% endblock %}'
    )
    done = cluster.try_stunet(
        *("launch", "drill", f"template={template}", "--out", tmp_path / "drill")
    )
    assert done.returncode == 2
    assert "USR1 does not reach the batch shell or USR2 not the ranks" in done.stderr
