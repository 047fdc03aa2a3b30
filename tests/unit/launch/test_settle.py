"""How a job ended decides whether it runs again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.pipeline_stages import Outcome, open_stage, read_stages
from launch.settle import settle
from stunet.training.interruptions import STOPPED, history


def ended(run: Path, code: int, asked: str = "", max_failures: int = 2) -> int:
    return settle(run, code, "pretrain", run / "absent.log", asked, max_failures)


@pytest.mark.parametrize(
    ("code", "asked", "outcome", "reason"),
    [
        (0, "", 0, None),
        (0, "USR1", 0, None),  # it was done before it could be stopped
        (2, "", 2, None),
        (75, "USR1", 75, "USR1: time nearly up, or a user asked"),
        (75, "TERM", 75, "SIGTERM from the system"),
        (75, "", 75, "asked to stop"),
        (137, "", 75, "SIGKILL killed a rank"),
        (70, "", 75, "a rank hung"),
        (1, "", 75, "a rank failed with exit code 1"),
        (255, "", 75, "a rank failed with exit code 255"),
    ],
)
def test_each_code(tmp_path: Path, code: int, asked: str, outcome: int, reason: str | None) -> None:
    assert ended(tmp_path, code, asked) == outcome
    note = tmp_path / STOPPED
    assert (note.read_text().strip() if note.exists() else None) == reason


def test_crashes_are_counted_between_checkpoints_and_preemptions_are_not(tmp_path: Path) -> None:
    assert [ended(tmp_path, 137) for _ in range(2)] == [75, 75]
    assert [ended(tmp_path, 75) for _ in range(9)] == [75] * 9
    checkpoint = tmp_path / "checkpoints" / "step_000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()
    assert [ended(tmp_path, 137) for _ in range(3)] == [75, 75, 137]


def test_a_stage_that_cannot_be_continued_fails_at_once_in_its_own_words(tmp_path: Path) -> None:
    log = tmp_path / "7.log"
    log.write_text("scoring\nstunet: case s01: no such file; look\nslurmstepd: done\n")
    for job, stage in enumerate(("export", "transfer", "publish")):
        open_stage(tmp_path, stage, str(job))
    assert settle(tmp_path, 1, "transfer", log) == 1
    assert read_stages(tmp_path) == {
        "export": Outcome("submitted", "", "0"),
        "transfer": Outcome("failed", "case s01: no such file; look", "1"),
        "publish": Outcome("not run", "transfer failed", "2"),
    }


def test_history_tells_what_each_interruption_cost(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}}}\n' for s in range(1, 18)))
    assert history(tmp_path / "new", {}, 0) == []

    assert ended(tmp_path, 137) == 75
    rows = history(tmp_path, {"state": "running"}, 10)
    assert [(row["reason"], row["step"], row["lost_steps"]) for row in rows] == [
        ("SIGKILL killed a rank", 10, 7)
    ]
    again = history(tmp_path, {"state": "running", "history": rows}, 17)
    assert again[0] == json.loads(json.dumps(rows[0]))
    assert again[1]["reason"].startswith("ended without a word")
    assert again[1]["lost_steps"] == 0
