"""How the work is spread over ranks, and what DeepSpeed is told about it.

Imports no DeepSpeed, so that a recipe can be checked in a moment. `deepspeed_engine.py` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from stunet.engine.optim import OptimConfig
from stunet.errors import ConfigError

MAX_BUCKET_ELEMENTS = 100_000_000  # 0.4 GB of fp32; DeepSpeed's default is five times as much


@dataclass(frozen=True)
class ParallelConfig:
    """How the work is spread.

    Attributes:
        zero_stage: What ZeRO shards over the ranks: 0 nothing, 1 optimiser state, 2 and gradients,
            3 and weights. None: 0 on one rank, else 1, which fits every size up to 1.4B; with
            `offload` the lowest that allows it.
        micro_batch: Patches per rank in one forward pass; accumulation follows from the global
            batch.
        precision: `bf16` runs convolutions in bfloat16 by autocast; weights are fp32 in both. Take
            `fp32` on a CPU: there torch 2.13 returns garbage gradients of bf16 convolutions on
            2 x 2 x 2 maps.
        offload: Where the optimiser keeps its state and its copy of the weights, and steps: `none`
            on the device, `cpu` in host memory, from stage 1, `nvme` in files, at stage 3 (compiles
            for minutes when first used). Slower; for a device that is too small.
        nvme_path: Folder for those files, on a disk of this machine.
        deepspeed: Merged last into DeepSpeed's own configuration.
    """

    zero_stage: int | None = None
    micro_batch: int = 2
    precision: Literal["fp32", "bf16"] = "bf16"
    offload: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.zero_stage not in (None, 0, 1, 2, 3):
            raise ConfigError(f"parallel.zero_stage {self.zero_stage}: must be 0, 1, 2, 3 or null")
        if self.micro_batch < 1:
            raise ConfigError(f"parallel.micro_batch {self.micro_batch}: must be at least 1")
        least = _LEAST_STAGE[self.offload]
        if self.zero_stage is not None and self.zero_stage < least:
            raise ConfigError(
                f"parallel.offload {self.offload}: needs ZeRO stage {least} or above, not "
                f"{self.zero_stage}; set parallel.zero_stage={least}"
            )
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise ConfigError(
                f"parallel.offload {self.offload} with parallel.nvme_path {self.nvme_path}: set "
                "both for nvme, else neither"
            )

    def stage(self, world: int) -> int:
        """The ZeRO stage on so many ranks."""
        if self.zero_stage is not None:
            return self.zero_stage
        return max(0 if world == 1 else 1, _LEAST_STAGE[self.offload])


_LEAST_STAGE = {"none": 0, "cpu": 1, "nvme": 3}  # what DeepSpeed can offload at


_OWNED = {
    "optimizer": "optim.name",
    "scheduler": "optim.power",
    "gradient_clipping": "optim.clip_norm",
    "train_batch_size": "the global batch",
    "train_micro_batch_size_per_gpu": "parallel.micro_batch",
    "gradient_accumulation_steps": "parallel.micro_batch",
    "bf16": "parallel.precision",
    "fp16": "parallel.precision",
    "zero_optimization.stage": "parallel.zero_stage",
    "zero_optimization.offload_optimizer": "parallel.offload",
    "zero_optimization.offload_param": "parallel.zero_stage",  # checkpoints cannot reach it
}


def accumulation_steps(global_batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches per rank and optimiser step.

    Raises:
        ConfigError: They do not add up to the global batch.
    """
    steps, rest = divmod(global_batch, micro_batch * world)
    if rest or steps < 1:
        raise ConfigError(
            f"global batch {global_batch} is no multiple of {world} ranks x parallel.micro_batch "
            f"{micro_batch}; change one of them"
        )
    return steps


def deepspeed_config(
    optim: OptimConfig, parallel: ParallelConfig, zero_stage: int, accumulation: int, elements: int
) -> dict[str, Any]:
    """DeepSpeed's JSON, derived from ours; `parallel.deepspeed` has the last word.

    Args:
        optim: Gives the clipping norm.
        parallel: Gives precision, micro-batch and the user's own entries.
        zero_stage: 0 to 3.
        accumulation: Micro-batches per optimiser step.
        elements: Parameters of the model; no communication bucket need be larger.

    Raises:
        ConfigError: `parallel.deepspeed` sets what has a key of ours.
    """
    # Stage 0 has no clipping that reports the norm or skips a bad step: `TrainEngine.step` does it.
    clip_norm = optim.clip_norm if zero_stage > 0 else None
    bucket = min(MAX_BUCKET_ELEMENTS, elements + elements % 2)  # NCCL wants an even number
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": parallel.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_norm or 0.0,
        "zero_optimization": {
            "stage": zero_stage,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "overlap_comm": torch.cuda.is_available(),
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,  # torch.optim.SGD
        "zero_force_ds_cpu_optimizer": False,  # torch's own needs no compiler when the run starts
        "steps_per_print": 10**9,  # `stunet.engine.loop` prints
    }
    if parallel.offload != "none":
        config["zero_optimization"]["offload_optimizer"] = {
            "device": parallel.offload,
            "pin_memory": torch.cuda.is_available(),
            **({"nvme_path": parallel.nvme_path} if parallel.nvme_path is not None else {}),
        }
    if parallel.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    _refuse_owned(parallel.deepspeed)
    return _merged(config, parallel.deepspeed)


def _refuse_owned(extra: Mapping[str, Any], prefix: str = "") -> None:
    for key, value in extra.items():
        ours = _OWNED.get(prefix + key)
        if ours is not None:
            raise ConfigError(f"parallel.deepspeed.{prefix}{key}: not settable; set {ours} instead")
        if isinstance(value, Mapping):
            _refuse_owned(value, f"{prefix}{key}.")


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged
