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
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stunet.data.patches import Patch, RawPatch, Room
from stunet.data.sampler import step_samples
from stunet.errors import ConfigError, DataError, StunetError
from stunet.transforms.windows import WindowBatch
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

    def raw(self, sample: int, room: Room | None = None) -> RawPatch:
        """Return patch number `sample`, the same at every call in every process.

        Its window may lie in `room`, if it has that size.
        """

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
    augment_here: bool = True,
) -> Generator[Batch | WindowBatch]:
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
        augment_here: Off: workers only read; `stunet.transforms.windows.augment_batch` does the
            rest on the device.

    Returns:
        A generator of `Batch`, or of `WindowBatch` if not augmented here; its `close()` ends the
        workers.

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
    return _iterate(_loader(_Batches(source, augment_here), plan, config), plan)


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


@dataclass(frozen=True)
class _Made:
    """What a worker made of a sample, and the seconds that reading and the rest took."""

    row: Patch | RawPatch
    read_s: float
    rest_s: float


class _Batches(Dataset):
    """Batches of a source. Errors are values: a worker that raises would lose all but their text.

    The room for a batch is made first and patches are read into it where nothing is to be done to
    them: stacking them afterwards takes a fifth of the time of patches without augmentation.
    """

    def __init__(self, source: Source, augment_here: bool) -> None:
        self._source = source
        self._augment_here = augment_here
        self._shape_cdhw: tuple[int, ...] | None = None  # known once a patch was made

    def __getitems__(self, samples: list[int]) -> Batch | WindowBatch | _Failure:
        shape = self._shape_cdhw
        batch_room = None if shape is None else _make_room(len(samples), shape)
        made: list[_Made] = []
        for row, sample in enumerate(samples):
            room = None if batch_room is None else (batch_room[0][row], batch_room[1][row])
            one = self._make(sample, room)
            if isinstance(one, _Failure):
                return one
            made.append(one)
        first = made[0].row
        if isinstance(first, Patch):
            self._shape_cdhw = tuple(first.image_cdhw.shape)
            batch_room = batch_room or _make_room(len(samples), self._shape_cdhw)
        return _join(made, batch_room)

    def _make(self, sample: int, room: Room | None) -> _Made | _Failure:
        began = time.perf_counter()
        try:
            raw = self._source.raw(sample, room)
            read = time.perf_counter()
            row = raw.augmented() if self._augment_here else raw.for_device()
            return _Made(row, read - began, time.perf_counter() - read)
        except StunetError as error:
            return _Failure(error, traceback.format_exc())
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            where = f"sample {sample}, {self._source.locate(sample)}"
            message = f"{where}: {what}; run 'stunet data verify'"
            return _Failure(DataError(message), traceback.format_exc())


def _loader(source: _Batches, plan: _Plan, config: LoaderConfig) -> DataLoader:
    parallel = config.workers > 0
    if parallel:
        _start_server()
    return DataLoader(
        source,
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=_as_it_is,
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


def _make_room(rows: int, shape_cdhw: tuple[int, ...]) -> Room:
    # numpy asks the kernel for huge pages, torch does not: far fewer page faults.
    image = np.empty((rows, *shape_cdhw), np.float32)
    return torch.from_numpy(image), torch.from_numpy(np.empty((rows, *shape_cdhw[1:]), np.int16))


def _as_it_is(batch: Any) -> Any:
    return batch


def _join(made: list[_Made], room: Room | None) -> Batch | WindowBatch:
    """One batch of its rows, in `room` if they are augmented."""
    read_s, rest_s = fmean(each.read_s for each in made), fmean(each.rest_s for each in made)
    draws = [each.row.draw for each in made]
    common: dict[str, Any] = {
        "sample_ids": tuple(draw.sample for draw in draws),
        "case_ids": tuple(draw.case_id for draw in draws),
        "annotated_bk": _stack_annotated([each.row.annotated_k for each in made]),
        "patch_s": read_s + rest_s,
        "augment_s": rest_s,
    }
    if room is None:
        windows = tuple(each.row.window for each in made if isinstance(each.row, RawPatch))
        return WindowBatch(windows=windows, **common)
    image_bcdhw, label_bdhw = room
    patches = [each.row for each in made if isinstance(each.row, Patch)]
    for patch, image_cdhw, label_dhw in zip(patches, image_bcdhw, label_bdhw, strict=True):
        _settle(patch.image_cdhw, image_cdhw)
        _settle(patch.label_dhw, label_dhw)
    return Batch(image_bcdhw=image_bcdhw, label_bdhw=label_bdhw, **common)


def _settle(made: torch.Tensor, room: torch.Tensor) -> None:
    """Copy a tensor to its room unless it was made there."""
    if made.data_ptr() != room.data_ptr():
        room.copy_(made)


def _stack_annotated(rows: list[torch.Tensor | None]) -> torch.Tensor | None:
    partial = [row for row in rows if row is not None]
    if not partial:
        return None
    everything = torch.ones_like(partial[0])
    return torch.stack([everything if row is None else row for row in rows])


def _iterate(loader: DataLoader, plan: _Plan) -> Generator[Batch | WindowBatch]:
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
