"""The parity tests of the kernels, on a CPU in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PARITY = ("tests/gpu/test_dice_ce.py", "tests/gpu/test_norm_act.py")


@pytest.mark.slow
def test_kernels_equal_plain_torch_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *PARITY],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},  # read when a kernel is defined
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED" not in done.stdout, done.stdout
