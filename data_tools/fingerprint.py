"""Measure a raw data set: shapes, spacings, labels and the intensities of labelled voxels.

The plan is made from these numbers alone. Nothing is resampled or written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stunet.errors import DataError
from stunet.io.foreground import count_voxels
from stunet.io.raw_case import read_case
from stunet.types import RawCase, RawDataset, Size3, Spacing

SAMPLES_PER_CASE = 10_000  # as many from every case, so that each weighs the same


@dataclass(frozen=True)
class Intensities:
    """Foreground values of one channel, in physical units; `p0_5` and `p99_5` are percentiles."""

    mean: float
    std: float
    p0_5: float
    p99_5: float
    min: float
    max: float


@dataclass(frozen=True)
class CaseFingerprint:
    """One case as it lies on disk, before resampling.

    Attributes:
        case_id: The case.
        shape_zyx: Voxels.
        spacing_mm: z y x.
        labels: Values that occur, ascending.
        lowest: Smallest value of each channel anywhere in the volume.
        foreground: Per channel, over all labelled voxels; empty if there are none.
    """

    case_id: str
    shape_zyx: Size3
    spacing_mm: Spacing
    labels: tuple[int, ...]
    lowest: tuple[float, ...]
    foreground: tuple[Intensities, ...]


@dataclass(frozen=True)
class Fingerprint:
    """What a plan is made from; `dataclasses.asdict` of it is JSON.

    Attributes:
        channel_names: One per channel.
        foreground: Per channel, over equally many labelled voxels of each training case.
        cases: All cases that could be read, sorted by id.
    """

    channel_names: tuple[str, ...]
    foreground: tuple[Intensities, ...]
    cases: tuple[CaseFingerprint, ...]


@dataclass(frozen=True)
class CaseMeasurement:
    """A case's fingerprint with sampled foreground values, one list per channel."""

    case: CaseFingerprint
    samples: tuple[tuple[float, ...], ...]


def fingerprint(raw: RawDataset) -> Fingerprint:
    """Measure all cases one after the other.

    Raises:
        DataError, VolumeError: a case cannot be read, or no case has a labelled voxel.
    """
    return pool(raw, [measure_case(case, raw) for case in raw.cases])


def measure_case(case: RawCase, raw: RawDataset) -> CaseMeasurement:
    """Read one case and measure it."""
    image, label = read_case(case, raw)
    values = tuple(count_voxels(label.array))
    foreground = label.array[0] > 0
    if raw.ignore_label is not None:
        foreground &= label.array[0] != raw.ignore_label
    inside = [volume[foreground] for volume in image.array] if foreground.any() else []
    measured = CaseFingerprint(
        case_id=case.case_id,
        shape_zyx=image.shape_zyx,
        spacing_mm=image.spacing_mm,
        labels=values,
        lowest=tuple(float(volume.min()) for volume in image.array),
        foreground=tuple(_intensities(voxels) for voxels in inside),
    )
    return CaseMeasurement(measured, tuple(_sample(voxels) for voxels in inside))


def pool(raw: RawDataset, measurements: Sequence[CaseMeasurement]) -> Fingerprint:
    """Combine the cases; held-out cases do not enter the intensities of the data set.

    Raises:
        DataError: no training case has a labelled voxel.
    """
    held_out = {case.case_id for case in raw.cases if case.split in ("val", "test")}
    ordered = sorted(measurements, key=lambda measured: measured.case.case_id)
    sampled = [m.samples for m in ordered if m.samples and m.case.case_id not in held_out]
    if not sampled:
        raise DataError(f"{raw.name}: no training case has a labelled voxel; check the labels")
    return Fingerprint(
        channel_names=raw.channel_names,
        foreground=tuple(
            _intensities(np.concatenate([samples[channel] for samples in sampled]))
            for channel in range(len(raw.channel_names))
        ),
        cases=tuple(measured.case for measured in ordered),
    )


def _intensities(voxels: np.ndarray) -> Intensities:
    low, high = np.percentile(voxels, (0.5, 99.5))
    return Intensities(
        mean=float(voxels.mean(dtype=np.float64)),
        std=float(voxels.std(dtype=np.float64)),
        p0_5=float(low),
        p99_5=float(high),
        min=float(voxels.min()),
        max=float(voxels.max()),
    )


def _sample(voxels: np.ndarray) -> tuple[float, ...]:
    """Values at equal steps through the foreground; repeated where there are too few."""
    ranks = np.linspace(0, len(voxels) - 1, SAMPLES_PER_CASE).round().astype(np.intp)
    return tuple(voxels[ranks].tolist())
