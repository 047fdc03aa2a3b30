"""The optimiser and its learning rate, as functions of a small config.

Nothing here knows of ranks or of DeepSpeed: these are torch's own optimisers, built by the client
and handed over, so that no CPU or CUDA extension has to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stunet.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """How the weights move. The defaults are nnU-Net's (Isensee et al. 2021), which STU-Net keeps.

    Attributes:
        name: `sgd` (Nesterov momentum) or `adamw`.
        lr: Learning rate at its highest.
        momentum: Of `sgd`; 0 switches it off.
        nesterov: Whether `sgd` looks ahead along its momentum.
        weight_decay: Per unit of learning rate; inside the gradient for `sgd`, decoupled for
            `adamw`. Applied to every parameter.
        betas: Decay of the two moments of `adamw`.
        power: Exponent of the polynomial decay; 0 keeps the rate constant.
        warmup_steps: Steps over which the rate first rises linearly to `lr`.
        total_steps: Length of the run in optimiser steps: 1000 epochs of 250.
        clip_norm: Upper bound on the norm of the whole gradient; None leaves it free.
        ema_decay: What a moving average of the weights keeps in every step, e.g. 0.999; validation
            and export then use the average. None: no average.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.999)
    power: float = 0.9
    warmup_steps: int = 0
    total_steps: int = 250_000
    clip_norm: float | None = 12.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ConfigError(
                f"optim.warmup_steps {self.warmup_steps}: must be at least 0 and below "
                f"optim.total_steps {self.total_steps}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(
                f"optim.clip_norm {self.clip_norm}: must be above 0; null switches clipping off"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(
                f"optim.ema_decay {self.ema_decay}: must be between 0 and 1; null switches the"
                " average off"
            )


def learning_rate(config: OptimConfig, step: int) -> float:
    """The rate of the `step`-th step, counted from 0.

    A pure function of the step: nothing of a scheduler has to be saved, and a skipped step cannot
    shift the schedule against the data (DeepSpeed advances a scheduler of its own or not, depending
    on the ZeRO stage).

    Source: polynomial decay `lr (1 - t / T) ** 0.9`, Chen et al. 2018, arXiv:1606.00915.

    >>> config = OptimConfig(lr=0.1, power=1.0, warmup_steps=2, total_steps=12)
    >>> [round(learning_rate(config, step), 3) for step in (0, 1, 2, 7, 11)]
    [0.05, 0.1, 0.1, 0.05, 0.01]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    decay_steps = config.total_steps - config.warmup_steps
    left = max(config.total_steps - step, 0) / decay_steps
    return config.lr * left**config.power


@dataclass(frozen=True)
class Update:
    """What an optimiser step did; see `stunet.engine.step.StepResult`."""

    grad_norm: torch.Tensor
    skipped: bool
    lr: float


@dataclass(frozen=True)
class ParameterGroup:
    """Weights that move alike.

    Attributes:
        parameters: Those that want no gradient are passed over.
        lr_scale: Their learning rate as a multiple of the schedule's, at every step.
        weight_decay: Theirs; None: that of the configuration.
    """

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its multiple of the rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, groups: Sequence[ParameterGroup] = ()
) -> torch.optim.Optimizer:
    """A torch optimiser over those parameters that want a gradient.

    Args:
        parameters: Of the model.
        config: How they move.
        groups: The same parameters, where they do not all move alike.

    Raises:
        ConfigError: None does.
    """
    trainable = [
        {
            "params": trained,
            "lr_scale": group.lr_scale,
            "weight_decay": (
                config.weight_decay if group.weight_decay is None else group.weight_decay
            ),
        }
        for group in groups or (ParameterGroup(tuple(parameters)),)
        if (trained := [p for p in group.parameters if p.requires_grad])
    ]
    if not trainable:
        raise ConfigError("nothing of the network is trained; free a part of it")
    if config.name == "adamw":
        return torch.optim.AdamW(trainable, lr=config.lr, betas=config.betas)
    return torch.optim.SGD(
        trainable,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> torch.Tensor:
    """Bound the norm of the whole gradient in place; return () what it was.

    What ZeRO 1 to 3 do inside DeepSpeed. As there, weights that the loss does not use get zeros,
    so that they decay at every stage or, if they want no gradient, at none.
    """
    trained = list(parameters)
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return nn.utils.clip_grad_norm_(trained, math.inf if clip_norm is None else clip_norm)


def state_keys(config: OptimConfig) -> tuple[str, ...]:
    """Names of the tensors, each shaped like its parameter, that the optimiser remembers."""
    if config.name == "adamw":
        return ("exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if config.momentum > 0 else ()


def create_state(
    optimizer: torch.optim.Optimizer, tensors: Iterable[torch.Tensor], keys: Iterable[str]
) -> None:
    """Create now, as zeros, what torch would create in its first step.

    The first step then computes the same numbers (momentum * 0 + g = g), the memory is taken up
    before training starts, and a checkpoint can be loaded into tensors that exist.
    """
    names = tuple(keys)
    for tensor in tensors:
        state = optimizer.state[tensor]
        for name in names:
            state[name] = torch.zeros_like(tensor, requires_grad=False)
        if isinstance(optimizer, torch.optim.AdamW):
            state["step"] = torch.zeros(())  # float32 on the host: torch's own choice
