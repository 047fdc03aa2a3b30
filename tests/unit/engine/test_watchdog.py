from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from stunet.engine.watchdog import HUNG_EXIT_CODE, Watchdog

REPO = Path(__file__).resolve().parents[3]

HANG = """
import sys, threading
from pathlib import Path
from stunet.engine.watchdog import Watchdog

def wait_for_ever():
    threading.Event().wait()

with Watchdog(Path(sys.argv[1]), timeout_s=0.5):
    wait_for_ever()
"""


def test_a_process_that_hangs_leaves_with_the_stacks_of_its_threads(tmp_path: Path) -> None:
    stacks = tmp_path / "logs" / "rank_3.stacks"
    done = subprocess.run(
        [sys.executable, "-c", HANG, str(stacks)],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == HUNG_EXIT_CODE
    assert "in wait_for_ever" in stacks.read_text()
    assert done.stderr.startswith("stunet: no step finished for 0.5 s (loop.hang_timeout_s)")
    assert str(stacks) in done.stderr and done.stderr.count("\n") == 1


def test_pauses_and_progress_do_not_count(tmp_path: Path) -> None:
    with Watchdog(tmp_path / "stacks", timeout_s=0.4) as watchdog:
        with watchdog.paused():
            time.sleep(0.8)
        for _ in range(4):
            time.sleep(0.2)
            with watchdog.paused():
                pass
    time.sleep(0.5)  # over: nothing is watched any more
    assert not (tmp_path / "stacks").exists()


def test_without_a_limit_nothing_is_watched(tmp_path: Path) -> None:
    with Watchdog(tmp_path / "stacks", timeout_s=None) as watchdog, watchdog.paused():
        pass
