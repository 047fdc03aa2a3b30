"""The training loop: steps until the run is done, with all that a step itself must not do.

It reads the clock, writes metrics, saves checkpoints, validates, shows progress, and stops when the
system or damaged steps ask for it. It does not build anything: data, model, engine and loss are
given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stunet.engine import distributed
from stunet.engine.checkpoint import CheckpointWriter
from stunet.engine.guard import GuardConfig, is_spike
from stunet.engine.json_lines import JsonLines
from stunet.engine.meter import Meter
from stunet.engine.progress import Report, progress
from stunet.engine.signals import stop_request
from stunet.engine.skips import SKIPPED, DescribeSample, explain
from stunet.engine.state import TrainState
from stunet.engine.step import LossFunction, StepResult, train_step
from stunet.engine.tracking import Tracker, TrackingConfig
from stunet.engine.watchdog import Watchdog
from stunet.errors import ConfigError, Preempted, TrainingError
from stunet.io.atomic import atomic_write_json
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DEEPSPEED_JSON = "deepspeed.json"
LOGS = "logs"

Validate = Callable[[int], Mapping[str, float]]
"""(step) -> numbers for the metrics; called on every rank, inside `engine.evaluating()`."""


@dataclass(frozen=True)
class LoopConfig:
    """How often what is done. Intervals are in optimiser steps.

    Attributes:
        log_every: Between two lines of metrics.
        checkpoint_every: Between two checkpoints; one is always written at the end.
        keep_checkpoints: How many of the newest stay.
        validate_every: Between two validations; 0: never.
        max_skipped: So many skipped steps in a row end the run.
        hang_timeout_s: A rank that finishes no step for so long leaves with exit code 70; waiting
            for the first patches counts, validation does not. None: never.
        guard: Which losses are too high to be learned from.
        tracking: The wandb mirror.
    """

    log_every: int = 50
    checkpoint_every: int = 2500
    keep_checkpoints: int = 3
    validate_every: int = 0
    max_skipped: int = 10
    hang_timeout_s: float | None = 900.0
    guard: GuardConfig = field(default_factory=GuardConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep_checkpoints", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name} {getattr(self, name)}: must be at least 1")
        if self.hang_timeout_s is not None and not self.hang_timeout_s > 0:
            raise ConfigError(
                f"loop.hang_timeout_s {self.hang_timeout_s}: must be above 0; null waits for ever"
            )


@dataclass(frozen=True)
class Hooks:
    """What the loop asks of whoever knows the data and the model; each may be absent.

    Attributes:
        validate: Measures on held-out data.
        describe: Gives the draws of a patch, for the record of skipped steps.
        flops_per_patch: Of forward and backward pass in bf16, 2 per multiply-add.
    """

    validate: Validate | None = None
    describe: DescribeSample | None = None
    flops_per_patch: int | None = None


def fit(
    engine: TrainEngine,
    batches: Iterable[Batch | WindowBatch],
    loss_function: LossFunction,
    state: TrainState,
    run: Path,
    config: LoopConfig,
    hooks: Hooks = Hooks(),
) -> TrainState:
    """Train from `state.step` to the end of the schedule and return the last state.

    All ranks call it with their own part of the data.

    Args:
        engine: Restored to `state.step`.
        batches: This rank's micro-batches from that step on, `engine.accumulation` of them a step.
        loss_function: Logits and labels to a scalar.
        state: Where to continue, see `checkpoint.restore`.
        run: The run folder.
        config: Intervals and limits.
        hooks: Validation and further knowledge.

    Raises:
        Preempted: SIGTERM or SIGUSR2 came to any rank; the run has been saved.
        TrainingError: `config.max_skipped` steps in a row were skipped, or the data ended.
        CheckpointError: A checkpoint cannot be written.
    """
    stream = iter(batches)
    meter = Meter(engine.global_batch, engine.device, hooks.flops_per_patch)
    stacks = run / LOGS / f"rank_{distributed.rank()}.stacks"
    with (
        _journal(engine, state, run, config) as journal,
        CheckpointWriter(run / CHECKPOINTS, config.keep_checkpoints) as writer,
        Watchdog(stacks, config.hang_timeout_s) as watchdog,
        stop_request() as stop,
    ):
        while state.step < engine.total_steps:
            micro_batches = meter.draw(stream, engine.accumulation)
            reject = partial(_is_spike, meter, state, config.guard)
            result = train_step(engine, micro_batches, loss_function, reject)
            meter.add(result)
            state = _advanced(state, result, meter.loss, engine.global_batch, config.guard)
            if result.skipped:
                said, row = explain(state.step, result, micro_batches, hooks.describe)
                journal.skip(row)
                _check_patience(state, said, config.max_skipped)
            with watchdog.paused():  # validation may take longer than any step
                _measure(engine, state, meter, config, hooks, journal)
            stop_now, failed = distributed.on_any_rank([bool(stop), writer.failed])
            with watchdog.paused():  # so may a disk that is slow
                if failed:
                    writer.wait()
                _save_if_due(writer, engine, state, config.checkpoint_every, stop_now)
    return state


def _is_spike(meter: Meter, state: TrainState, guard: GuardConfig, losses: torch.Tensor) -> bool:
    return is_spike(meter.exchange(losses), state.recent_losses, guard)


def _advanced(
    state: TrainState, result: StepResult, loss: float, samples: int, guard: GuardConfig
) -> TrainState:
    if result.skipped:
        return state.after_skipped_step(samples)
    return state.after_good_step(samples, loss, guard.window)


def _check_patience(state: TrainState, said: str, max_skipped: int) -> None:
    """Say that a step was skipped.

    Raises:
        TrainingError: It was the last of `max_skipped` in a row.
    """
    if state.skipped_in_a_row >= max_skipped:
        raise TrainingError(
            f"step {state.step}: {state.skipped_in_a_row} steps in a row were skipped, {said}; "
            f"lower optim.lr, or look at them with 'stunet replay RUN {state.step}'"
        )
    if distributed.is_main():
        log.warning("step %d skipped: %s", state.step, said)


def _save_if_due(
    writer: CheckpointWriter, engine: TrainEngine, state: TrainState, every: int, stop_now: bool
) -> None:
    """Begin a checkpoint if the step asks for one; wait for it where it is the last.

    Raises:
        Preempted: The run was asked to stop before its end.
    """
    finished = state.step == engine.total_steps
    if stop_now or finished or _due(state.step, every):
        writer.save(engine, state)
    if stop_now or finished:
        saved = writer.wait()
        if not finished:
            raise Preempted(f"asked to stop: saved {saved}; run the command again to go on")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@dataclass(frozen=True)
class _Journal:
    """What is written down and shown of a run: on rank 0; elsewhere it does nothing."""

    step: Report
    skip: Callable[[Mapping[str, Any]], None]


def _measure(
    engine: TrainEngine,
    state: TrainState,
    meter: Meter,
    config: LoopConfig,
    hooks: Hooks,
    journal: _Journal,
) -> None:
    """Read the numbers that are due after a step and hand them to the journal."""
    values: dict[str, float] = {}
    limit = ""
    if _due(state.step, config.log_every):
        reading = meter.read()
        values, limit = {**reading.values, "skipped_steps": state.skipped_steps}, reading.limit
        if reading.warning and distributed.is_main():
            log.warning("%s", reading.warning)
    if hooks.validate is not None and _due(state.step, config.validate_every):
        with meter.paused(), engine.evaluating():
            values |= hooks.validate(state.step)
    journal.step(state.step, values, limit)


@contextmanager
def _journal(
    engine: TrainEngine, state: TrainState, run: Path, config: LoopConfig
) -> Iterator[_Journal]:
    if not distributed.is_main():
        yield _Journal(lambda step, values, limit: None, lambda row: None)
        return
    run.mkdir(parents=True, exist_ok=True)
    atomic_write_json(run / DEEPSPEED_JSON, engine.config)
    with (
        Tracker(run, config.tracking, state.step) as tracker,
        JsonLines(run / SKIPPED, state.step) as skipped,
        progress(engine.total_steps, state.step) as show,
    ):

        def record(step: int, values: Mapping[str, float], limit: str) -> None:
            if values:
                tracker.log(step, values)
            show(step, values, limit)

        yield _Journal(record, skipped.write)
