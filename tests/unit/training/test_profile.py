"""The verb `profile` on a small store, loader, engine and profiler included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from launch.cli import app
from stunet.training.profile import peak_bytes

STRIDES = "network.strides=[[2,2,2],[2,2,2],[2,2,2],[2,2,2],[1,1,1]]"


def test_a_trace_and_a_table_are_left_and_no_run(small_store, tmp_path: Path) -> None:
    out, run = tmp_path / "look", tmp_path / "run"
    command = ["profile", "pretrain/quickstart_phantom", f"store={small_store.root}", STRIDES]
    options = [f"out={run}", "global_batch=1", "parallel.micro_batch=1", "--steps", "1"]
    options += ["--out", str(out)]
    result = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert not run.exists()
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count("step") == names.count("wait for data") == 1
    assert any(event["name"] == "aten::conv3d" for event in events)
    assert "Self CPU" in (out / "table.txt").read_text()
    assert "of it waiting for data; peak " in result.stdout


def test_the_peak_is_that_of_the_tensors() -> None:
    megabyte = 1 << 20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        first = torch.empty(3 * megabyte, dtype=torch.uint8)
        del first
        second = torch.empty(2 * megabyte, dtype=torch.uint8)
        third = torch.empty(2 * megabyte, dtype=torch.uint8)
        del second, third
    assert peak_bytes(seen) == pytest.approx(4 * megabyte, abs=1024)
