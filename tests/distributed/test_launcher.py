"""What `launch local` makes of a signal to itself and of a rank that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow


def stunet(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    small = ("cases=3", "classes=3", "shape_zyx=[40,48,64]")
    subprocess.run(stunet("data", "phantom", folder / "raw", *small), check=True)
    plan = ("workers=0", "holdout=1", "plan.patch_size=[32,32,32]")
    subprocess.run(stunet("data", "prepare", folder / "raw", folder / "store", *plan), check=True)
    return folder / "store"


def start(store: Path, run: Path) -> subprocess.Popen[str]:
    """Start two ranks and wait until they train."""
    values = (f"store={store}", f"out={run}", "global_batch=2", "parallel.micro_batch=1")
    every = ("loop.log_every=1", "loop.validate_every=0", "loop.checkpoint_every=1000")
    launcher = subprocess.Popen(
        stunet("launch", "local", "pretrain", "pretrain/quickstart_phantom", *values, *every),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert launcher.poll() is None, launcher.stderr and launcher.stderr.read()
        assert time.monotonic() < deadline, "the ranks did not get to step 2"
        time.sleep(0.05)
    return launcher


def test_usr2_to_the_launcher_alone_lets_all_ranks_save_and_say_so(
    store: Path, tmp_path: Path
) -> None:
    launcher = start(store, tmp_path / "run")
    launcher.send_signal(signal.SIGUSR2)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, said
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["state"] == "preempted"
    steps = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    assert told["step"] == steps  # nothing lost


def test_the_code_tells_which_signal_killed_a_rank(store: Path, tmp_path: Path) -> None:
    launcher = start(store, tmp_path / "run")
    ranks = [p for p in psutil.Process(launcher.pid).children() if "RANK" in p.environ()]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    _, said = launcher.communicate(timeout=90)
    assert launcher.returncode == 128 + signal.SIGKILL, said
