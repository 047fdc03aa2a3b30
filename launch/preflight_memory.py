"""The least memory that training can take, and the space of its checkpoints, as closed forms.

A lower bound, no prediction: one output per convolution is counted of all that autograd keeps, and
nothing of workspaces and buckets. What does not fit by this measure cannot run; what fits may still
run out of memory.
"""

from __future__ import annotations

from math import prod

from pretrain.config import PretrainConfig
from stunet.engine.optim import state_keys
from stunet.models.spec import ModelConfig, stage_shapes, stunet_convolutions
from stunet.registry import model_spec
from stunet.types import Size3

FP32_BYTES = 4  # weights, gradients and optimiser state are fp32 at every precision
IMAGE_BYTES, LABEL_BYTES = 4, 2  # float32 per channel, int16


def least_bytes_per_rank(
    config: PretrainConfig, network: ModelConfig, patch_zyx: Size3, world: int
) -> int:
    """Weights, gradients, optimiser state and average as ZeRO shares them out, and activations.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5, for what each stage shares.
    """
    stage = config.parallel.zero_stage
    if stage is None:
        stage = 0 if world == 1 else 1
    parameters = model_spec(network.name).parameter_count(network)
    weights = 1 / world if stage >= 3 else 1.0
    gradients = 1 / world if stage >= 2 else 1.0
    states = len(state_keys(config.optim)) / (world if stage >= 1 else 1)
    average = 1 / world if config.optim.ema_decay is not None else 0.0
    copies = weights + gradients + states + average
    return round(parameters * FP32_BYTES * copies) + _activation_bytes(config, network, patch_zyx)


def checkpoint_bytes(config: PretrainConfig, network: ModelConfig) -> int:
    """One checkpoint: fp32 weights, optimiser state and average, whatever the number of ranks."""
    averages = 0 if config.optim.ema_decay is None else 1
    copies = 1 + len(state_keys(config.optim)) + averages
    return model_spec(network.name).parameter_count(network) * FP32_BYTES * copies


def queued_batch_bytes(
    config: PretrainConfig, channels: int, patch_zyx: Size3, processes: int
) -> int:
    """Batches that the loader workers of a machine hold ready in shared memory."""
    patch = prod(patch_zyx) * (channels * IMAGE_BYTES + LABEL_BYTES)
    batches = config.loader.workers * config.loader.prefetch
    return patch * config.parallel.micro_batch * batches * processes


def _activation_bytes(config: PretrainConfig, network: ModelConfig, patch_zyx: Size3) -> int:
    """What one forward pass keeps of a micro-batch, one output per convolution.

    Where blocks are recomputed, only the output of each stage, which has one projecting shortcut,
    and of each head.
    """
    voxels = [prod(shape) for shape in stage_shapes(patch_zyx, network.strides)]
    kept = [
        conv
        for conv in stunet_convolutions(network)
        if config.speed.recompute == "none"
        or conv.part == "head"
        or (conv.part in ("encoder", "decoder") and conv.kernel_voxels == 1)
    ]
    numbers = sum(voxels[conv.stage] * conv.c_out for conv in kept)
    return numbers * (2 if config.parallel.precision == "bf16" else 4) * config.parallel.micro_batch
