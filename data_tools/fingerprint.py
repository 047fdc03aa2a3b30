"""Measure a raw data set: shapes, spacings, labels and the intensities of labelled voxels.

The plan is made from these numbers alone. Nothing is resampled or written here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.percentiles import percentiles
from stunet.errors import DataError
from stunet.io.foreground import count_voxels
from stunet.io.raw_case import read_case
from stunet.io.spill import Allocate, Spill, release, walk
from stunet.types import RawCase, RawDataset, Size3, Spacing

SAMPLES_PER_CASE = 10_000  # as many from every case, so that each weighs the same
SUMMED_VALUES = 1 << 22  # at a time: 32 MB in double precision


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
    """Measure all cases one after the other; scans too large for memory pass through `TMPDIR`.

    Raises:
        DataError, VolumeError: a case cannot be read, or no case has a labelled voxel.
    """
    allocate = Spill(Path(tempfile.gettempdir()))
    return pool(raw, [measure_case(case, raw, allocate) for case in raw.cases])


def measure_case(case: RawCase, raw: RawDataset, allocate: Allocate = np.empty) -> CaseMeasurement:
    """Read one case and measure it; a `Spill` for `allocate` bounds the memory that takes."""
    image, label = read_case(case, raw, allocate)
    counts = count_voxels(label.array)
    unsampled = (0, raw.ignore_label)
    inside = [value for value in counts if value not in unsampled]
    voxels = sum(counts[value] for value in inside)
    foreground = [
        _foreground(label.array[0], volume, inside, allocate((voxels,), np.float32))
        for volume in (image.array if voxels else ())
    ]
    lowest = [min(slab.min() for (slab,) in walk(volume)) for volume in image.array]
    measured = CaseFingerprint(
        case_id=case.case_id,
        shape_zyx=image.shape_zyx,
        spacing_mm=image.spacing_mm,
        labels=tuple(counts),
        lowest=tuple(map(float, lowest)),
        foreground=tuple(_intensities(values) for values in foreground),
    )
    return CaseMeasurement(measured, tuple(_sample(values) for values in foreground))


def _foreground(
    label_zyx: np.ndarray, image_zyx: np.ndarray, inside: Sequence[int], values: np.ndarray
) -> np.ndarray:
    """Fill `values` with the voxels whose label is in `inside`, in C order."""
    is_inside = np.zeros(np.iinfo(label_zyx.dtype).max + 1, bool)
    is_inside[list(inside)] = True
    filled = 0
    for label, image in walk(label_zyx, image_zyx):
        found = image[is_inside[label]]
        values[filled : filled + found.size] = found
        filled += found.size
        release(values)
    return values


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


def _intensities(values: np.ndarray) -> Intensities:
    def parts() -> Iterator[np.ndarray]:
        return (part for (part,) in walk(values, voxels=SUMMED_VALUES))

    low, high = percentiles(parts, (0.5, 99.5))
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts()) / values.size
    squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts())
    return Intensities(
        mean=mean,
        std=float(np.sqrt(squares / values.size)),
        p0_5=low,
        p99_5=high,
        min=min(float(part.min()) for part in parts()),
        max=max(float(part.max()) for part in parts()),
    )


def _sample(values: np.ndarray) -> tuple[float, ...]:
    """Values at equal steps through the foreground; repeated where there are too few."""
    ranks = np.linspace(0, len(values) - 1, SAMPLES_PER_CASE).round().astype(np.intp)
    sampled, start = [], 0
    for (part,) in walk(values, voxels=SUMMED_VALUES):
        first, last = np.searchsorted(ranks, (start, start + part.size))
        sampled.append(part[ranks[first:last] - start])
        start += part.size
    return tuple(np.concatenate(sampled).tolist())
