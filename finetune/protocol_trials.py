"""The trainings of a protocol: every arm, number of cases, repeat and fold as one recipe each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from finetune.config import SCRATCH, AdaptConfig, FinetuneConfig
from finetune.reconcile import reconcile
from stunet.bundle import Bundle, read_bundle
from stunet.config import load_config
from stunet.errors import ConfigError, DataError
from stunet.hub.fetch import fetch
from stunet.io.manifest_rows import splits
from stunet.training.data import TrainingData, open_data
from stunet.training.split import training_cases

PRETRAINED, FROM_SCRATCH = "pretrained", "scratch"
ARMS = (PRETRAINED, FROM_SCRATCH)


@dataclass(frozen=True)
class ProtocolConfig:
    """What is compared, and how it is scored.

    Attributes:
        raw: The labelled scans that the store was made of; scores are on their own grids.
        cases: Numbers of training cases, or shares such as `10%`. Fewer are part of more.
        arms: `pretrained` starts from the bundle, `scratch` from random weights.
        repeats: Each with other few cases and another seed.
        folds: Folds of a cross-validation to go through, scored on what each holds out. Empty: the
            store's own split, scored on its `test` cases, or on `val` where it has none.
        tolerance_mm: How far surfaces may lie apart for NSD.
        processes: Of each training.
        device: Where held-out cases are segmented.
    """

    raw: str
    cases: tuple[str, ...] = ("5", "10", "100%")
    arms: tuple[str, ...] = ARMS
    repeats: int = 1
    folds: tuple[int, ...] = ()
    tolerance_mm: float = 3.0
    processes: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("cases", 1), ("arms", 1), ("folds", 0)):
            values = getattr(self, name)
            if len(values) < least or len(set(values)) < len(values):
                raise ConfigError(f"{name}={list(values)}: give each once, and at least {least}")
        for arm in self.arms:
            if arm not in ARMS:
                raise ConfigError(f"arms: {arm!r} is none; give some of {', '.join(ARMS)}")
        for name in ("repeats", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Trial:
    """One training and what it is scored on.

    Attributes:
        arm: One of `ARMS`.
        cases: As asked for.
        repeat: From 0.
        fold: None: the store's split.
        folder: Of all that it makes.
        recipe: That of the protocol: a file or the name of a shipped one.
        values: `key=value` that make it the recipe of this training.
        config: The two together.
        trained_on: Case ids.
        scored_on: Case ids, none of which is trained on.
    """

    arm: str
    cases: str
    repeat: int
    fold: int | None
    folder: Path
    recipe: str
    values: tuple[str, ...]
    config: FinetuneConfig
    trained_on: tuple[str, ...]
    scored_on: tuple[str, ...]

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.out)

    @property
    def command(self) -> tuple[str, ...]:
        """Words of the `stunet` command that trains it."""
        return ("finetune", self.recipe, *self.values)


@dataclass(frozen=True)
class Protocol:
    """All that a protocol will do.

    Attributes:
        how: What is compared.
        config: The recipe that all trainings have in common; its `out` is the protocol's folder.
        bundle: What the pretrained arm starts from.
        trials: The trainings.
    """

    how: ProtocolConfig
    config: FinetuneConfig
    bundle: Bundle
    trials: tuple[Trial, ...]


def plan_protocol(recipe: str, values: Sequence[str], how: ProtocolConfig) -> Protocol:
    """Plan all trainings, in the order of the numbers of cases.

    Both arms have the network, patch, batch, steps, schedule and augmentation of the recipe. From
    scratch every weight is trained at the full rate: what a recipe freezes or slows down are
    weights that know something.

    Args:
        recipe: Of a fine-tuning.
        values: `key=value` for it; `out` is the folder of the protocol.
        how: What to compare.

    Raises:
        ConfigError, DataError, BundleError: Some training could not start, or nothing is held out.
    """
    first = [f"split.fold={how.folds[0]}"] if how.folds else []
    base = load_config(FinetuneConfig, recipe, [*values, *first])
    if base.init == SCRATCH:
        raise ConfigError(f"init={SCRATCH}: give the bundle that the question is about")
    if len(base.shares) > 1:
        raise ConfigError(
            f"mixture of {len(base.shares)} data sets: a protocol is on one; give store=PATH"
        )
    data = open_data(base)
    bundle = read_bundle(fetch(base.init, base.remote))
    of_arm: dict[str, list[str]] = {PRETRAINED: []}
    if FROM_SCRATCH in how.arms:
        of_arm[FROM_SCRATCH] = _from_scratch(base, data, bundle)
    trials = []
    for cases, repeat, fold in product(how.cases, range(how.repeats), how.folds or (None,)):
        name = f"{cases.replace('%', 'percent')}-{repeat}"
        common = [f"seed={base.seed + repeat}", f"split.train_cases={cases}"]
        common += [f"split.repeat={repeat}"] if repeat else []
        if fold is not None:
            name += f"-fold{fold}"
            common += [f"split.fold={fold}"]
        for arm in how.arms:
            folder = Path(base.out) / f"{arm}-{name}"
            own = _overridden(values, [f"out={folder / 'run'}", *common, *of_arm[arm]])
            config = load_config(FinetuneConfig, recipe, own)
            ids = _cases(data, config, fold)
            trials.append(Trial(arm, cases, repeat, fold, folder, recipe, own, config, *ids))
    return Protocol(how, base, bundle, tuple(trials))


def _cases(
    data: TrainingData, config: FinetuneConfig, fold: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the cases that a training sees, and of those that it is scored on."""
    (part,) = data.parts
    chosen = training_cases(part.rows, config.split)
    tests = [i for i, split in enumerate(splits(part.rows)) if split == "test"]
    held_out = tests if tests and fold is None else chosen.val
    if not held_out:
        raise DataError(
            f"store {part.root}: holds no case out to score on; prepare it with holdout=10, or"
            " give folds=[0,1,2,3,4]"
        )
    ids = tuple(part.rows[i].case_id for i in chosen.train)
    return ids, tuple(part.rows[i].case_id for i in held_out)


def _from_scratch(base: FinetuneConfig, data: TrainingData, bundle: Bundle) -> list[str]:
    """What makes a recipe train the same network from random weights."""
    if bundle.model.unet is not None:
        raise ConfigError(
            f"bundle {bundle.folder}: {bundle.model.name} was planned elsewhere and no recipe makes"
            " it anew; give arms=[pretrained]"
        )
    fitted = reconcile(base, data, bundle)
    network, patch = fitted.network, base.patch_for(fitted.data.info)
    default, given = asdict(AdaptConfig()), asdict(base.adapt)
    return [
        f"init={SCRATCH}",
        f"network.name={network.name}",
        f"network.size={network.size}",
        f"network.strides={_flow(network.strides)}",
        f"patch_size={_flow(patch)}",
        *(f"adapt.{key}={_flow(default[key])}" for key in default if default[key] != given[key]),
    ]


def _overridden(values: Sequence[str], by: Sequence[str]) -> tuple[str, ...]:
    """`key=value` without what later ones replace, which keeps commands short."""
    keys = {value.partition("=")[0] for value in by}
    return (*(value for value in values if value.partition("=")[0] not in keys), *by)


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    return json.dumps(value, separators=(",", ": "))
