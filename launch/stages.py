"""Which schema a recipe is checked against: one line per stage that takes a recipe."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stunet.config import read_recipe
from stunet.errors import ConfigError

STAGES = {
    "prepare": "data_tools.prepare:PrepareConfig",
    "union": "data_tools.union:UnionConfig",
    "pretrain": "pretrain.config:PretrainConfig",
    "launch": "launch.launch_config:LaunchConfig",
    "transfer": "stunet.data.crosswalk:Crosswalk",
}


def schema(stage: str) -> type[Any]:
    """Return the dataclass that configures a stage."""
    module, _, name = STAGES[stage].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def schema_of(recipe: str) -> type[Any]:
    """Return the schema of the stage that a recipe names in its `stage` key."""
    stage = read_recipe(recipe).get("stage")
    if stage not in STAGES:
        raise ConfigError(f"recipe {recipe}: stage {stage!r} is not one of {', '.join(STAGES)}")
    return schema(stage)
