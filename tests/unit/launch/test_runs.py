from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.pipeline_stages import Outcome, open_stage, record
from launch.runs import find_runs, summarise
from launch.runs_plot import table

NOW = 1_800_000_000.0
STALE_S = 900.0


def make_run(
    folder: Path, state: str = "running", steps: int = 40, age_s: float = 60.0, **facts: Any
) -> Path:
    """A run that logs every 10 steps and validates every 20, last written `age_s` before NOW."""
    folder.mkdir(parents=True)
    config = {"global_batch": 4, "optim": {"total_steps": 100}, "loop": {"log_every": 10}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"state": state, "step": 30, **facts}))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, steps + 1, 10):
            row = {"step": step, "loss": 1 / step, "samples_per_s": 2.0}
            if step % 20 == 0:
                row |= {"val_dice": step / 100, "val_dice/liver": 0.5}
            file.write(json.dumps(row) + "\n")
    for file in folder.iterdir():
        os.utime(file, (NOW - age_s, NOW - age_s))
    return folder


def test_a_running_run(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "a", restarts=2), NOW, STALE_S)
    assert (run.state, run.step, run.total_steps, run.restarts) == ("running", 40, 100, 2)
    assert run.samples_per_s == 2.0
    assert run.eta_s == (100 - 40) * 4 / 2.0
    assert run.loss == 1 / 40
    assert run.dice == 0.4


def test_a_run_that_fell_silent_is_stale_and_has_no_time_left(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "a", age_s=STALE_S + 1), NOW, STALE_S)
    assert (run.state, run.step, run.eta_s) == ("stale", 40, None)


def test_a_run_that_logs_seldom_is_given_time(tmp_path: Path) -> None:
    """10 steps of 4 patches at 2 a second are 20 s; three such intervals are no silence yet."""
    assert summarise(make_run(tmp_path / "a", age_s=59), NOW, 1.0).state == "running"
    assert summarise(make_run(tmp_path / "b", age_s=61), NOW, 1.0).state == "stale"


@pytest.mark.parametrize("state", ["preempted", "failed"])
def test_a_stopped_run_stands_where_it_can_be_continued(tmp_path: Path, state: str) -> None:
    history = [{"reason": "SIGKILL killed a rank", "step": 20, "lost_steps": 3}]
    run = summarise(make_run(tmp_path / "a", state, history=history), NOW, STALE_S)
    assert (run.state, run.step, run.eta_s) == (state, 30, None)
    assert run.note == "SIGKILL killed a rank"


def test_a_finished_run_is_never_stale(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "a", "finished", 100, age_s=1e7), NOW, STALE_S)
    assert (run.state, run.step) == ("finished", 100)


def test_damaged_files_cost_what_they_held_and_no_more(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    (folder / "config.yaml").write_text("a: [")
    run = summarise(folder, NOW + 1e9, 1e12)
    assert (run.state, run.step, run.total_steps, run.eta_s) == ("running", 40, None, None)


def test_only_the_end_of_long_metrics_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", steps=60_000)
    assert (folder / "metrics.jsonl").stat().st_size > 1 << 18
    run = summarise(folder, NOW, STALE_S)
    assert (run.step, run.dice) == (60_000, 600.0)


def test_runs_are_found_at_any_depth_and_not_inside_runs_stores_and_bundles(tmp_path: Path) -> None:
    wanted = [make_run(tmp_path / name) for name in ("a/b", "c", "d/e/f")]
    for place, mark in (("c/copy", "run.json"), ("store/x", "run.json"), (".cache/y", "run.json")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / mark).write_text("{}")
    (tmp_path / "store" / "manifest.jsonl").write_text("")
    assert list(find_runs(tmp_path)) == wanted
    assert list(find_runs(wanted[0])) == wanted[:1]


def test_what_was_submitted_and_has_not_started_is_queued(tmp_path: Path) -> None:
    for run in ("one", "many"):
        (tmp_path / run / "launch").mkdir(parents=True)
        (tmp_path / run / "launch" / "jobs.jsonl").write_text('{"job": "7"}\n')
    task = make_run(tmp_path / "many" / "seed_0")  # of an array, below the folder it is sent from
    found = list(find_runs(tmp_path))
    assert found == [task, tmp_path / "one"]
    assert summarise(found[1], NOW, STALE_S).state == "queued"


def test_a_stage_that_failed_tells_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "finished", 100)
    for stage in ("pretrain", "export", "transfer"):
        open_stage(run, stage, job="7")
    record(run, "pretrain", Outcome("done"))
    record(run, "export", Outcome("failed", "disk full"))
    text = table([summarise(run, NOW, STALE_S)], tmp_path)
    assert "pretrain done, export failed, transfer not run; export failed: disk full" in text


def test_the_table_has_a_line_per_run(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", limit="limited by data: 20%")]
    lines = table([summarise(run, NOW, STALE_S) for run in runs], tmp_path).splitlines()
    assert " ".join(lines[0].split()) == "run state step patches/s left restarts loss Dice"
    assert " ".join(lines[1].split()) == "a running 40/100 2.0 2 min 0 0.025 0.400"
    assert lines[3].strip() == "limited by data: 20%"
