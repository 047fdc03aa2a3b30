"""The stages that take a recipe: the schema it is checked against, and which of them train."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stunet.config import read_recipe
from stunet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from stunet.training.data import TrainingData
    from stunet.training.recipe import TrainingConfig
    from stunet.training.task import Task

STAGES = {
    "prepare": "data_tools.prepare:PrepareConfig",
    "union": "data_tools.union:UnionConfig",
    "pretrain": "pretrain.config:PretrainConfig",
    "finetune": "finetune.config:FinetuneConfig",
    "launch": "launch.launch_config:LaunchConfig",
    "transfer": "stunet.data.crosswalk:Crosswalk",
}
TRAINING = {"pretrain": "pretrain.train", "finetune": "finetune.train"}  # stages that train


def schema(stage: str) -> type[Any]:
    """Return the dataclass that configures a stage."""
    module, _, name = STAGES[stage].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def task(config: TrainingConfig, data: TrainingData) -> Task:
    """Return what the stage of a recipe would train on its data; see `stunet.training.task`."""
    found: Task = import_module(TRAINING[config.stage]).task(config, data)
    return found


def check_trains(launcher: str, verb: str) -> None:
    """Raise unless a verb is one that trains.

    Raises:
        ConfigError: It is not.
    """
    if verb not in TRAINING:
        raise ConfigError(
            f"launch {launcher}: verb {verb!r} is not {' or '.join(TRAINING)}; start it without"
            " launch"
        )


def schema_of(recipe: str) -> type[Any]:
    """Return the schema of the stage that a recipe names in its `stage` key."""
    stage = read_recipe(recipe).get("stage")
    if stage not in STAGES:
        raise ConfigError(f"recipe {recipe}: stage {stage!r} is not one of {', '.join(STAGES)}")
    return schema(stage)


def schema_of_run(run: Path) -> type[Any]:
    """Return the schema of the recipe that a run folder holds.

    Raises:
        CheckpointError: It holds none.
    """
    recipe = run / "config.yaml"
    if not recipe.is_file():
        raise CheckpointError(
            f"run {run}: has no readable {recipe.name}; give the folder of a training run"
        )
    return schema_of(str(recipe))
