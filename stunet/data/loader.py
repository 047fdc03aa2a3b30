"""Batches for one rank, in the order of the steps, read ahead by worker processes.

Not for choosing or cutting patches (`stunet.data.sampler`, `stunet.data.patches`): whatever the
number of ranks and workers, step t holds patches `t * B` to `t * B + B - 1`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import forkserver, resource_tracker
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from stunet.data.patches import Patch
from stunet.data.sampler import step_samples
from stunet.errors import ConfigError, DataError, StunetError
from stunet.types import Batch


@dataclass(frozen=True)
class LoaderConfig:
    """Processes that prepare batches.

    Attributes:
        workers: Processes per rank; 0 works in the training process itself.
        prefetch: Batches that each worker prepares ahead.
    """

    workers: int = 2
    prefetch: int = 2

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1:
            raise ConfigError(
                f"loader.workers={self.workers}, loader.prefetch={self.prefetch}: "
                "give at least 0 workers and a prefetch of at least 1"
            )


class Source(Protocol):
    """What batches are made from; pickled once for each worker."""

    def __getitem__(self, sample: int) -> Patch:
        """Return patch number `sample`, the same at every call in every process."""

    def locate(self, sample: int) -> str:
        """Say where a patch comes from, for messages."""

    def describe(self, sample: int) -> dict[str, Any]:
        """Return the draws of a patch as plain values that JSON can hold."""


class WorkerTraceback(Exception):  # noqa: N818 - no error of its own: it carries the text of one
    """The traceback of an error in a worker, as text; the `__cause__` of the error raised here."""


def batches(
    source: Source,
    global_batch: int,
    *,
    micro_batch: int | None = None,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    config: LoaderConfig = LoaderConfig(),
) -> Generator[Batch]:
    """Return an endless iterator over the batches of one rank.

    Args:
        source: Where patches come from.
        global_batch: Patches per step over all ranks; keep it and any number of ranks gives the
            same training.
        micro_batch: Patches per yielded batch: a step is then several batches, for gradient
            accumulation. None: a step is one batch.
        rank: Which share of each step is ours, from 0.
        world: Number of ranks.
        start_step: The step to begin with.
        config: Workers.

    Returns:
        A generator; its `close()` ends the workers.

    Raises:
        ConfigError: At once, if the batch cannot be divided evenly.
        DataError: From `next`, if a patch cannot be read or a worker dies; an error of a worker
            keeps its one-line message and has its traceback as `__cause__`.
    """
    if global_batch < 1 or global_batch % world:
        raise ConfigError(
            f"global batch {global_batch} cannot be shared evenly by {world} ranks; "
            f"give a multiple of {world}"
        )
    share = global_batch // world
    micro_batch = share if micro_batch is None else micro_batch
    if micro_batch < 1 or share % micro_batch:
        raise ConfigError(
            f"micro batch {micro_batch} does not divide the {share} patches of each rank; "
            f"give a divisor of {share}"
        )
    plan = _Plan(global_batch, micro_batch, rank, world, start_step)
    return _iterate(_loader(source, plan, config), plan)


@dataclass(frozen=True)
class _Plan:
    """The patch numbers of every batch of one rank, without end."""

    global_batch: int
    micro_batch: int
    rank: int
    world: int
    start_step: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.start_step):
            samples = step_samples(step, self.global_batch, self.rank, self.world)
            for first in range(0, len(samples), self.micro_batch):
                yield list(samples[first : first + self.micro_batch])


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker to the training process."""

    error: StunetError
    traceback: str


class _Guarded(Dataset):
    """A source whose errors are values: a worker that raises would lose all but their text."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, sample: int) -> tuple[Patch, float] | _Failure:
        began = time.perf_counter()
        try:
            return self._source[sample], time.perf_counter() - began
        except StunetError as error:
            return _Failure(error, traceback.format_exc())
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            where = f"sample {sample}, {self._source.locate(sample)}"
            message = f"{where}: {what}; run 'stunet data verify'"
            return _Failure(DataError(message), traceback.format_exc())


def _loader(source: Source, plan: _Plan, config: LoaderConfig) -> DataLoader:
    parallel = config.workers > 0
    if parallel:
        _start_server()
    return DataLoader(
        _Guarded(source),
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        prefetch_factor=config.prefetch if parallel else None,
        # Forking a process that runs CUDA, NCCL or any thread may deadlock the child.
        multiprocessing_context="forkserver" if parallel else None,
        generator=torch.Generator(),  # DataLoader would draw from the global one
    )


def _start_server() -> None:
    """Start the process that workers are forked from, once; it has imported what they need.

    It and the workers inherit blocked signals. Those are for the training process alone, which
    saves its state and then ends the workers; batch systems send them to whole process groups.
    """
    multiprocessing.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # the server's start would start it and unblock signals
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    """End this worker if the training process is killed: DataLoader watches the server only."""
    training = multiprocessing.parent_process()
    assert training is not None, "runs in workers only"
    training.join()
    os._exit(1)


def _collate(patches: list[tuple[Patch, float] | _Failure]) -> Batch | _Failure:
    whole: list[Patch] = []
    seconds = 0.0
    for patch in patches:
        if isinstance(patch, _Failure):
            return patch
        whole.append(patch[0])
        seconds += patch[1]
    return Batch(
        image_bcdhw=torch.stack([patch.image_cdhw for patch in whole]),
        label_bdhw=torch.stack([patch.label_dhw for patch in whole]),
        sample_ids=tuple(patch.draw.sample for patch in whole),
        case_ids=tuple(patch.draw.case_id for patch in whole),
        annotated_bk=_stack_annotated([patch.annotated_k for patch in whole]),
        patch_s=seconds / len(whole),
    )


def _stack_annotated(rows: list[torch.Tensor | None]) -> torch.Tensor | None:
    partial = [row for row in rows if row is not None]
    if not partial:
        return None
    everything = torch.ones_like(partial[0])
    return torch.stack([everything if row is None else row for row in rows])


def _iterate(loader: DataLoader, plan: _Plan) -> Generator[Batch]:
    arriving = iter(loader)
    try:
        for samples in plan:
            try:
                batch = next(arriving)
            except (RuntimeError, EOFError, OSError) as error:  # by when it died
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise DataError(
                    f"samples {samples[0]} to {samples[-1]}: a data worker died ({reason}); "
                    "if memory ran out, lower loader.workers or loader.prefetch"
                ) from error
            if isinstance(batch, _Failure):
                raise batch.error from WorkerTraceback(batch.traceback)
            yield batch
    finally:
        del arriving  # ends the workers
