from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from stunet.engine.tracking import METRICS, Tracker, TrackingConfig


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def test_a_row_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    with Tracker(tmp_path, TrackingConfig(), step=0) as tracker:
        tracker.log(10, {"loss": 0.25, "grad_norm": math.inf, "val_dice": math.nan})
        assert rows(tmp_path) == [{"step": 10, "loss": 0.25, "grad_norm": None, "val_dice": None}]


def test_rolled_back_and_torn_lines_are_removed_on_resume(tmp_path: Path) -> None:
    with Tracker(tmp_path, TrackingConfig(), step=0) as tracker:
        for step in (10, 20, 20, 30, 40):
            tracker.log(step, {"loss": float(step)})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 20, "lo')  # killed while writing
    with Tracker(tmp_path, TrackingConfig(), step=25) as tracker:
        tracker.log(30, {"loss": -1.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (20, 20.0),
        (30, -1.0),
    ]


@pytest.mark.slow
def test_wandb_mirrors_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    with Tracker(tmp_path, TrackingConfig("offline", "p", "n"), step=0) as tracker:
        tracker.log(1, {"loss": 0.5})
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    assert b"loss" in files[0].read_bytes()
    assert rows(tmp_path) == [{"step": 1, "loss": 0.5}]
