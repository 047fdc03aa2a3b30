"""A run that is killed and started again ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STEPS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small phantoms, prepared."""
    folder = tmp_path_factory.mktemp("data")
    stunet("data", "phantom", folder / "raw", "cases=4", "classes=4", "shape_zyx=[48,64,80]")
    stunet(
        *("data", "prepare", folder / "raw", folder / "store", "workers=0", "holdout=1"),
        "plan.patch_size=[32,32,32]",
    )
    return folder / "store"


def stunet(*arguments: str | Path) -> None:
    run = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


def training(store: Path, out: Path) -> list[str]:
    return command(
        *("launch", "local", "pretrain", "pretrain/quickstart_phantom", "--processes", "2"),
        *(f"store={store}", f"out={out}", f"optim.total_steps={STEPS}", "optim.warmup_steps=2"),
        *("loop.log_every=1", "loop.checkpoint_every=3", "loop.validate_every=0"),
    )


def logged_steps(out: Path) -> list[int]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def kill_after(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    """SIGKILL launcher and ranks once `step` steps are logged: none of them can clean up."""
    deadline = time.monotonic() + 120
    while step not in logged_steps(out):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "training did not reach the step in time"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)


def test_sigkill_at_a_random_step_then_the_same_command_gives_the_same_bits(
    store: Path, tmp_path: Path
) -> None:
    subprocess.run(training(store, tmp_path / "whole"), check=True, timeout=200)

    step = random.SystemRandom().randint(4, STEPS - 1)
    killed = subprocess.Popen(training(store, tmp_path / "killed"), start_new_session=True)
    kill_after(killed, tmp_path / "killed", step)
    subprocess.run(training(store, tmp_path / "killed"), check=True, timeout=200)

    last = f"checkpoints/step_{STEPS:06d}"
    for name in ("weights.safetensors", "optimizer.safetensors"):
        whole = load_file(tmp_path / "whole" / last / name)
        again = load_file(tmp_path / "killed" / last / name)
        assert whole.keys() == again.keys()
        different = [key for key in whole if not torch.equal(whole[key], again[key])]
        assert different == [], f"killed after step {step}"
    assert logged_steps(tmp_path / "killed") == list(range(1, STEPS + 1))
