"""The numbers of a run between two lines of its metrics: what it reaches, and what limits it.

Nothing else here reads the clock.
"""

from __future__ import annotations

import math
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch

from stunet.engine import distributed
from stunet.engine.hardware import peak_flops
from stunet.engine.lag import Lag, LagWatch, slowest
from stunet.engine.step import StepResult
from stunet.errors import TrainingError
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

DATA_LIMIT = 0.05  # of the time; below it more workers gain nothing worth their memory


@dataclass(frozen=True)
class Reading:
    """The numbers of an interval.

    Attributes:
        values: By name, as `metrics.jsonl` has them.
        limit: One sentence: what training would be faster without. Empty while that is what it
            was before.
        warning: About a rank that lags, or an empty string.
    """

    values: dict[str, float]
    limit: str
    warning: str


class Meter:
    """What happened since it was last read, over all ranks; every method is called by all.

    Args:
        global_batch: Patches per step over all ranks.
        device: Where this rank computes.
        flops_per_patch: Of forward and backward pass in bf16, 2 per multiply-add; None: not known.
    """

    def __init__(
        self, global_batch: int, device: torch.device, flops_per_patch: int | None
    ) -> None:
        self._global_batch = global_batch
        self._device = device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._peak_flops, self._flops_per_patch = peak_flops(name), flops_per_patch
        self._limit = ""
        self._lag_watch = LagWatch(distributed.gather_text(socket.gethostname()))
        self._restart()

    def draw(self, stream: Iterator[Batch | WindowBatch], count: int) -> list[Batch | WindowBatch]:
        """Take the micro-batches of one step from the stream and note how long that took.

        Raises:
            TrainingError: The stream ended.
        """
        self._step_began = time.perf_counter()
        batches = list(islice(stream, count))
        self._step_waited = time.perf_counter() - self._step_began
        if len(batches) < count:
            raise TrainingError("the data ended before the run; give a stream that does not end")
        self._patch_s += [batch.patch_s for batch in batches]
        self._augment_s += [batch.augment_s for batch in batches]
        patches = sum(len(batch.sample_ids) for batch in batches)
        assert patches * distributed.world() == self._global_batch, "stream and engine disagree"
        return batches

    def exchange(self, losses: torch.Tensor) -> float:
        """Tell the others this rank's losses and what it needed for them; return the mean loss.

        Called when all losses of the step are known and the ranks have not yet met: it waits for
        the device, so that this rank's own time is known.
        """
        mine = float(losses.mean())
        own_s = time.perf_counter() - self._step_began
        rows = distributed.gather_numbers([mine, own_s, self._step_waited])
        self.loss = fmean(row[0] for row in rows)
        for rank, (_, own, waited) in enumerate(rows):
            self._own_s[rank] += own
            self._waited_s[rank] += waited
        return self.loss

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        self._steps += 1
        self._last = result
        self._on_device_s += result.augment_s
        if not result.skipped:
            self._losses.append(self.loss)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def read(self) -> Reading:
        """The numbers since the last reading."""
        elapsed = time.perf_counter() - self._began
        waiting = fmean(self._waited_s) / elapsed
        samples_per_s = self._steps * self._global_batch / elapsed
        on_device_s = self._on_device_s / self._steps
        mine = [
            _peak_memory_bytes(self._device),
            fmean(self._patch_s) + on_device_s,
            fmean(self._augment_s) + on_device_s,
        ]
        peaks, patch_s, augment_s = zip(*distributed.gather_numbers(mine), strict=True)
        values = {
            "loss": fmean(self._losses) if self._losses else math.nan,
            "lr": self._last.lr,
            "grad_norm": float(self._last.grad_norm),
            "samples_per_s": samples_per_s,
            "data_wait_fraction": waiting,
            "patch_ms": fmean(patch_s) * 1e3,
            "augment_ms": fmean(augment_s) * 1e3,
            "peak_memory_gb": max(peaks) / 1e9,
        }
        if self._peak_flops is not None and self._flops_per_patch is not None:
            achieved = samples_per_s * self._flops_per_patch / distributed.world()
            values["mfu"] = achieved / self._peak_flops
        lag = slowest([own / self._steps for own in self._own_s], elapsed / self._steps)
        if distributed.world() > 1:
            values |= {"slowest_rank": lag.rank, "slowest_rank_ratio": lag.ratio}
        self._restart()
        return Reading(values, self._new_limit(values, lag), self._lag_watch.warning(lag))

    def _new_limit(self, values: dict[str, float], lag: Lag) -> str:
        sentence = _limit(values, lag)
        before, self._limit = self._limit, sentence.partition(":")[0]
        return sentence if self._limit != before else ""

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._own_s = [0.0] * distributed.world()
        self._waited_s = [0.0] * distributed.world()
        self._steps = 0
        self._losses: list[float] = []
        self._patch_s: list[float] = []
        self._augment_s: list[float] = []
        self._on_device_s = 0.0


def _limit(values: dict[str, float], lag: Lag) -> str:
    if lag.matters:
        return f"limited by rank {lag.rank}: the others wait for it {lag.costs:.0%} of the time"
    waiting = values["data_wait_fraction"]
    if waiting > DATA_LIMIT:
        return f"limited by data: {waiting:.0%} of the time waits for patches; raise loader.workers"
    if "mfu" in values:
        return f"limited by computing: {values['mfu']:.0%} of the GPUs' bf16 peak is used"
    return f"limited by computing: {waiting:.0%} of the time waits for patches"


def _peak_memory_bytes(device: torch.device) -> float:
    """Of tensors on a GPU; of the whole process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB
