"""Pre-training from a recipe, on one process or on each that torchrun or SLURM started."""

from __future__ import annotations

from functools import partial

from pretrain.config import PretrainConfig
from stunet.registry import build_model
from stunet.training.data import TrainingData
from stunet.training.recipe import model_config
from stunet.training.task import Start, Task
from stunet.training.train import run_training


def train(config: PretrainConfig) -> None:
    """Train from initial weights to the end of the schedule, continuing what is in the run folder.

    Raises:
        StunetError: Whatever a user can mend; see the parts.
        Preempted: The run was asked to stop and saved itself.
    """
    run_training(config, partial(task, config))


def task(config: PretrainConfig, data: TrainingData) -> Task:
    """The network that fits the data, with random weights."""
    network = model_config(config, data.info)
    return Task(data, network, lambda: Start(build_model(network, config.seed)))
