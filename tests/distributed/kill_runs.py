"""Kills a run again and again at random moments and compares its end with an undisturbed one's.

usage: kill_runs.py KILLS FOLDER

`test_kill_and_resume.py` runs it with few kills. It exits with 0 if weights, optimiser state,
average and logged losses are the same to the bit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

STEPS_PER_KILL, LAST_STEPS = 4, 4  # so that there is something left to kill at the end
DEADLINE_S = 300
LOGISTICS = {"step", "samples_per_s", "data_wait_fraction", "peak_memory_gb"}
LOGISTICS |= {"patch_ms", "augment_ms", "slowest_rank", "slowest_rank_ratio"}


def main(kills: int, folder: Path) -> None:
    """Train twice, the second time with so many kills."""
    store, steps = prepare(folder), kills * STEPS_PER_KILL + LAST_STEPS
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(training(store, whole, steps), check=True, stdout=subprocess.DEVNULL)
    moments: Counter[str] = Counter()
    while moments.total() < kills:
        moments[start_and_kill(training(store, killed, steps), killed, steps)] += 1
    subprocess.run(training(store, killed, steps), check=True, stdout=subprocess.DEVNULL)
    problems = differences(whole, killed, steps)
    print(f"{kills} kills ({dict(moments)}) over {steps} steps: {problems or 'the same bits'}")
    sys.exit(1 if problems else 0)


def prepare(folder: Path) -> Path:
    """Four small phantoms, prepared."""
    store = folder / "store"
    stunet("data", "phantom", folder / "raw", "cases=4", "classes=4", "shape_zyx=[48,64,80]")
    stunet(
        *("data", "prepare", folder / "raw", store, "workers=0", "holdout=1"),
        "plan.patch_size=[32,32,32]",
    )
    return store


def stunet(*arguments: str | Path) -> None:
    subprocess.run(command(*arguments), check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


def training(store: Path, out: Path, steps: int) -> list[str]:
    return command(
        *("launch", "local", "pretrain", "pretrain/quickstart_phantom", "--processes", "2"),
        *(f"store={store}", f"out={out}", f"optim.total_steps={steps}", "optim.warmup_steps=2"),
        *("optim.ema_decay=0.9", "loop.log_every=1", "loop.checkpoint_every=2"),
        "loop.validate_every=0",
    )


def start_and_kill(arguments: list[str], out: Path, steps: int) -> str:
    """SIGKILL launcher and ranks at once: none of them can clean up. Return in which moment."""
    first = checkpointed(out)
    moment = random.choice(["start", "step", "writing", "writing"])
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        if moment == "start":
            time.sleep(random.uniform(0, 8))
        elif moment == "step":
            wanted = first + random.randint(1, 4)
            wait_for(lambda: last_logged(out) >= min(wanted, steps - 1), process)
            time.sleep(random.uniform(0, 0.3))
        else:
            skip = random.randint(0, 1)  # of the next checkpoints
            wait_for(lambda: checkpointed(out) >= min(first + 2 * skip, steps - 2), process)
            wait_for(lambda: any(out.glob("checkpoints/*.tmp")), process)
            time.sleep(random.uniform(0, 0.03))
    finally:
        kill_tree(psutil.Process(process.pid))
        process.wait()
    return moment


def kill_tree(launcher: psutil.Process) -> None:
    """Each rank has a session of its own, so that a signal to the launcher's group misses them."""
    launcher.suspend()  # it would react to the death of a rank
    ranks = launcher.children(recursive=True)
    for process in (*ranks, launcher):
        process.kill()
    psutil.wait_procs(ranks, timeout=30)


def wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "training did not get there in time"
        time.sleep(0.001)


def last_logged(out: Path) -> int:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def checkpointed(out: Path) -> int:
    sealed = [path.parent.name for path in out.glob("checkpoints/step_*/COMPLETE")]
    return max((int(name.removeprefix("step_")) for name in sealed), default=0)


def differences(whole: Path, killed: Path, steps: int) -> list[str]:
    """What is not the same at the end of both runs."""
    problems = []
    for name in ("weights", "optimizer", "ema"):
        path = Path("checkpoints") / f"step_{steps:06d}" / f"{name}.safetensors"
        expected, found = load_file(whole / path), load_file(killed / path)
        assert expected.keys() == found.keys()
        problems += [f"{name}: {k}" for k in expected if not torch.equal(expected[k], found[k])]
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, killed)
    ]
    if [row["step"] for row in rows[1]] != list(range(1, steps + 1)):
        problems.append(f"logged steps: {[row['step'] for row in rows[1]]}")
    for expected, found in zip(*rows, strict=False):
        problems += [
            f"step {expected['step']}: {key}"
            for key in expected.keys() - LOGISTICS
            if expected[key] != found[key]
        ]
    return problems


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
