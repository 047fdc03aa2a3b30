"""From what the loader yields to patches on the device, and what that costs there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stunet.transforms.windows import WindowBatch, augment_batch
from stunet.types import Batch


class DeviceClock:
    """Seconds that work takes on a device, without waiting for it.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what is begun inside."""
        if self._on_gpu:
            marks = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            marks[0].record()
            yield
            marks[1].record()
            self._marks.append((marks[0], marks[1]))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def seconds(self) -> float:
        """The sum so far; waits until the work is done."""
        for begin, end in self._marks:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1e3
        self._marks.clear()
        return self._seconds


def patches_on(device: torch.device, batch: Batch | WindowBatch, clock: DeviceClock) -> Batch:
    """Augment a batch that came as windows on the device; leave another as it is."""
    if isinstance(batch, Batch):
        return batch
    with clock.running():
        return augment_batch(batch, device)
