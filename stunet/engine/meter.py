"""The numbers of a run between two lines of its metrics; nothing else here reads the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch

from stunet.engine import distributed
from stunet.engine.step import StepResult
from stunet.errors import TrainingError
from stunet.types import Batch


class Meter:
    """What happened since it was last read: losses, time, and time spent waiting for data."""

    def __init__(self, global_batch: int) -> None:
        self._global_batch = global_batch
        self._restart()

    def draw(self, stream: Iterator[Batch], count: int) -> list[Batch]:
        """Take the micro-batches of one step from the stream and note how long that took.

        Raises:
            TrainingError: The stream ended.
        """
        began = time.perf_counter()
        batches = list(islice(stream, count))
        self._waited += time.perf_counter() - began
        if len(batches) < count:
            raise TrainingError("the data ended before the run; give a stream that does not end")
        patches = sum(len(batch.sample_ids) for batch in batches)
        assert patches * distributed.world() == self._global_batch, "stream and engine disagree"
        return batches

    def add(self, result: StepResult) -> None:
        """Take in a step; nothing is read from the device."""
        self._steps += 1
        self._last = result
        if not result.skipped:
            self._losses.append(result.losses.mean())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """The numbers since the last reading, over all ranks, which must all call it."""
        elapsed = time.perf_counter() - self._began
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        loss, waiting = distributed.mean_over_ranks([loss, self._waited / elapsed])
        values = {
            "loss": loss,
            "lr": self._last.lr,
            "grad_norm": float(self._last.grad_norm),
            "samples_per_s": self._steps * self._global_batch / elapsed,
            "data_wait_fraction": waiting,
        }
        self._restart()
        return values

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._steps = 0
        self._losses: list[torch.Tensor] = []
