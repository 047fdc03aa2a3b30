"""Kernels run on a GPU where there is one, or on a CPU where Triton interprets them.

`tests/unit/kernels` runs the parity tests of this folder in a process with TRITON_INTERPRET=1.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    pytest.importorskip("triton", reason="Triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("no GPU; the interpreter runs these in tests/unit/kernels")
    return "cuda"
