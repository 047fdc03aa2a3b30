"""The memory that a rank of a run takes, from its recipe."""

from __future__ import annotations

from typing import Literal

from stunet.engine.optim import state_keys
from stunet.engine.parallel import MAX_BUCKET_ELEMENTS
from stunet.models.cost import Sharing, StepMemory, step_memory
from stunet.models.ledger import Computing
from stunet.models.spec import ModelConfig
from stunet.training.recipe import TrainingConfig
from stunet.types import Size3


def rank_memory(
    config: TrainingConfig,
    network: ModelConfig,
    patch_zyx: Size3,
    world: int,
    device: Literal["cpu", "cuda"] = "cuda",
) -> StepMemory:
    """What a training step takes on each of `world` ranks.

    With `speed.recompute: auto` it is the lesser amount, with blocks recomputed.

    Raises:
        ConfigError: As `step_memory`.
    """
    return step_memory(network, patch_zyx, computing(config, device), sharing(config, world))


def computing(config: TrainingConfig, device: Literal["cpu", "cuda"]) -> Computing:
    """How a recipe computes its network."""
    return Computing(
        micro_batch=config.parallel.micro_batch,
        precision=config.parallel.precision,
        recompute="none" if config.speed.recompute == "none" else "block",
        device=device,
    )


def sharing(config: TrainingConfig, world: int) -> Sharing:
    """How a recipe shares weights, gradients and optimiser out over its ranks."""
    return Sharing(
        zero_stage=config.parallel.stage(world),
        world=world,
        moments=len(state_keys(config.optim)),
        average=config.optim.ema_decay is not None,
        offload=config.parallel.offload != "none",
        accumulation=max(1, config.global_batch // (config.parallel.micro_batch * world)),
        bucket=MAX_BUCKET_ELEMENTS,
    )
