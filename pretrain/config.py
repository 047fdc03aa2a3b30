"""The recipe of a pre-training run: all of it is what every kind of training has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stunet.training.recipe import TrainingConfig


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """A pre-training run; see `TrainingConfig` for its values."""

    stage: Literal["pretrain"] = "pretrain"
