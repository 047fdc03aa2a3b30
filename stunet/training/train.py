"""A training run of any stage, on one process or on each that torchrun or SLURM started.

What is trained and from which weights a stage says by its `Task`; all the rest is here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from stunet.engine import checkpoint, checkpoint_files, distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.idle import freeze_idle_heads
from stunet.engine.loop import CHECKPOINTS, Hooks, fit
from stunet.engine.state import TrainState
from stunet.errors import CheckpointError, Preempted
from stunet.inference.model_card import DataSource
from stunet.io.atomic import atomic_write_json
from stunet.models.spec import STEP_OVER_FORWARD
from stunet.models.speed import set_speed
from stunet.registry import model_spec
from stunet.training.augment_where import workers_augment
from stunet.training.data import (
    TrainingData,
    chosen_ids,
    open_data,
    patch_source,
    training_batches,
)
from stunet.training.evaluate import validate
from stunet.training.loss import training_loss
from stunet.training.plots import draw_plots
from stunet.training.recipe import TrainingConfig
from stunet.training.recompute import decided_speed
from stunet.training.run_folder import claim, config_hash, interruptions, write_status
from stunet.training.task import Start, Task
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

log = logging.getLogger(__name__)


def run_training(config: TrainingConfig, task_for: Callable[[TrainingData], Task]) -> None:
    """Train to the end of the schedule, continuing what the run folder holds.

    Args:
        config: The recipe, complete.
        task_for: Gives the task for the data of the run; called on every rank.

    Raises:
        StunetError: Whatever a user can mend; see the parts.
        Preempted: The run was asked to stop and saved itself.
    """
    run = Path(config.out)
    distributed.start()
    try:
        task = task_for(open_data(config))
        distributed.run_on_main(lambda: _open_run(run, config, task))
        start = task.start()
        distributed.run_on_main(lambda: _record(run, start))
        engine = start_engine(config, task, start)
        fresh = _fresh_state(config, task.data, engine)
        state = checkpoint.restore(engine, run / CHECKPOINTS, fresh)
        _train(config, task, start, engine, state)
        engine.close()
        distributed.barrier()  # nobody leaves while another still listens
    finally:
        distributed.stop()


def start_engine(config: TrainingConfig, task: Task, start: Start) -> TrainEngine:
    """Hand the model of a run to the engine, prepared as its recipe says; all ranks must call it.

    Raises:
        ConfigError: As `TrainEngine.start` and `decided_speed`.
    """
    freeze_idle_heads(start.model)
    set_speed(start.model, decided_speed(config, task.network, config.patch_for(task.data.info)))
    return TrainEngine.start(
        start.model, config.optim, config.parallel, config.global_batch, start.groups
    )


def start_stream(
    config: TrainingConfig, data: TrainingData, engine: TrainEngine, step: int
) -> Generator[Batch | WindowBatch]:
    """Micro-batches of this rank from `step` on, augmented where the recipe says or a trial shows.

    All ranks must call it.
    """
    shape = len(data.info.channels), *config.patch_for(data.info)
    source = patch_source(data, config)
    here = workers_augment(config.augment.device, engine, source, config.loader.workers, shape)
    return training_batches(data, config, step, here)


def _train(
    config: TrainingConfig, task: Task, start: Start, engine: TrainEngine, state: TrainState
) -> None:
    run, data = Path(config.out), task.data
    loss = training_loss(data.info, task.network, config.batch_dice)
    facts = _facts(run, config, task, state)
    _note(run, "running", facts)
    outcome, agreed = "failed", False
    try:
        state = fit(
            engine,
            start_stream(config, data, engine, state.step),
            start.penalised(loss),
            state,
            run,
            config.loop,
            _hooks(config, task, engine),
        )
        outcome = "finished"
    except (Preempted, CheckpointError) as error:  # on all ranks, or on none
        outcome, agreed = "preempted" if isinstance(error, Preempted) else outcome, True
        raise
    finally:
        _note(run, outcome, facts)
        if agreed:  # a launcher that sees one rank leave ends the others, rank 0 unheard
            distributed.barrier()


def _open_run(run: Path, config: TrainingConfig, task: Task) -> str:
    claim(run, config, task.data.info, task.data.content, task.network)
    return ""


def _record(run: Path, start: Start) -> str:
    for name, record in start.records.items():
        atomic_write_json(run / name, record)
    for note in start.notes:
        print(note, flush=True)
    return ""


def _fresh_state(config: TrainingConfig, data: TrainingData, engine: TrainEngine) -> TrainState:
    return TrainState(
        seed=config.seed,
        config_hash=config_hash(config, data.content),
        world=distributed.world(),
        zero_stage=engine.zero_stage,
    )


def _hooks(config: TrainingConfig, task: Task, engine: TrainEngine) -> Hooks:
    data = task.data
    patch_size = config.patch_for(data.info)
    forward = model_spec(task.network.name).forward_flops(task.network, patch_size)
    flops = STEP_OVER_FORWARD * forward
    return Hooks(
        validate=partial(validate, engine, data, config),
        describe=patch_source(data, config).describe,
        flops_per_patch=flops if config.parallel.precision == "bf16" else None,
    )


def _facts(run: Path, config: TrainingConfig, task: Task, state: TrainState) -> dict[str, Any]:
    """What `run.json` tells besides the state: how the run is spread and what it is trained on."""
    history = interruptions(run, state.step) if distributed.is_main() else []
    data = task.data
    sources = [
        DataSource(part.info.name, part.info.licence, len(chosen.train), sha256)
        for part, chosen, sha256 in zip(data.parts, data.cases, data.content, strict=True)
    ]
    return {
        "world": state.world,
        "zero_stage": state.zero_stage,
        "started_at_step": state.step,
        "restarts": len(history),
        "history": history,
        "data": [asdict(source) for source in (*task.inherited, *sources)],
        "split": chosen_ids(data, config),
    }


def _note(run: Path, outcome: str, facts: dict[str, Any]) -> None:
    if not distributed.is_main():
        return
    try:
        saved = checkpoint_files.complete_checkpoints(run / CHECKPOINTS)
        step = checkpoint_files.read_state(saved[0])["step"] if saved else 0
        write_status(run, outcome, {"step": step, **facts})
        draw_plots(run)
    except OSError as error:  # a full disk has ended the run, which is what must be told
        log.warning("run %s: its state '%s' is not written down (%s)", run, outcome, error)
