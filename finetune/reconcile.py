"""A store and a bundle brought together: the plan to train with, and all in which they differ.

Reads no weights. What cannot be brought together is an error that says what mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from finetune.config import FinetuneConfig
from stunet.bundle import Bundle
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import DatasetInfo
from stunet.models.spec import ModelConfig, stage_shapes
from stunet.training.agreement import SPACING_TOLERANCE_MM
from stunet.training.data import TrainingData, with_plan
from stunet.training.recipe import output_count
from stunet.transforms.channel_match import matched_channels, normalised_as
from stunet.types import Channel, Size3


@dataclass(frozen=True)
class Reconciled:
    """What a run trains.

    Attributes:
        data: The data under the plan of the run.
        network: The bundle's, with inputs and outputs of the data.
        differences: Between store and bundle, a line each, and which of them holds.
    """

    data: TrainingData
    network: ModelConfig
    differences: tuple[str, ...]


def reconcile(config: FinetuneConfig, data: TrainingData, bundle: Bundle) -> Reconciled:
    """Bring them together as `config.plan` says.

    Raises:
        DataError: The store was prepared otherwise than `plan=source` needs.
        ConfigError: The recipe asks for what the weights do not allow, or the patch does not fit
            the strides.
    """
    info = data.info
    strides = _strides(config, bundle)
    if config.plan == "source":
        _check_prepared(str(data.parts[0].root), info, bundle)
        channels = normalised_as(info.channels, bundle.preprocessing.channels)
        patch = config.patch_size or bundle.preprocessing.patch_size
    else:
        channels = info.channels
        patch = config.patch_size or _fitting(info.patch_size, strides)
    try:
        stage_shapes(patch, strides)
    except ConfigError as error:
        raise ConfigError(f"{error}; set patch_size=[z,y,x]") from None
    network = replace(
        bundle.model,
        in_channels=len(channels),
        classes=output_count(info),
        strides=strides,
    )
    planned = with_plan(data, channels, patch, strides)
    return Reconciled(planned, network, tuple(_differences(info, planned.info, patch, bundle)))


def _strides(config: FinetuneConfig, bundle: Bundle) -> tuple[Size3, ...]:
    """Those of the weights, or others that the recipe asks for."""
    asked, own = config.network, bundle.model
    for name in ("name", "size"):
        given = getattr(asked, name)
        if given and given != getattr(own, name):
            raise ConfigError(
                f"network.{name}={given}: bundle {bundle.folder} is {getattr(own, name)}; take it"
                " out of the recipe"
            )
    if asked.strides is None or asked.strides == own.strides:
        return own.strides
    if config.plan == "source":
        raise ConfigError(
            f"network.strides {_steps(asked.strides)}: the bundle has {_steps(own.strides)}, which"
            " plan=source keeps; take them out of the recipe, or set plan=target"
        )
    if len(asked.strides) != len(own.strides):
        raise ConfigError(
            f"network.strides: {len(asked.strides)} steps, the weights are of {len(own.strides)};"
            " append (1, 1, 1)"
        )
    return asked.strides


def _check_prepared(root: str, info: DatasetInfo, bundle: Bundle) -> None:
    wanted = bundle.preprocessing
    remedy = (
        f"prepare it anew with 'stunet data prepare RAW OUT --plan-from {bundle.folder}', or set"
        " plan=target to keep its own plan"
    )
    steps = zip(info.spacing_mm, wanted.spacing_mm, strict=True)
    if any(abs(a - b) > SPACING_TOLERANCE_MM for a, b in steps):
        raise DataError(
            f"store {root}: is at {_mm(info.spacing_mm)} mm, the bundle works at"
            f" {_mm(wanted.spacing_mm)} mm; {remedy}"
        )
    for channel, source in _with_sources(info.channels, bundle):
        if source is not None and channel.scheme != source.scheme:
            raise DataError(
                f"store {root}: channel {channel.name} is normalised by {channel.scheme}, the"
                f" bundle's {source.name} by {source.scheme}; {remedy}"
            )


def _with_sources(
    channels: Sequence[Channel], bundle: Bundle
) -> Iterator[tuple[Channel, Channel | None]]:
    """Each channel of the data and the one of the bundle that it is."""
    own = bundle.preprocessing.channels
    matched = matched_channels([c.name for c in own], [c.name for c in channels])
    for channel, number in zip(channels, matched, strict=True):
        yield channel, None if number is None else own[number]


def _fitting(patch: Size3, strides: tuple[Size3, ...]) -> Size3:
    """The smallest patch around a planned one that the strides divide."""
    by = (prod(step[axis] for step in strides) for axis in range(3))
    z, y, x = (-(-edge // step) * step for edge, step in zip(patch, by, strict=True))
    return z, y, x


def _differences(
    store: DatasetInfo, planned: DatasetInfo, patch: Size3, bundle: Bundle
) -> Iterator[str]:
    own, kept = bundle.preprocessing, bundle.model
    rows = [
        ("spacing", _mm(store.spacing_mm), _mm(own.spacing_mm), _mm(planned.spacing_mm)),
        ("patch", _by(store.patch_size), _by(own.patch_size), _by(patch)),
        ("strides", _steps(store.strides), _steps(kept.strides), _steps(planned.strides)),
        ("channels", _all(store.channels), _all(own.channels), _all(planned.channels)),
    ]
    for what, ours, theirs, used in rows:
        if not ours == theirs == used:
            yield f"{what}: store {ours}, bundle {theirs}; trained with {used}"
    if store.outputs != bundle.outputs:
        yield f"outputs: store {len(store.outputs)}, bundle {len(bundle.outputs)}"


def _all(channels: Iterable[Channel]) -> str:
    return ", ".join(map(_normalisation, channels))


def _normalisation(channel: Channel) -> str:
    if channel.scheme != "ct" or channel.clip is None:
        return f"{channel.name} ({channel.scheme})"
    low, high = channel.clip
    return (
        f"{channel.name} (ct, {low:.5g} to {high:.5g}, mean {channel.mean:.5g},"
        f" std {channel.std:.5g})"
    )


def _mm(spacing: Iterable[float]) -> str:
    return " x ".join(f"{mm:g}" for mm in spacing)


def _by(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))


def _steps(strides: Iterable[Size3]) -> str:
    return " ".join("".join(map(str, step)) for step in strides)
