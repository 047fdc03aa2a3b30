"""The recipe of a fine-tuning run: what every training has, and how it starts from a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from stunet.errors import ConfigError
from stunet.models.parts import PARTS
from stunet.training.recipe import NetworkConfig, TrainingConfig

SCRATCH = "none"  # `init=none`: the same budget from random weights


@dataclass(frozen=True)
class PartRates:
    """Learning rate of each part as a multiple of `optim.lr`, all along the schedule."""

    encoder: float = 1.0
    decoder: float = 1.0
    head: float = 1.0

    def __post_init__(self) -> None:
        for part in PARTS:
            if not getattr(self, part) > 0:
                raise ConfigError(
                    f"adapt.lr.{part}={getattr(self, part)}: must be above 0; a part that shall"
                    " not move is left out of adapt.train"
                )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of frozen convolutions; merged when the run is exported.

    Attributes:
        rank: Of each change; 0: none.
        parts: Whose convolutions get one.
    """

    rank: int = 0
    parts: tuple[str, ...] = ("encoder", "decoder")

    def __post_init__(self) -> None:
        _check_parts("adapt.lora.parts", self.parts)
        if self.rank < 0:
            raise ConfigError(f"adapt.lora.rank={self.rank}: must be 0 (none) or more")


@dataclass(frozen=True)
class AdaptConfig:
    """What of the network moves, and how far.

    Attributes:
        train: Parts whose own weights are trained; the others stay as they are.
        lr: Learning rate per part.
        stage_decay: What is left of the learning rate with every stage further from the output.
        lora: Low-rank changes of parts that are not in `train`.
        l2_sp: Pull of trained weights to what they started from, in place of their weight decay:
            half of it times the squared distance is added to the loss. Weights that start anew
            keep the weight decay. Source: Li et al. 2018, arXiv:1802.01483.
    """

    train: tuple[str, ...] = PARTS
    lr: PartRates = field(default_factory=PartRates)
    stage_decay: float = 1.0
    lora: LoraConfig = field(default_factory=LoraConfig)
    l2_sp: float = 0.0

    def __post_init__(self) -> None:
        _check_parts("adapt.train", self.train)
        if not 0 < self.stage_decay <= 1:
            raise ConfigError(f"adapt.stage_decay={self.stage_decay}: must be above 0, at most 1")
        if self.l2_sp < 0:
            raise ConfigError(f"adapt.l2_sp={self.l2_sp}: must be 0 (none) or more")
        both = [part for part in self.lora.parts if part in self.train]
        if self.lora.rank and both:
            raise ConfigError(
                f"adapt.lora.parts has {', '.join(both)}, which adapt.train has too; a part is"
                " trained whole or by low-rank changes, keep it in one of them"
            )


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """A fine-tuning run.

    Attributes:
        init: The bundle to start from: a folder, or whatever `stunet.load` takes; `none`: random
            weights, for a comparison with the same budget.
        plan: `source`: spacing, normalisation, patch and strides of the bundle, for a store that
            was prepared with them; `target`: the store's own plan, with the strides of the bundle.
        crosswalk: What the data set's structures are in the bundle's terms: a file or a shipped
            name; empty: the shipped one that lists the data set, else equal names.
        network: With a bundle only `strides` may be given, and `plan=target`.
        adapt: What of the network moves, and how far.
    """

    stage: Literal["finetune"] = "finetune"
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(name="", size=""))
    init: str = ""
    plan: Literal["source", "target"] = "source"
    crosswalk: str = ""
    adapt: AdaptConfig = field(default_factory=AdaptConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init:
            raise ConfigError(
                f"init is not set; give init=BUNDLE to start from, or init={SCRATCH} for random"
                " weights"
            )


def _check_parts(key: str, parts: Iterable[str]) -> None:
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise ConfigError(f"{key}: {wrong[0]!r} is no part; give some of {', '.join(PARTS)}")
