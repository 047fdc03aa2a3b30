"""The peak of a training step's tensors: as measured, and as `stunet estimate` foretells it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.inputs import random_label
from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig, state_keys
from stunet.engine.parallel import ParallelConfig
from stunet.engine.step import train_step
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.models.cost import Sharing, step_memory
from stunet.models.ledger import Computing
from stunet.models.spec import ModelConfig
from stunet.models.speed import SpeedConfig, set_speed
from stunet.registry import build_model
from stunet.training.profile import peak_bytes
from stunet.types import Batch, Size3

STRIDES: tuple[Size3, ...] = ((2, 2, 2),) * 4 + ((1, 1, 2),)  # of the released STU-Nets
CLASSES = 105


@dataclass(frozen=True)
class Case:
    """A training step; the names are those of the recipe."""

    size: str
    patch_size: Size3
    micro_batch: int
    recompute: Literal["none", "block"]
    optimizer: Literal["sgd", "adamw"] = "sgd"
    accumulation: int = 1
    zero_stage: int = 0
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def network(self) -> ModelConfig:
        """The network."""
        return ModelConfig(size=self.size, in_channels=1, classes=CLASSES, strides=STRIDES)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """What is usual on the device."""
        return "bf16" if self.device == "cuda" else "fp32"

    def __str__(self) -> str:
        """For a table."""
        voxels = "x".join(map(str, self.patch_size))
        more = f", {self.accumulation} micro-batches" if self.accumulation > 1 else ""
        more += f", ZeRO {self.zero_stage}" if self.zero_stage else ""
        return (
            f"{self.size}, {voxels}, micro-batch {self.micro_batch}, recompute {self.recompute}, "
            f"{self.optimizer}{more}"
        )


def estimated_bytes(case: Case) -> int:
    """What the estimate says."""
    computing = Computing(
        micro_batch=case.micro_batch,
        precision=case.precision,
        recompute=case.recompute,
        device=case.device,
        threads=torch.get_num_threads(),
    )
    sharing = Sharing(
        zero_stage=case.zero_stage,
        world=distributed.world(),
        moments=len(state_keys(OptimConfig(name=case.optimizer))),
        accumulation=case.accumulation,
    )
    return step_memory(case.network, case.patch_size, computing, sharing).peak


def measured_bytes(case: Case) -> int:
    """What building the network and a step of the real engine take at most.

    On a CPU of every allocation that torch's profiler sees, scratch inside of operations included;
    on a GPU as its allocator counts.
    """
    gc.collect()
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        _step(case)
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        _step(case)
    return peak_bytes(seen)


def _step(case: Case) -> None:
    model = build_model(case.network)
    set_speed(model, SpeedConfig(recompute=case.recompute))
    parallel = ParallelConfig(case.zero_stage, case.micro_batch, case.precision)
    optim = OptimConfig(name=case.optimizer)
    patches = case.micro_batch * case.accumulation * distributed.world()
    engine = TrainEngine.start(model.train(), optim, parallel, patches)
    batches = [_batch(case) for _ in range(case.accumulation)]
    train_step(engine, batches, partial(deep_supervision_loss, strides=STRIDES))
    engine.close()


def _batch(case: Case) -> Batch:
    image = torch.randn(case.micro_batch, 1, *case.patch_size, generator=torch.Generator())
    label = torch.from_numpy(random_label(CLASSES, case.patch_size, 0)).short()
    ids = tuple(range(case.micro_batch))
    return Batch(image, label.expand(case.micro_batch, *label.shape).contiguous(), ids)


def peaks(device: str, patch_size: Size3, **case: Any) -> Callable[[], tuple[int, int]]:
    """Return work that measures a case once and gives bytes measured and estimated."""
    found = Case(device=device, patch_size=patch_size, **case)  # type: ignore[arg-type]
    return lambda: (measured_bytes(found), estimated_bytes(found))
