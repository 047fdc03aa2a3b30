"""How ranks leave before their time: asked by a signal, orphaned, or hung."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stunet.engine.checkpoint_files import newest_whole, read_state
from stunet.engine.watchdog import HUNG_EXIT_CODE

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_sigterm_to_one_rank_saves_and_exits_with_75(tmp_path: Path) -> None:
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "worker.py"), "until_stopped", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | settings | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert time.monotonic() < deadline, "the ranks did not get to step 3"
            assert all(rank.poll() is None for rank in ranks), [r.stderr for r in ranks]
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGTERM)
        said = [rank.communicate(timeout=30)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [75, 75], said
    assert all("run the command again to go on" in text for text in said)
    checkpoint, problems = newest_whole(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and not problems
    last_step = read_state(checkpoint)["step"]
    assert last_step == metrics.read_text().count("\n")


def test_ranks_save_and_leave_when_their_launcher_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = subprocess.Popen(
        [*command, str(HERE / "worker.py"), "until_stopped", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline, "the ranks did not get to step 3"
        time.sleep(0.05)
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    for rank in alive:
        rank.kill()
    assert len(ranks) >= 2 and not alive
    checkpoint, _ = newest_whole(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint)["step"] == metrics.read_text().count("\n")


def test_a_rank_whose_data_stays_away_leaves_and_tells_where_it_hung(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), "until_hung", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=90,
    )
    assert done.returncode == HUNG_EXIT_CODE, done.stderr
    stacks = tmp_path / "run" / "logs" / "rank_0.stacks"
    assert (
        f"no step finished for 2 s (loop.hang_timeout_s), this rank leaves; {stacks}" in done.stderr
    )
    assert "in drying_up" in stacks.read_text() and "in fit" in stacks.read_text()
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
