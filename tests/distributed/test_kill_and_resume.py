"""A run that is killed and started again ends with the bits of one that was left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 3  # for more: python tests/distributed/kill_runs.py 20 FOLDER


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_random_moments_changes_no_bit(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(KILLS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bits" in done.stdout
