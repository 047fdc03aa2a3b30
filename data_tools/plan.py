"""Derive spacing, patch, strides and normalisation from a fingerprint.

Every value can be set in `PlanConfig` instead. The plan is data-set wide and says nothing about
batch size or the width of the network.

Source: the planning rules of nnU-Net, adapted to a network of five down-sampling steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import get_args

import numpy as np

from data_tools.fingerprint import Fingerprint
from data_tools.plan_patch import STEPS, Strides, fit_patch, patch_divisor, plan_strides
from data_tools.raw_files import UNNAMED_CHANNEL
from stunet.errors import ConfigError
from stunet.transforms.channel_match import normalised_as
from stunet.transforms.resample import ANISOTROPY_LIMIT, target_shape
from stunet.types import Channel, Preprocessing, Scheme, Size3, Spacing

SCHEME_OF_NAME: dict[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_0_1": "rescale",
    "rescale_to_0_1": "rescale",
}
AIR_HU = -500.0  # only computed tomography reaches this low: air is -1000 HU
THICK_SLICE_PERCENTILE = 10.0  # nnU-Net: spacing across thick slices, finer than the median


@dataclass(frozen=True)
class PlanConfig:
    """What to plan with; a value of None is planned.

    Attributes:
        spacing_mm: Target spacing, z y x.
        patch_size: Patch in voxels, z y x; a multiple of the product of the strides per axis.
        strides: Five down-sampling steps, finest first, each z y x.
        scheme: Normalisation of every channel: `ct`, `zscore`, `rescale` or `none`.
        patch_voxels: Largest planned patch; 128^3 is what the released STU-Net was trained with.
    """

    spacing_mm: Spacing | None = None
    patch_size: Size3 | None = None
    strides: Strides | None = None
    scheme: str | None = None
    patch_voxels: int = 128**3


@dataclass(frozen=True)
class Plan:
    """How volumes are preprocessed, and the strides of the network that fits the patch."""

    preprocessing: Preprocessing
    strides: Strides


def plan(fingerprint: Fingerprint, config: PlanConfig, source: Plan | None = None) -> Plan:
    """Make the plan.

    Args:
        fingerprint: What is planned for.
        config: Values that are set.
        source: A plan to keep where no value is set, so that weights that were trained with it
            can start on these data.

    Raises:
        ConfigError: a value that was set is impossible or does not fit the others.
    """
    check_config(config)
    if source is not None:
        config = _with_source(config, source)
    spacing = config.spacing_mm or _target_spacing(fingerprint)
    if config.patch_size is None:
        patch_size, strides = fit_patch(
            median_shape(fingerprint, spacing), spacing, config.patch_voxels, config.strides
        )
    else:
        patch_size = config.patch_size
        strides = config.strides or plan_strides(patch_size, spacing)
    for axis, divisor, edge in zip("zyx", patch_divisor(strides), patch_size, strict=True):
        if edge % divisor:
            raise ConfigError(
                f"patch_size {patch_size}: {edge} along {axis} is not a multiple of {divisor}, the "
                f"product of the strides; use {edge // divisor * divisor + divisor}"
            )
    channels = tuple(
        _channel(fingerprint, number, config.scheme)
        for number in range(len(fingerprint.channel_names))
    )
    if source is not None and config.scheme is None:
        channels = normalised_as(channels, source.preprocessing.channels)
    return Plan(Preprocessing(spacing, patch_size, channels), strides)


def _with_source(config: PlanConfig, source: Plan) -> PlanConfig:
    """The values that are set, and the source's for those that are not."""
    kept = source.preprocessing
    return replace(
        config,
        spacing_mm=config.spacing_mm or kept.spacing_mm,
        patch_size=config.patch_size or kept.patch_size,
        strides=config.strides or source.strides,
    )


def median_shape(fingerprint: Fingerprint, spacing_mm: Spacing) -> Size3:
    """Median shape of the cases at a spacing, z y x, in voxels."""
    shapes = [
        target_shape(case.shape_zyx, case.spacing_mm, spacing_mm) for case in fingerprint.cases
    ]
    z, y, x = (round(edge) for edge in np.median(shapes, axis=0))
    return z, y, x


