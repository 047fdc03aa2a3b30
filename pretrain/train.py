"""Pre-training from a recipe, on one process or on each that torchrun or SLURM started."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig, model_config
from pretrain.data import cases_of, training_batches
from pretrain.evaluate import validate
from pretrain.plots import draw_plots
from pretrain.run_folder import claim, config_hash, digest, write_status
from stunet.engine import checkpoint, distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.loop import CHECKPOINTS, fit
from stunet.engine.state import TrainState
from stunet.errors import Preempted
from stunet.inference.model_card import DataSource
from stunet.io.manifest import MANIFEST
from stunet.io.store import Store, open_store
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.registry import build_model
from stunet.types import Size3


def train(config: PretrainConfig) -> None:
    """Train to the end of the schedule, continuing what the run folder holds.

    Raises:
        StunetError: Whatever a user can mend; see the parts.
        Preempted: The run was asked to stop and saved itself.
    """
    run = Path(config.out)
    distributed.start()
    try:
        store = open_store(config.store)
        distributed.run_on_main(lambda: _open_run(run, config, store))
        network = model_config(config, store.info)
        model = build_model(network, config.seed)
        engine = TrainEngine.start(model, config.optim, config.parallel, config.global_batch)
        state = checkpoint.restore(engine, run / CHECKPOINTS, _fresh_state(config, store, engine))
        _train(config, store, network.strides, engine, state)
        engine.close()
        distributed.barrier()  # nobody leaves while another still listens
    finally:
        distributed.stop()


def _train(
    config: PretrainConfig,
    store: Store,
    strides: tuple[Size3, ...],
    engine: TrainEngine,
    state: TrainState,
) -> None:
    run = Path(config.out)
    loss = partial(
        deep_supervision_loss,
        strides=strides,
        ignore_label=store.info.ignore_label,
        batch_dice=config.batch_dice,
    )
    facts = _facts(store, state)
    _note(run, "running", facts)
    outcome = "failed"
    try:
        state = fit(
            engine,
            training_batches(store, config, state.step),
            loss,
            state,
            run,
            config.loop,
            validate=partial(validate, engine, store, config),
        )
        outcome = "finished"
    except Preempted:
        outcome = "preempted"
        raise
    finally:
        _note(run, outcome, facts)


def _open_run(run: Path, config: PretrainConfig, store: Store) -> str:
    claim(run, config, store.root)
    return ""


def _fresh_state(config: PretrainConfig, store: Store, engine: TrainEngine) -> TrainState:
    return TrainState(
        seed=config.seed,
        config_hash=config_hash(config, store.root),
        world=distributed.world(),
        zero_stage=engine.zero_stage,
    )


def _facts(store: Store, state: TrainState) -> dict[str, Any]:
    """What `run.json` tells besides the state: how the run is spread and what it is trained on."""
    data = DataSource(
        name=store.info.name,
        licence=store.info.licence,
        cases=len(cases_of(store, "train")),
        sha256=digest(store.root / MANIFEST),
    )
    return {
        "world": state.world,
        "zero_stage": state.zero_stage,
        "started_at_step": state.step,
        "data": asdict(data),
    }


def _note(run: Path, outcome: str, facts: dict[str, Any]) -> None:
    if distributed.is_main():
        write_status(run, outcome, facts)
        draw_plots(run)
