"""Fine-tuning from a recipe, on one process or on each that torchrun or SLURM started."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune.config import SCRATCH, FinetuneConfig
from finetune.initial import Initial, initial_network
from finetune.recipe import adapt, l2_sp, parameter_groups
from finetune.reconcile import Reconciled, reconcile
from stunet.bundle import Bundle, read_bundle
from stunet.engine import distributed
from stunet.errors import CheckpointError, ConfigError
from stunet.hub.fetch import fetch
from stunet.models.spec import ModelConfig
from stunet.registry import build_model, model_spec
from stunet.training.data import TrainingData
from stunet.training.recipe import NetworkConfig, model_config
from stunet.training.task import Start, Task
from stunet.training.train import run_training

TRANSFER = "transfer.json"  # in the run folder: what became of every tensor


def train(config: FinetuneConfig) -> None:
    """Train from a bundle to the end of the schedule, continuing what the run folder holds.

    Raises:
        StunetError: Whatever a user can mend; see the parts.
        Preempted: The run was asked to stop and saved itself.
    """
    run_training(config, partial(task, config))


def task(config: FinetuneConfig, data: TrainingData) -> Task:
    """The bundle's network with inputs and outputs of the data; all ranks must call it.

    Raises:
        BundleError: `init` is no bundle.
        DataError, ConfigError: As `reconcile`.
        CheckpointError: The run in the folder was started from another bundle.
    """
    if config.init == SCRATCH:
        return _from_scratch(config, data)
    bundle = read_bundle(distributed.run_on_main(lambda: str(fetch(config.init, config.remote))))
    _check_same_start(Path(config.out), config.init, bundle)
    fitted = reconcile(config, data, bundle)
    return Task(
        fitted.data,
        fitted.network,
        partial(_from_bundle, config, fitted, bundle),
        inherited=bundle.provenance.data,
    )


def _from_scratch(config: FinetuneConfig, data: TrainingData) -> Task:
    """The same budget from random weights; network and plan are the recipe's and the store's."""
    default = NetworkConfig()
    named = replace(
        config.network,
        name=config.network.name or default.name,
        size=config.network.size or default.size,
    )
    network = model_config(replace(config, network=named), data.info)
    return Task(
        data,
        network,
        lambda: _adapted(config, network, Initial(build_model(network, config.seed), (), {})),
    )


def _from_bundle(config: FinetuneConfig, fitted: Reconciled, bundle: Bundle) -> Start:
    info = fitted.data.info
    initial = initial_network(fitted.network, info, bundle, config.crosswalk, config.seed)
    start = _adapted(config, fitted.network, initial)
    record = {"bundle": str(bundle.folder), "sha256": bundle.sha256, **initial.record()}
    notes = [*fitted.differences, *initial.summary(), *start.notes]
    return replace(start, records={TRANSFER: record}, notes=notes)


def _adapted(config: FinetuneConfig, network: ModelConfig, initial: Initial) -> Start:
    """What moves, and how far.

    Raises:
        ConfigError: The recipe asks for what cannot be had together.
    """
    how, model, spec = config.adapt, initial.model, model_spec(network.name)
    if how.l2_sp and config.parallel.stage(distributed.world()) == 3:
        raise ConfigError(
            "adapt.l2_sp with ZeRO 3, which keeps no whole weights to compare; set"
            " parallel.zero_stage=2, or adapt.l2_sp=0"
        )
    said = adapt(model, spec, how, config.seed)
    return Start(
        model,
        parameter_groups(model, spec, how, initial.from_source),
        l2_sp(model, how.l2_sp, initial.from_source) if how.l2_sp else None,
        notes=[said],
    )


def _check_same_start(run: Path, init: str, bundle: Bundle) -> None:
    if not (run / TRANSFER).exists():
        return
    before = json.loads((run / TRANSFER).read_text())["sha256"]
    if before != bundle.sha256:
        raise CheckpointError(
            f"run {run}: was started from another bundle than {init} is now; name another out=..."
        )
