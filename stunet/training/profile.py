"""Some steps of a run under torch's profiler: what they spend their time and memory on.

The real data, loader, network and engine; nothing is trained for good, no run folder is claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.step import LossFunction, train_step
from stunet.io.atomic import atomic_write_text
from stunet.training.data import TrainingData, open_data
from stunet.training.loss import training_loss
from stunet.training.recipe import TrainingConfig
from stunet.training.task import Task
from stunet.training.train import start_engine, start_stream
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

TRACE, TABLE = "trace.json", "table.txt"
WARM_UP = 1  # steps before, which compile and allocate what later steps have
ROWS = 15


@dataclass(frozen=True)
class Profile:
    """What rank 0 saw.

    Attributes:
        step_s: Mean of a step, waiting for data included.
        data_wait_fraction: Of the time.
        peak_bytes: Most memory of tensors: on a GPU all, on a CPU what steps took above what was
            there before them.
        table: Operations by their own time.
    """

    step_s: float
    data_wait_fraction: float
    peak_bytes: int
    table: str


def profile_steps(
    config: TrainingConfig, task_for: Callable[[TrainingData], Task], steps: int, out: Path
) -> Profile | None:
    """Take `steps` steps and write a Chrome trace and a table into `out`.

    Args:
        config: The recipe, complete.
        task_for: As in `run_training`.
        steps: After one that warms up.
        out: Folder; made if absent.

    Returns:
        On rank 0 what was seen, elsewhere None.

    Raises:
        StunetError: As `run_training`.
    """
    distributed.start()
    try:
        task = task_for(open_data(config))
        start = task.start()
        engine = start_engine(config, task, start)
        loss = start.penalised(training_loss(task.data.info, task.network, config.batch_dice))
        stream = start_stream(config, task.data, engine, 0)
        _steps(engine, stream, loss, WARM_UP)
        found = _profiled(engine, stream, loss, steps, out)
        engine.close()
        distributed.barrier()
        return found
    finally:
        distributed.stop()


def _steps(
    engine: TrainEngine, stream: Iterator[Batch | WindowBatch], loss: LossFunction, count: int
) -> float:
    """Seconds that were waited for data."""
    waited = 0.0
    for _ in range(count):
        began = time.perf_counter()
        with record_function("wait for data"):
            batches = list(islice(stream, engine.accumulation))
        waited += time.perf_counter() - began
        with record_function("step"):
            train_step(engine, batches, loss)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return waited


def _profiled(
    engine: TrainEngine,
    stream: Iterator[Batch | WindowBatch],
    loss: LossFunction,
    steps: int,
    out: Path,
) -> Profile | None:
    on_gpu = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    with profile(activities=activities, profile_memory=True) as seen:
        began = time.perf_counter()
        waited = _steps(engine, stream, loss, steps)
        elapsed = time.perf_counter() - began
    if not distributed.is_main():
        return None
    out.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(out / TRACE))
    order = f"self_{engine.device.type}_time_total"
    table = seen.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=45)
    peak = torch.cuda.max_memory_allocated(engine.device) if on_gpu else peak_bytes(seen)
    atomic_write_text(out / TABLE, table)
    return Profile(elapsed / steps, waited / elapsed, peak, table)


def peak_bytes(seen: profile) -> int:
    """The most memory of tensors on a CPU above what there was when the profile began.

    Of every allocation, scratch inside of operations included. `seen` has to be at its end and made
    with `profile_memory=True`.
    """
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = seen.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes())  # type: ignore[attr-defined]  # torch's stub lacks it
        for event in events
        if event.name() == "[memory]"
    )
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak
