"""What a training step of a network takes of memory, before anything is built.

`step_memory` puts weights, their gradients, the optimiser's state and DeepSpeed's buffers around
the feature maps of `stunet/models/walk.py`. Arithmetic only, no torch. How far it is from what is
measured stands in `docs/estimate.md`, and `python -m benchmarks.memory` measures it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from stunet.errors import ConfigError
from stunet.models.ledger import FP32, Computing
from stunet.models.spec import ModelConfig, stunet_convolutions, stunet_parameter_count
from stunet.models.walk import walk
from stunet.types import Size3

LABEL_BYTES = 2
REDUCED_AT_ONCE = 500_000_000  # numbers that DeepSpeed 0.19 joins to sum them over ranks at stage 0
WHOLE_AT_ONCE = 1_000_000_000  # weights that its stage 3 keeps whole at most

Moment = Literal["forward", "backward", "update"]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What lies beside the feature maps, and how it is shared out.

    Attributes:
        zero_stage: As in `ParallelConfig`, resolved.
        world: Ranks.
        moments: Tensors that the optimiser keeps per weight: 1 for SGD with momentum, 2 for AdamW.
        average: Whether a moving average of the weights is kept.
        offload: Whether the optimiser is elsewhere than the network.
        accumulation: Micro-batches of a step.
        bucket: Numbers of a communication buffer at most.
    """

    zero_stage: int = 0
    world: int = 1
    moments: int = 1
    average: bool = False
    offload: bool = False
    accumulation: int = 1
    bucket: int = 100_000_000


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank.

    Attributes:
        weights: fp32 weights.
        gradients: Their gradients when all are known, and the buffers that they travel in.
        optimizer: The optimiser's tensors, its own copy of the weights, their average.
        activations: What the forward pass leaves for the backward pass, patches included.
        workspace: What the peak needs beyond weights, optimiser and activations; gradients that are
            known by then are part of it.
        peak: The most at any moment of a step.
        moment: When that is.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    peak: int
    moment: Moment


def step_memory(
    network: ModelConfig, patch_zyx: Size3, computing: Computing, sharing: Sharing
) -> StepMemory:
    """The memory of one rank's training step.

    Args:
        network: Size, channels, classes and strides.
        patch_zyx: Voxels.
        computing: Micro-batch, precision, recomputation, device.
        sharing: ZeRO stage, ranks, optimiser.

    Raises:
        ConfigError: The network is no STU-Net, or does not take the patch.
    """
    if network.name != "stunet":
        raise ConfigError(f"network '{network.name}': only the memory of stunet can be foretold")
    states = _states(network, computing, sharing)
    voxels = prod(patch_zyx) * computing.micro_batch
    patches = voxels * (network.in_channels * FP32 + LABEL_BYTES)
    if computing.device == "cpu":
        patches *= sharing.accumulation  # elsewhere they wait in host memory
    before = states.weights + states.optimizer + states.buffers + patches
    if sharing.accumulation > 1:  # the gradients of earlier micro-batches are there
        step = walk(network, patch_zyx, computing, before + states.gradients, 0)
        earlier = step.logits
    else:
        per_weight = states.gradients / stunet_parameter_count(network)
        step, earlier = walk(network, patch_zyx, computing, before, per_weight), 0
    peaks: dict[Moment, int] = {
        "forward": step.forward_peak + earlier,
        "backward": step.backward_peak,
        "update": before + states.gradients + states.update + step.logits,
    }
    moment = max(peaks, key=lambda name: peaks[name])
    activations = step.kept + patches
    held = states.weights + states.optimizer + (0 if moment == "update" else activations)
    return StepMemory(
        weights=states.weights,
        gradients=states.gradients + states.buffers,
        optimizer=states.optimizer,
        activations=activations,
        workspace=peaks[moment] - held,
        peak=peaks[moment],
        moment=moment,
    )


def recompute_to_fit(
    network: ModelConfig,
    patch_zyx: Size3,
    computing: Computing,
    sharing: Sharing,
    available: int,
) -> Literal["none", "block"]:
    """`none` if a step then fits into so many bytes, else `block`, which may not fit either.

    Raises:
        ConfigError: As `step_memory`.
    """
    keeping = replace(computing, recompute="none")
    fits = step_memory(network, patch_zyx, keeping, sharing).peak <= available
    return "none" if fits else "block"


@dataclass(frozen=True)
class _States:
    """Bytes beside the feature maps; `update` is what the optimiser's step needs on the way."""

    weights: int
    gradients: int
    buffers: int
    optimizer: int
    update: int


def _states(network: ModelConfig, computing: Computing, sharing: Sharing) -> _States:
    """Weights, gradients and optimiser as DeepSpeed 0.19 shares them out.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5, for what each stage shares; from
    stage 1 on DeepSpeed steps on a copy of the weights of its own.
    """
    parameters = stunet_parameter_count(network)
    whole = parameters * FP32
    share = -(-whole // sharing.world)
    average = share if sharing.average else 0
    if sharing.zero_stage == 0:
        on_cpu = computing.device == "cpu"
        largest = max(conv.parameters for conv in stunet_convolutions(network)) * FP32
        joined = min(whole, REDUCED_AT_ONCE * FP32)
        # Two tensors of a weight's size on a CPU, one of all weights on a GPU ("foreach").
        update = max(joined, 2 * largest if on_cpu else whole)
        return _States(whole, whole, 0, sharing.moments * whole + average, update)
    bucket = min(whole, sharing.bucket * FP32)
    buffers = bucket if computing.device == "cpu" else 2 * bucket  # one is filled, one travels
    if sharing.zero_stage == 3 and sharing.world > 1:
        buffers += bucket  # each rank's part is summed out of a copy
    weights = whole if sharing.zero_stage < 3 else share + min(whole, WHOLE_AT_ONCE * FP32)
    all_kept = sharing.zero_stage == 1 and sharing.accumulation > 1
    gradients = whole if all_kept else share
    optimizer = 0 if sharing.offload else (sharing.moments + 1) * share
    # The last bucket is summed in a copy. Before the optimiser's step buckets go, but at stage 3.
    update = max(bucket, 2 * share - (buffers if sharing.zero_stage < 3 else 0))
    return _States(weights, gradients, buffers, optimizer + average, update)
