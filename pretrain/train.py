"""Pre-training from a recipe, on one process or on each that torchrun or SLURM started."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig, model_config
from pretrain.data import TrainingData, cases_of, open_data, patch_source, training_batches
from pretrain.evaluate import validate
from pretrain.plots import draw_plots
from pretrain.run_folder import claim, config_hash, interruptions, write_status
from stunet.engine import checkpoint, checkpoint_files, distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.idle import freeze_idle_heads
from stunet.engine.loop import CHECKPOINTS, Hooks, fit
from stunet.engine.state import TrainState
from stunet.errors import CheckpointError, Preempted
from stunet.inference.model_card import DataSource
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.losses.dice_ce import dice_ce
from stunet.models.spec import ModelConfig
from stunet.models.speed import set_speed
from stunet.registry import build_model, model_spec

log = logging.getLogger(__name__)


def train(config: PretrainConfig) -> None:
    """Train to the end of the schedule, continuing what the run folder holds.

    Raises:
        StunetError: Whatever a user can mend; see the parts.
        Preempted: The run was asked to stop and saved itself.
    """
    run = Path(config.out)
    distributed.start()
    try:
        data = open_data(config)
        distributed.run_on_main(lambda: _open_run(run, config, data))
        network = model_config(config, data.info)
        model = build_model(network, config.seed)
        freeze_idle_heads(model)
        set_speed(model, config.speed)
        engine = TrainEngine.start(model, config.optim, config.parallel, config.global_batch)
        state = checkpoint.restore(engine, run / CHECKPOINTS, _fresh_state(config, data, engine))
        _train(config, data, network, engine, state)
        engine.close()
        distributed.barrier()  # nobody leaves while another still listens
    finally:
        distributed.stop()


def _train(
    config: PretrainConfig,
    data: TrainingData,
    network: ModelConfig,
    engine: TrainEngine,
    state: TrainState,
) -> None:
    run = Path(config.out)
    loss = partial(
        deep_supervision_loss,
        strides=network.strides,
        loss=partial(
            dice_ce,
            ignore_label=data.info.ignore_label,
            batch_dice=config.batch_dice,
            sum_over_ranks=distributed.sum_over_ranks,
        ),
    )
    facts = _facts(run, data, state)
    _note(run, "running", facts)
    outcome, agreed = "failed", False
    try:
        state = fit(
            engine,
            training_batches(data, config, state.step),
            loss,
            state,
            run,
            config.loop,
            _hooks(config, data, network, engine),
        )
        outcome = "finished"
    except (Preempted, CheckpointError) as error:  # on all ranks, or on none
        outcome, agreed = "preempted" if isinstance(error, Preempted) else outcome, True
        raise
    finally:
        _note(run, outcome, facts)
        if agreed:  # a launcher that sees one rank leave ends the others, rank 0 unheard
            distributed.barrier()


def _open_run(run: Path, config: PretrainConfig, data: TrainingData) -> str:
    claim(run, config, data.info, data.content())
    return ""


def _fresh_state(config: PretrainConfig, data: TrainingData, engine: TrainEngine) -> TrainState:
    return TrainState(
        seed=config.seed,
        config_hash=config_hash(config, data.content()),
        world=distributed.world(),
        zero_stage=engine.zero_stage,
    )


def _hooks(
    config: PretrainConfig, data: TrainingData, network: ModelConfig, engine: TrainEngine
) -> Hooks:
    patch_size = config.patch_size or data.info.patch_size
    forward = model_spec(network.name).forward_flops(network, patch_size)
    return Hooks(
        validate=partial(validate, engine, data, config),
        describe=patch_source(data, config).describe,
        # The backward pass computes two products of the same size for each of the forward pass.
        flops_per_patch=3 * forward if config.parallel.precision == "bf16" else None,
    )


def _facts(run: Path, data: TrainingData, state: TrainState) -> dict[str, Any]:
    """What `run.json` tells besides the state: how the run is spread and what it is trained on."""
    history = interruptions(run, state.step) if distributed.is_main() else []
    sources = [
        DataSource(part.info.name, part.info.licence, len(cases_of(part, "train")), sha256)
        for part, sha256 in zip(data.parts, data.content(), strict=True)
    ]
    return {
        "world": state.world,
        "zero_stage": state.zero_stage,
        "started_at_step": state.step,
        "restarts": len(history),
        "history": history,
        "data": [asdict(source) for source in sources],
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
