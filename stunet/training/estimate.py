"""What a run will need, before it is started: memory of a rank, time of a step, days of the run.

Memory is replayed operation by operation (`stunet.models.cost`); time is a sum of quotients with
the assumptions below. Arithmetic only: nothing is built and no GPU is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from stunet.engine.hardware import GpuFacts
from stunet.engine.parallel import accumulation_steps
from stunet.models.cost import StepMemory
from stunet.models.spec import (
    STEP_OVER_FORWARD,
    ModelConfig,
    stage_shapes,
    stunet_convolutions,
)
from stunet.registry import model_spec
from stunet.training.memory import rank_memory
from stunet.training.recipe import TrainingConfig
from stunet.types import Size3

USABLE = 0.92  # of a GPU's memory: the rest is taken by CUDA, NCCL and fragments
# What 3D convolutions reach of the peak. Source: arXiv 2404.09556 trained STU-Net-S for 10 and -L
# for 51 hours on an A100, 1000 epochs of 250 steps of 2 patches and 50 of validation; the
# difference is 26% of its peak if their patches are about 128^3.
CONVOLUTION_SHARE = 0.25
BANDWIDTH_SHARE = 0.7  # what copies reach of the bandwidth of memory and links
# How often a step reads or writes a feature map: twelve times for normalisation, sum and activation
# (`stunet.kernels.norm_act`) and eight times for the convolutions before and behind it.
PASSES = 20
NODE_GPUS = 8
NETWORK_BYTES_PER_S = 50e9  # between nodes, for each GPU: a port of 400 Gb/s
BACKWARD_SHARE = 2 / 3  # of the computing; behind it gradients are summed over ranks
FIXED_S = 0.02  # of a step: thousands of kernels are launched, ranks tell each other their losses
DAY_S = 86400.0


@dataclass(frozen=True)
class Need:
    """What a run needs with one choice of options.

    Attributes:
        micro_batch: Patches of a pass.
        zero_stage: What ZeRO shares out.
        recompute: Whether blocks are recomputed.
        memory: Of a rank.
        fits: Whether the GPU has as much.
        step_s: Of an optimiser step.
        days: Of the run, if it never waits for data, without validation.
    """

    micro_batch: int
    zero_stage: int
    recompute: str
    memory: StepMemory
    fits: bool
    step_s: float
    days: float


@dataclass(frozen=True)
class Estimate:
    """What a recipe needs on some GPUs.

    Attributes:
        parameters: Of the network.
        forward_flops: Of a patch, 2 per multiply-add.
        step_flops: Forward and backward pass of the global batch, nothing computed twice.
        usable_bytes: Of a GPU.
        recipe: As the recipe has it.
        stages: At each ZeRO stage, else as the recipe has it.
        best: The fastest choice that fits; None: none does.
        tried: How many choices there were.
    """

    parameters: int
    forward_flops: int
    step_flops: int
    usable_bytes: int
    recipe: Need
    stages: tuple[Need, ...]
    best: Need | None
    tried: int


def estimate(
    config: TrainingConfig, network: ModelConfig, patch_zyx: Size3, gpu: GpuFacts, gpus: int
) -> Estimate:
    """What a run needs on `gpus` GPUs, one rank each.

    Raises:
        ConfigError: The batch cannot be shared out, the network does not take the patch, or it is
            none whose memory can be foretold.
    """
    accumulation_steps(config.global_batch, config.parallel.micro_batch, gpus)
    spec = model_spec(network.name)
    forward = spec.forward_flops(network, patch_zyx)
    run = _Run(network, patch_zyx, gpu, gpus)
    needs = [run.need(chosen) for chosen in _choices(config, gpus)]
    fitting = [found for found in needs if found.fits]
    return Estimate(
        parameters=spec.parameter_count(network),
        forward_flops=forward,
        step_flops=STEP_OVER_FORWARD * forward * config.global_batch,
        usable_bytes=run.usable_bytes,
        recipe=run.need(config),
        stages=tuple(run.need(chosen) for chosen in _at_each_stage(config, gpus)),
        best=min(fitting, key=_fastest_and_simplest, default=None),
        tried=len(needs),
    )


def _fastest_and_simplest(need: Need) -> tuple[float, int, int]:
    """Of equally fast ones that which shares out least and takes most patches at once."""
    return round(need.step_s, 6), need.zero_stage, -need.micro_batch


def _at_each_stage(config: TrainingConfig, gpus: int) -> Iterator[TrainingConfig]:
    """With one GPU, with which nothing can be shared, only as the recipe has it."""
    least = {"none": 0, "cpu": 1, "nvme": 3}[config.parallel.offload]
    stages = range(least, 4) if gpus > 1 else (config.parallel.stage(gpus),)
    for stage in stages:
        yield replace(config, parallel=replace(config.parallel, zero_stage=stage))


def _choices(config: TrainingConfig, gpus: int) -> Iterator[TrainingConfig]:
    """All that may differ without a difference in what is trained."""
    share = config.global_batch // gpus
    for chosen in _at_each_stage(config, gpus):
        for micro_batch in (count for count in range(1, share + 1) if share % count == 0):
            parallel = replace(chosen.parallel, micro_batch=micro_batch)
            for recompute in ("none", "block"):
                speed = replace(config.speed, recompute=recompute)
                yield replace(config, parallel=parallel, speed=speed)


@dataclass(frozen=True)
class _Run:
    """What is trained, and on what."""

    network: ModelConfig
    patch_zyx: Size3
    gpu: GpuFacts
    gpus: int

    @property
    def usable_bytes(self) -> int:
        return round(USABLE * self.gpu.memory_gib * 2**30)

    def need(self, config: TrainingConfig) -> Need:
        if config.speed.recompute == "auto":  # as `stunet.training.recompute` would decide
            kept = self.need(replace(config, speed=replace(config.speed, recompute="none")))
            block = replace(config, speed=replace(config.speed, recompute="block"))
            return kept if kept.fits else self.need(block)
        memory = rank_memory(config, self.network, self.patch_zyx, self.gpus)
        step_s = self._step_s(config)
        return Need(
            micro_batch=config.parallel.micro_batch,
            zero_stage=config.parallel.stage(self.gpus),
            recompute=config.speed.recompute,
            memory=memory,
            fits=memory.peak <= self.usable_bytes,
            step_s=step_s,
            days=step_s * config.optim.total_steps / DAY_S,
        )

    def _step_s(self, config: TrainingConfig) -> float:
        """Arithmetic, traffic of feature maps and weights, what is seen of the summing."""
        again = 0 if config.speed.recompute == "none" else 1  # a forward pass more
        patches = config.global_batch / self.gpus
        forward = model_spec(self.network.name).forward_flops(self.network, self.patch_zyx)
        work = (STEP_OVER_FORWARD + again) * patches * forward
        arithmetic_s = work / (CONVOLUTION_SHARE * self.gpu.bf16_flops)
        number = 2 if config.parallel.precision == "bf16" else 4
        passed = PASSES * (1 + again / 3) * patches * self._feature_maps() * number
        memory_bytes_per_s = BANDWIDTH_SHARE * self.gpu.bytes_per_s
        computing_s = arithmetic_s + passed / memory_bytes_per_s

        weights = 4 * model_spec(self.network.name).parameter_count(self.network)
        stage = config.parallel.stage(self.gpus)
        moments = rank_memory(config, self.network, self.patch_zyx, self.gpus).optimizer
        update_s = 2 * (moments + weights / (self.gpus if stage else 1)) / memory_bytes_per_s
        link = self.gpu.link_bytes_per_s
        link = link if self.gpus <= NODE_GPUS else min(link, NETWORK_BYTES_PER_S)
        rounds = 3 if stage == 3 else 2  # gradients summed, weights gathered once or twice
        sent = rounds * weights * (self.gpus - 1) / self.gpus
        seen_s = sent / (BANDWIDTH_SHARE * link) - BACKWARD_SHARE * computing_s
        return FIXED_S + computing_s + update_s + max(0.0, seen_s)

    def _feature_maps(self) -> int:
        """Numbers of all normalised maps of a patch."""
        voxels = [prod(shape) for shape in stage_shapes(self.patch_zyx, self.network.strides)]
        convolutions = stunet_convolutions(self.network)
        return sum(conv.c_out * voxels[conv.stage] for conv in convolutions if conv.norm)