def check_config(config: PlanConfig) -> None:
    """Refuse values that no fingerprint could make right.

    Raises:
        ConfigError: naming the value.
    """
    for name in ("spacing_mm", "patch_size"):
        value = getattr(config, name)
        if value is not None and (len(value) != 3 or min(value) <= 0):
            raise ConfigError(f"{name} {value}: give three values above zero, z y x")
    if config.strides is not None:
        steps = config.strides
        if len(steps) != STEPS or any(len(step) != 3 or min(step) < 1 for step in steps):
            raise ConfigError(f"strides {steps}: give {STEPS} steps of three values >= 1, z y x")
    if config.scheme not in (None, *get_args(Scheme)):
        raise ConfigError(
            f"scheme {config.scheme!r}: unknown; use one of {', '.join(get_args(Scheme))}"
        )


def _target_spacing(fingerprint: Fingerprint) -> Spacing:
    """Median spacing per axis, finer across thick slices of few voxels, to six digits."""
    spacings = np.array([case.spacing_mm for case in fingerprint.cases])
    target = np.median(spacings, axis=0)
    voxels = np.median([case.shape_zyx for case in fingerprint.cases], axis=0)
    thick = int(target.argmax())
    in_plane = [axis for axis in range(3) if axis != thick]
    coarse = target[thick] > ANISOTROPY_LIMIT * target[in_plane].max()
    few = voxels[thick] * ANISOTROPY_LIMIT < voxels[in_plane].min()
    if coarse and few:
        finer = np.percentile(spacings[:, thick], THICK_SLICE_PERCENTILE)
        target[thick] = max(finer, target[in_plane].max())
    z, y, x = (float(f"{step:.6g}") for step in target)  # hides float32 rounding of file headers
    return z, y, x


def _channel(fingerprint: Fingerprint, number: int, scheme: str | None) -> Channel:
    name = fingerprint.channel_names[number]
    chosen = scheme or _guess_scheme(fingerprint, number)
    if chosen != "ct":
        return Channel(name, chosen)  # type: ignore[arg-type]  # checked above
    inside = fingerprint.foreground[number]
    return Channel(name, "ct", (inside.p0_5, inside.p99_5), inside.mean, inside.std)


def _guess_scheme(fingerprint: Fingerprint, number: int) -> Scheme:
    """By name as nnU-Net does; a channel nobody named is CT if every case holds air in HU."""
    name = fingerprint.channel_names[number].lower()
    if name == UNNAMED_CHANNEL:
        holds_air = all(case.lowest[number] <= AIR_HU for case in fingerprint.cases)
        return "ct" if holds_air else "zscore"
    return SCHEME_OF_NAME.get(name, "zscore")


def describe(plan: Plan, fingerprint: Fingerprint) -> str:
    """A few lines for people: what was found and what is planned."""
    recipe = plan.preprocessing
    own_spacing = np.median([case.spacing_mm for case in fingerprint.cases], axis=0)
    own_shape = np.median([case.shape_zyx for case in fingerprint.cases], axis=0)
    shape = median_shape(fingerprint, recipe.spacing_mm)
    labels = sorted({value for case in fingerprint.cases for value in case.labels})
    extent_mm = np.multiply(recipe.patch_size, recipe.spacing_mm)
    lines = [
        f"{len(fingerprint.cases)} cases, median {_times(own_shape)} voxels "
        f"of {_times(own_spacing)} mm (z y x), label values {_ranges(labels)}",
        f"resampled to {_times(recipe.spacing_mm)} mm: median {_times(shape)} voxels",
        f"patch {_times(recipe.patch_size)} = {prod(recipe.patch_size) / 1e6:.2f} M voxels, "
        f"{_times(extent_mm)} mm",
        f"strides {' '.join(_times(step) for step in plan.strides)}",
    ]
    for channel in recipe.channels:
        line = f"channel {channel.name}: {channel.scheme}"
        if channel.clip is not None:
            low, high = channel.clip
            line += (
                f", clip {low:.5g} to {high:.5g}, mean {channel.mean:.5g}, std {channel.std:.5g}"
            )
        lines.append(line)
    return "\n".join(lines)


def _times(values: object) -> str:
    return " x ".join(f"{value:.4g}" for value in np.ravel(values))  # type: ignore[call-overload]


def _ranges(values: list[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    starts = [value for value in values if value - 1 not in values]
    ends = [value for value in values if value + 1 not in values]
    return ", ".join(
        f"{start}-{end}" if end > start else f"{start}"
        for start, end in zip(starts, ends, strict=True)
    )
