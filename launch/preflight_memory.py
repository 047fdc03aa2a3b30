"""The memory that training takes, and the space of its checkpoints and queued batches."""

from __future__ import annotations

from math import prod
from typing import Literal

from launch.preflight_check import WorldPlan
from stunet.engine.optim import state_keys
from stunet.models.spec import ModelConfig
from stunet.registry import model_spec
from stunet.training.memory import rank_memory
from stunet.training.recipe import TrainingConfig
from stunet.types import Size3

FP32_BYTES = 4  # weights, gradients and optimiser state are fp32 at every precision
IMAGE_BYTES, LABEL_BYTES = 4, 2  # float32 per channel, int16


def bytes_per_rank(
    config: TrainingConfig, network: ModelConfig, patch_zyx: Size3, plan: WorldPlan
) -> int | None:
    """The estimated peak of a training step on each rank; None: not known for this network."""
    if network.name != "stunet":
        return None
    device: Literal["cpu", "cuda"] = "cuda" if plan.on_gpus else "cpu"
    return rank_memory(config, network, patch_zyx, plan.world, device).peak


def checkpoint_bytes(config: TrainingConfig, network: ModelConfig) -> int:
    """One checkpoint: fp32 weights, optimiser state and average, whatever the number of ranks."""
    averages = 0 if config.optim.ema_decay is None else 1
    copies = 1 + len(state_keys(config.optim)) + averages
    return model_spec(network.name).parameter_count(network) * FP32_BYTES * copies


def queued_batch_bytes(
    config: TrainingConfig, channels: int, patch_zyx: Size3, processes: int
) -> int:
    """Batches that the loader workers of a machine hold ready in shared memory."""
    patch = prod(patch_zyx) * (channels * IMAGE_BYTES + LABEL_BYTES)
    batches = config.loader.workers * config.loader.prefetch
    return patch * config.parallel.micro_batch * batches * processes
