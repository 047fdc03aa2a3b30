"""Our side of a training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.inputs import random_label, random_logits
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.engine.step import train_step
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig, set_speed
from stunet.registry import build_model
from stunet.types import Batch


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
    config = ModelConfig(size=size, in_channels=1, classes=classes, strides=ISOTROPIC_STRIDES)
    parallel = ParallelConfig(micro_batch=batch, precision="bf16" if device == "cuda" else "fp32")
    model = build_model(config, seed=0)
    set_speed(model, SpeedConfig(**speed))
    model.train()
    if trial == "compiled":
        model.compile(dynamic=False)
    engine = TrainEngine.start(model, OptimConfig(), parallel, batch)
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
