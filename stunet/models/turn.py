"""Turn images round along axes, for networks that were trained on reversed ones."""

from __future__ import annotations

from torch import Tensor


def turn_round(x_bcdhw: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Reverse the axes of space (0 z, 1 y, 2 x); the tensor itself where there are none."""
    return x_bcdhw.flip([2 + axis for axis in axes]) if axes else x_bcdhw
