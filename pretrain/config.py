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
from stunet.errors import ConfigError
from stunet.io.manifest import DatasetInfo
from stunet.io.remote import StoreOptions
from stunet.models.spec import ModelConfig
from stunet.models.speed import SpeedConfig
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
class StoreShare:
    """One data set of a mixture.

    Attributes:
        path: A prepared store or its tars: a folder or a URL.
        weight: Its share in the patches, up to a factor that all have in common.
    """

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class ValidationConfig:
    """Dice on the held-out cases of all stores during training.

    Attributes:
        cases: At most so many cases of each store, in the manifest's order; None: all.
        step: Distance between sliding windows as a fraction of the patch.
    """

    cases: int | None = None
    step: float = 0.5


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run.

    Attributes:
        out: The run folder. A run that is found there is continued.
        store: A prepared store or its tars, a folder or a URL; its `train` cases are trained on,
            its `val` cases validated on.
        mixture: Several of them with weights, in place of `store`. Plan and normalisation are
            those of the first.
        stage: Tells recipes of one stage from those of another.
        seed: Of initial weights and of the data stream.
        global_batch: Patches per step over all ranks; it decides the training, ranks do not.
        patch_size: Patch in voxels, z y x; None: the store's plan.
        batch_dice: Dice over the micro-batches of all ranks as one volume instead of the mean over
            patches.
    """

    out: str
    store: str = ""
    mixture: list[StoreShare] = field(default_factory=list)  # OmegaConf checks no tuple's items
    stage: Literal["pretrain"] = "pretrain"
    seed: int = 0
    global_batch: int = 2
    patch_size: Size3 | None = None
    batch_dice: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    remote: StoreOptions = field(default_factory=StoreOptions)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if bool(self.store) == bool(self.mixture):
            raise ConfigError(
                f"store={self.store!r}, mixture of {len(self.mixture)}: name the data by one of"
                " them, store=PATH or mixture=[{path: PATH, weight: 1}, ...]"
            )

    @property
    def shares(self) -> tuple[StoreShare, ...]:
        """The data sets of the run; `store` alone is a mixture of one."""
        return tuple(self.mixture) or (StoreShare(self.store),)


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
        out="",
        store="",
        mixture=[replace(share, path="") for share in config.shares],
        remote=StoreOptions(),
        speed=SpeedConfig(),
        loader=LoaderConfig(),
        parallel=parallel,
        loop=LoopConfig(guard=config.loop.guard),
        validation=ValidationConfig(),
    )
