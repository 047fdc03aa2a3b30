"""The training loop: steps until the run is done, with all that a step itself must not do.

It reads the clock, writes metrics, saves checkpoints, validates, shows progress, and stops when the
system or non-finite numbers ask for it. It does not build anything: data, model, engine and loss
are given.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stunet.engine import checkpoint, distributed
from stunet.engine.meter import Meter
from stunet.engine.progress import Report, progress
from stunet.engine.signals import stop_request
from stunet.engine.state import TrainState
from stunet.engine.step import LossFunction, StepResult, train_step
from stunet.engine.tracking import Tracker, TrackingConfig
from stunet.errors import ConfigError, Preempted, TrainingError
from stunet.io.atomic import atomic_write_json
from stunet.types import Batch

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DEEPSPEED_JSON = "deepspeed.json"

Validate = Callable[[int], Mapping[str, float]]
"""(step) -> numbers for the metrics; called on every rank, inside `engine.evaluating()`."""


@dataclass(frozen=True)
class LoopConfig:
    """How often what is done. Intervals are in optimiser steps.

    Attributes:
        log_every: Between two lines of metrics; numbers leave the device only then.
        checkpoint_every: Between two checkpoints; one is always written at the end.
        keep_checkpoints: How many of the newest stay.
        validate_every: Between two validations; 0: never.
        max_skipped: So many non-finite steps in a row end the run.
        tracking: The wandb mirror.
    """

    log_every: int = 50
    checkpoint_every: int = 2500
    keep_checkpoints: int = 3
    validate_every: int = 0
    max_skipped: int = 10
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep_checkpoints", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name} {getattr(self, name)}: must be at least 1")


def fit(
    engine: TrainEngine,
    batches: Iterable[Batch],
    loss_function: LossFunction,
    state: TrainState,
    run: Path,
    config: LoopConfig,
    validate: Validate | None = None,
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
        validate: Measures on held-out data.

    Raises:
        Preempted: SIGTERM or SIGUSR2 came to any rank; the run has been saved.
        TrainingError: `config.max_skipped` steps in a row were not finite, or the data ended.
        CheckpointError: A checkpoint cannot be written.
    """
    stream, checkpoints = iter(batches), run / CHECKPOINTS
    meter = Meter(engine.global_batch)
    with _journal(engine, state, run, config) as record, stop_request() as stop:
        while state.step < engine.total_steps:
            micro_batches = meter.draw(stream, engine.accumulation)
            result = train_step(engine, micro_batches, loss_function)
            state = state.after_step(result.skipped, engine.global_batch)
            meter.add(result)
            if result.skipped:
                _explain_skip(state, result, micro_batches, config.max_skipped)
            record(state.step, _measure(engine, state, meter, config, validate))
            stop_now = distributed.any_rank(bool(stop))
            finished = state.step == engine.total_steps
            if stop_now or finished or _due(state.step, config.checkpoint_every):
                with meter.paused():
                    saved = checkpoint.save(engine, state, checkpoints, config.keep_checkpoints)
                if stop_now and not finished:
                    raise Preempted(f"asked to stop: saved {saved}; run the command again to go on")
    return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _measure(
    engine: TrainEngine,
    state: TrainState,
    meter: Meter,
    config: LoopConfig,
    validate: Validate | None,
) -> dict[str, float]:
    values: dict[str, float] = {}
    if _due(state.step, config.log_every):
        values |= meter.read()
        values["skipped_steps"] = state.skipped_steps
    if validate is not None and _due(state.step, config.validate_every):
        with meter.paused(), engine.evaluating():
            values |= validate(state.step)
    return values


@contextmanager
def _journal(
    engine: TrainEngine, state: TrainState, run: Path, config: LoopConfig
) -> Iterator[Report]:
    """Yield what writes down and shows a step's numbers: on rank 0; elsewhere it does nothing."""
    if not distributed.is_main():
        yield lambda step, values: None
        return
    run.mkdir(parents=True, exist_ok=True)
    atomic_write_json(run / DEEPSPEED_JSON, engine.config)
    with (
        Tracker(run, config.tracking, state.step) as tracker,
        progress(engine.total_steps, state.step) as show,
    ):

        def record(step: int, values: Mapping[str, float]) -> None:
            if values:
                tracker.log(step, values)
            show(step, values)

        yield record


def _explain_skip(
    state: TrainState, result: StepResult, batches: Sequence[Batch], max_skipped: int
) -> None:
    """Say which samples made a step be skipped; all ranks call it.

    Raises:
        TrainingError: It was the last of `max_skipped` in a row.
    """
    finite = torch.isfinite(result.losses).tolist()
    suspects = [batch for batch, good in zip(batches, finite, strict=True) if not good]
    samples = _gather_names(suspects)
    what = "loss" if samples else "gradient"
    samples = samples or _gather_names(batches)
    reason = f"the {what} is not finite; samples {', '.join(samples)}"
    if state.skipped_in_a_row >= max_skipped:
        raise TrainingError(
            f"step {state.step}: {state.skipped_in_a_row} steps in a row were skipped, {reason}; "
            "lower optim.lr or look at these samples"
        )
    if distributed.is_main():
        log.warning("step %d skipped: %s", state.step, reason)


def _gather_names(batches: Sequence[Batch]) -> list[str]:
    """The samples of the given micro-batches of all ranks, with their cases where known."""
    mine = []
    for batch in batches:
        cases = batch.case_ids or ("",) * len(batch.sample_ids)
        for sample, case in zip(batch.sample_ids, cases, strict=True):
            mine.append(f"{sample} ({case})" if case else str(sample))
    return [name for text in distributed.gather_text(json.dumps(mine)) for name in json.loads(text)]
