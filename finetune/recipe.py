"""What of a network moves and how far: freezing, learning rates, low-rank changes, L2-SP.

Functions on a model that has its initial weights; nothing here knows of ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection

import torch
from torch import nn

from finetune.config import AdaptConfig
from stunet.engine.optim import ParameterGroup
from stunet.errors import ConfigError
from stunet.models.lora import DOWN, UP, add_lora
from stunet.models.parts import distance_to_output, place_of
from stunet.models.spec import ModelSpec


def adapt(model: nn.Module, spec: ModelSpec, config: AdaptConfig, seed: int) -> str:
    """Freeze what is not trained, add low-rank changes in place; say what moves.

    Args:
        model: With its initial weights.
        spec: Of the model.
        config: What moves.
        seed: Of the low-rank changes.

    Raises:
        ConfigError: The network's parts are not known.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(place_of(spec, name).part in config.train)
    if config.lora.rank:
        add_lora(
            model, config.lora.rank, seed, lambda n: place_of(spec, n).part in config.lora.parts
        )
    return _count(model, spec)


def parameter_groups(
    model: nn.Module, spec: ModelSpec, config: AdaptConfig, from_source: Collection[str]
) -> tuple[ParameterGroup, ...]:
    """Weights by what their learning rate and weight decay is, those nearest the output first.

    Args:
        model: As `adapt` leaves it.
        spec: Of the model.
        config: What moves.
        from_source: Weights that L2-SP pulls at, which are spared the weight decay then.
    """
    names = [name for name, _ in model.named_parameters()]
    distances = distance_to_output(spec, names)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        rate = getattr(config.lr, place_of(spec, name).part)
        scale = rate * config.stage_decay ** distances[name]
        groups[scale, bool(config.l2_sp) and name in from_source].append(parameter)
    return tuple(
        ParameterGroup(parameters, scale, 0.0 if pulled else None)
        for (scale, pulled), parameters in sorted(groups.items(), key=lambda item: -item[0][0])
    )


def l2_sp(
    model: nn.Module, strength: float, from_source: Collection[str]
) -> Callable[[], torch.Tensor]:
    """Half of `strength` times the squared distance of trained weights from what they are now.

    Source: Li et al. 2018, arXiv:1802.01483, equation 4.

    Raises:
        ConfigError: No weight that is trained comes from the source.
    """
    pairs = [
        (parameter, parameter.detach().clone())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name in from_source
    ]
    if not pairs:
        raise ConfigError(
            f"adapt.l2_sp={strength}: no weight of the bundle is trained; set it to 0, or free a"
            " part by adapt.train"
        )

    def penalty() -> torch.Tensor:
        pairs[:] = [(p, start.to(p.device)) for p, start in pairs]  # moves only once
        terms = [(p - start).square().sum() for p, start in pairs]
        return strength / 2 * torch.stack(terms).sum()

    return penalty


def _count(model: nn.Module, spec: ModelSpec) -> str:
    """What is trained, in one line."""
    trained: dict[str, int] = defaultdict(int)
    total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            low_rank = name.rpartition(".")[2] in (DOWN, UP)
            trained[place_of(spec, name).part + (" (low rank)" if low_rank else "")] += (
                parameter.numel()
            )
    parts = ", ".join(f"{part} {count:,}" for part, count in trained.items()) or "nothing"
    return f"trained: {sum(trained.values()):,} of {total:,} numbers: {parts}"
