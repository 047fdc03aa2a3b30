"""Whether fused kernels can work on a tensor, without importing Triton.

Triton comes with torch for CUDA on Linux and is absent elsewhere.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from torch import Tensor


def kernels_run_on(tensor: Tensor) -> bool:
    """Whether the tensor lies on a GPU that Triton compiles for."""
    return tensor.is_cuda and _triton_is_installed()


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None
