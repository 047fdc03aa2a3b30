"""The recipe of a pre-training run: every number of it in one frozen dataclass.

Each section's dataclass lies beside the code that it configures; its defaults stand there and
nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from stunet.data.loader import LoaderConfig
from stunet.data.sampler import SamplerConfig
from stunet.engine.loop import LoopConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.io.manifest import DatasetInfo
from stunet.models.spec import ModelConfig
from stunet.transforms.augment import AugmentConfig
from stunet.types import Size3


@dataclass(frozen=True)
class NetworkConfig:
    """Which network; its channels, classes and strides come from the store.

    Attributes:
        name: A key of `stunet.registry.MODELS`.
        size: The one dial for scale: XS, S, B, L or H.
        strides: Five down-sampling steps, finest first, z y x; None: the store's plan.
    """

    name: str = "stunet"
    size: str = "S"
    strides: tuple[Size3, ...] | None = None


@dataclass(frozen=True)
class ValidationConfig:
    """Dice on the store's held-out cases during training.

    Attributes:
        cases: At most so many cases, in the manifest's order; None: all.
        step: Distance between sliding windows as a fraction of the patch.
    """

    cases: int | None = None
    step: float = 0.5


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run.

    Attributes:
        store: A prepared store; its `train` cases are trained on, its `val` cases validated on.
        out: The run folder. A run that is found there is continued.
        stage: Tells recipes of one stage from those of another.
        seed: Of initial weights and of the data stream.
        global_batch: Patches per step over all ranks; it decides the training, ranks do not.
        patch_size: Patch in voxels, z y x; None: the store's plan.
        batch_dice: Dice over the micro-batch as one volume instead of the mean over its patches.
    """

    store: str
    out: str
    stage: Literal["pretrain"] = "pretrain"
    seed: int = 0
    global_batch: int = 2
    patch_size: Size3 | None = None
    batch_dice: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


def model_config(config: PretrainConfig, info: DatasetInfo) -> ModelConfig:
    """The network of a run on a data set: as many outputs as its largest label value needs."""
    return ModelConfig(
        name=config.network.name,
        size=config.network.size,
        in_channels=len(info.channels),
        classes=max(info.labels.values()) + 1,
        strides=config.network.strides or info.strides,
    )


def without_logistics(config: PretrainConfig) -> PretrainConfig:
    """The part of a recipe that decides what comes out, up to rounding.

    Two runs that differ only in the rest (where data and results lie, how work is spread, how often
    something is written) may continue each other.
    """
    parallel = ParallelConfig(precision=config.parallel.precision)
    return replace(
        config,
        store="",
        out="",
        loader=LoaderConfig(),
        parallel=parallel,
        loop=LoopConfig(),
        validation=ValidationConfig(),
    )
