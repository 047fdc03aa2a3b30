"""Tensors that rank 0 alone can read, brought to every rank.

Over the device's own backend, unlike the questions of `distributed`, since these are large.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from stunet.engine import distributed


def from_main(
    read: Callable[[str], torch.Tensor], name: str, shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """On every rank what `read(name)` gives on rank 0; all ranks must ask for it."""
    whole = torch.empty(shape, device=device)
    if distributed.is_main():
        whole.copy_(read(name))
    dist.broadcast(whole, src=0)
    return whole
