"""Our side of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.inputs import random_label, random_logits
from stunet.data.loader import LoaderConfig, batches
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.engine.step import train_step
from stunet.io.store import open_store
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig, set_speed
from stunet.registry import build_model
from stunet.transforms.augment import AugmentConfig
from stunet.types import Batch


def fed_training(
    root: str, size: str, side: int, steps: int, workers: int, device: str
) -> Callable[[], float]:
    """Return some steps on patches of a store; a turn returns the share of time without data."""
    store = open_store(root)
    classes = max(store.info.labels.values()) + 1
    engine = _engine(size, classes, 2, device)
    patches = PatchSource(
        store, range(len(store.rows)), (side,) * 3, 0, SamplerConfig(), AugmentConfig()
    )
    stream = batches(patches, 2, config=LoaderConfig(workers))
    loss = partial(deep_supervision_loss, strides=ISOTROPIC_STRIDES)
    train_step(engine, [next(stream)], loss)  # the workers start, kernels are compiled

    def turn() -> float:
        waited, began = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            float(train_step(engine, [batch], loss).losses.mean())  # waits for the device
        return waited / (time.perf_counter() - began)

    return turn


def training_step(
    size: str,
    classes: int,
    side: int,
    batch: int,
    device: str,
    trial: Literal["", "compiled", "channels last"] = "",
    **speed: Any,
) -> Callable[[], None]:
    """Return a step as `stunet pretrain` makes it; bf16 autocast on a GPU, else fp32.

    `speed` are options of `SpeedConfig`; `trial` is none of them yet: see docs/log.md.
    """
    engine = _engine(size, classes, batch, device, trial == "compiled", **speed)
    shape = (side,) * 3
    image = torch.from_numpy(random_logits(batch, shape))[:, None].to(device)
    if trial == "channels last":
        image = image.to(memory_format=torch.channels_last_3d)
    label = np.stack([random_label(classes, shape, seed) for seed in range(batch)])
    data = Batch(image, torch.from_numpy(label).short().to(device), tuple(range(batch)))
    loss = partial(deep_supervision_loss, strides=ISOTROPIC_STRIDES)

    def turn() -> None:
        train_step(engine, [data], loss)

    return turn


def _engine(
    size: str, classes: int, batch: int, device: str, compiled: bool = False, **speed: Any
) -> TrainEngine:
    config = ModelConfig(size=size, in_channels=1, classes=classes, strides=ISOTROPIC_STRIDES)
    parallel = ParallelConfig(micro_batch=batch, precision="bf16" if device == "cuda" else "fp32")
    model = build_model(config, seed=0)
    set_speed(model, SpeedConfig(**speed))
    model.train()
    if compiled:
        model.compile(dynamic=False)
    return TrainEngine.start(model, OptimConfig(), parallel, batch)
