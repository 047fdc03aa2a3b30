"""What a stage of training brings to the common run: its data, its network, its initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stunet.engine.optim import ParameterGroup
from stunet.engine.step import LossFunction
from stunet.inference.model_card import DataSource
from stunet.models.spec import ModelConfig
from stunet.training.data import TrainingData


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        model: With its initial weights; what wants no gradient is not trained.
        groups: All its weights, where they do not all move alike.
        penalty: () on the weights, added to the loss of every micro-batch.
        records: Name of a JSON file in the run folder to what it shall hold.
        notes: For the user, a line each.
    """

    model: nn.Module
    groups: Sequence[ParameterGroup] = ()
    penalty: Callable[[], torch.Tensor] | None = None
    records: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def penalised(self, loss: LossFunction) -> LossFunction:
        """A loss with the penalty, if there is one."""
        penalty = self.penalty
        return loss if penalty is None else lambda *outputs: loss(*outputs) + penalty()


@dataclass(frozen=True)
class Task:
    """What a stage trains on given data.

    Attributes:
        data: The data of the run with the plan that it is trained with.
        network: What is trained.
        start: Builds it; called once, when the run folder is ours.
        inherited: What the initial weights were trained on.
    """

    data: TrainingData
    network: ModelConfig
    start: Callable[[], Start]
    inherited: Sequence[DataSource] = ()
