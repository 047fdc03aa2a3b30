"""The part of a recipe that every kind of training has, and the network that follows from it.

Each section's dataclass lies beside the code that it configures; its defaults stand there and
nowhere else. What only one stage has lies in that app's `config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

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
from stunet.training.split import SplitConfig
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
class TrainingConfig:
    """A training run of any stage.

    Attributes:
        out: The run folder. A run that is found there is continued.
        store: A prepared store or its tars, a folder or a URL; its `train` cases are trained on,
            its `val` cases validated on.
        mixture: Several of them with weights, in place of `store`. Plan and normalisation are
            those of the first.
        split: Other cases of each store to train and validate on than those that it marks.
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
    split: SplitConfig = field(default_factory=SplitConfig)
    stage: str = ""
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
        if self.split.file and len(self.mixture) > 1:
            raise ConfigError(
                f"split.file={self.split.file}: it is of one data set, and mixture has"
                f" {len(self.mixture)}; prepare each with its fold instead"
            )

    @property
    def shares(self) -> tuple[StoreShare, ...]:
        """The data sets of the run; `store` alone is a mixture of one."""
        return tuple(self.mixture) or (StoreShare(self.store),)

    def patch_for(self, info: DatasetInfo) -> Size3:
        """Patch in voxels, z y x: what is given, else what the data set plans."""
        return self.patch_size or info.patch_size


Recipe = TypeVar("Recipe", bound=TrainingConfig)


def output_count(info: DatasetInfo) -> int:
    """Outputs of a network for a data set: one per region, or per value up to the largest.

    Raises:
        ConfigError: The data set names no structure.
    """
    outputs = max(info.outputs.values()) + 1
    if not info.regions and outputs < 2:
        raise ConfigError(
            f"data set {info.name}: labels are {info.labels}; prepare it with a structure to learn"
        )
    return outputs


def model_config(config: TrainingConfig, info: DatasetInfo) -> ModelConfig:
    """The network of a run on a data set that starts from random weights.

    Raises:
        ConfigError: As `output_count`.
    """
    return ModelConfig(
        name=config.network.name,
        size=config.network.size,
        in_channels=len(info.channels),
        classes=output_count(info),
        strides=config.network.strides or info.strides,
    )


def without_logistics(config: Recipe) -> Recipe:
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
        augment=replace(config.augment, device="cpu"),
        speed=SpeedConfig(),
        loader=LoaderConfig(),
        parallel=parallel,
        loop=LoopConfig(guard=config.loop.guard),
        validation=ValidationConfig(),
    )
