"""What differs from the other cases: places and volumes of structures, voxel size, field of view.

Medians and median deviations over the cases of one data set, which a few bad cases cannot move.
With fewer than `MIN_COHORT` cases nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_tools.audit_finding import Check, Finding, Severity
from data_tools.audit_measure import CaseMeasure
from data_tools.audit_pieces import MIN_COHORT

FAR_SIGMAS = 6.0  # for places, whose deviations have longer tails than a normal vector's
SIGMAS = 5.0  # robust standard deviations: one in 10^6 normal values lies beyond
MAD_SIGMA = 1.4826  # standard deviation of a normal distribution in median deviations
LENGTH_SIGMA = 1.5382  # median length of a normal vector in 3D, in standard deviations
TIMES = 2.0  # at least so many times larger or smaller
NATURAL = math.log(1.1)  # cohorts that agree to 10% still do not make 12% an outlier
RADII = 0.5  # at least so far away, in radii of a ball of the structure's median volume


class Displacement(NamedTuple):
    """How far a structure lies from where its neighbours say it should be: world x, y, z."""

    case: CaseMeasure
    name: str
    offset_mm: np.ndarray
    typical_mm: float


def position_findings(cohort: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """Structures far from where they lie in the other cases, relative to the other structures."""
    for found in displaced(cohort):
        distance = float(np.linalg.norm(found.offset_mm))
        yield Finding(
            Check.POSITION,
            Severity.WARNING,
            found.case.case,
            found.case.case.dataset,
            (found.name,),
            distance,
            "mm",
            f"{found.name} lies {distance:.0f} mm too far to the {_direction(found.offset_mm)};"
            f" {found.typical_mm:.1f} mm are usual",
            "check that it is this structure, and of this patient",
        )


def displaced(cohort: Sequence[CaseMeasure]) -> Iterator[Displacement]:
    """Structures whose offsets to the others are unlike those in other cases.

    The offset to every other structure is compared with its median over the cases; the median of
    these differences is the displacement, so that one misplaced neighbour does not count. The worst
    of a case is taken out and the others judged again. A direction in which a structure is cut by
    the border of the volume is left aside.
    """
    names = sorted({name for case in cohort for name in case.structures})
    centres = np.array([[_centre(case, name) for name in names] for case in cohort])
    if len(cohort) < MIN_COHORT or len(names) < 2:
        return
    usual = np.stack([_usual_offsets(centres, k) for k in range(len(names))])
    lengths = np.array([_lengths(_residuals(case, usual)) for case in centres])
    enough = np.isfinite(lengths).sum(axis=0) >= MIN_COHORT
    typical = np.array([np.nanmedian(c) if ok else np.inf for c, ok in zip(lengths.T, enough)])  # noqa: B905
    least = np.array([RADII * _radius_mm(cohort, name) for name in names])
    limit = np.maximum(least, FAR_SIGMAS / LENGTH_SIGMA * typical)
    for case, measured in zip(cohort, centres.copy(), strict=True):
        while True:
            residuals = _residuals(measured, usual)
            excess = np.nan_to_num(_lengths(residuals) / limit)
            worst = int(excess.argmax())
            if excess[worst] <= 1:
                break
            offset = np.nan_to_num(residuals[worst])
            yield Displacement(case, names[worst], offset, float(typical[worst]))
            measured[worst] = np.nan


def _centre(case: CaseMeasure, name: str) -> list[float]:
    """Centre x, y, z in mm; NaN where absent, or cut along that axis."""
    structure = case.structures.get(name)
    if structure is None:
        return [math.nan] * 3
    cut_xyz = reversed(structure.cut)
    return [math.nan if cut else c for c, cut in zip(structure.centre_mm, cut_xyz, strict=True)]


def _usual_offsets(centres: np.ndarray, structure: int) -> np.ndarray:
    """(structures, 3): median offset to every other; NaN where too few cases have both."""
    offsets = centres[:, structure, None] - centres
    offsets[:, structure] = np.nan
    enough = np.isfinite(offsets).sum(axis=0) >= MIN_COHORT
    usual = np.full(offsets.shape[1:], np.nan)
    usual[enough] = np.nanmedian(offsets[:, enough], axis=0)
    return usual


def _residuals(centres: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(structures, 3): how far each structure of a case lies from where the others expect it."""
    residuals = centres[:, None] - centres - usual
    known = np.isfinite(residuals).any(axis=1)
    found = np.full(centres.shape, np.nan)
    found[known] = np.nanmedian(residuals.swapaxes(1, 2)[known], axis=-1)
    return found


def _lengths(residuals: np.ndarray) -> np.ndarray:
    """Length in mm over the directions that are known; NaN if none is."""
    known = np.isfinite(residuals).any(axis=1)
    return np.where(known, np.linalg.norm(np.nan_to_num(residuals), axis=1), np.nan)


def _radius_mm(cohort: Sequence[CaseMeasure], name: str) -> float:
    volumes = [case.structures[name].volume_mm3 for case in cohort if name in case.structures]
    return float((np.median(volumes) * 3 / (4 * math.pi)) ** (1 / 3))


def _direction(offset_mm: np.ndarray) -> str:
    axis = int(np.abs(offset_mm).argmax())
    return (("left", "right"), ("back", "front"), ("feet", "head"))[axis][int(offset_mm[axis] > 0)]


def volume_findings(cohort: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """Structures much larger or smaller than in the other cases; cut ones are never too small."""
    for name in sorted({name for case in cohort for name in case.structures}):
        cases = [case for case in cohort if name in case.structures]
        whole = [case for case in cases if not any(case.structures[name].cut)]
        volumes = [case.structures[name].volume_mm3 for case in whole]
        for case in cases:
            structure = case.structures[name]
            score, times, median = _outlier(structure.volume_mm3, volumes)
            if not score or (times < 1 and any(structure.cut)):
                continue
            yield Finding(
                Check.VOLUME,
                Severity.WARNING,
                case.case,
                case.case.dataset,
                (name,),
                structure.volume_mm3 / 1000,
                "ml",
                f"{name} has {structure.volume_mm3 / 1000:.3g} ml, {_times(times)} the median of"
                f" {median / 1000:.3g} ml ({abs(score):.0f} robust standard deviations)",
                "check that all of it, and nothing else, is labelled",
            )


def grid_findings(cohort: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """Cases with another voxel size or field of view than the rest."""
    spacing: Callable[[CaseMeasure], Sequence[float]] = lambda case: case.spacing_mm  # noqa: E731
    extent: Callable[[CaseMeasure], Sequence[float]] = lambda case: case.extent_mm  # noqa: E731
    for what, sides in (("voxel size", spacing), ("field of view", extent)):
        for axis, letter in enumerate("zyx"):
            values = [sides(case)[axis] for case in cohort]
            for case, value in zip(cohort, values, strict=True):
                score, times, median = _outlier(value, values)
                if score:
                    yield Finding(
                        Check.GRID,
                        Severity.NOTE,
                        case.case,
                        case.case.dataset,
                        (),
                        value,
                        "mm",
                        f"{what} along {letter} is {value:.4g} mm, {_times(times)} the median of"
                        f" {median:.4g} mm",
                        "check that it belongs to this data set",
                    )


def _outlier(value: float, cohort: Sequence[float]) -> tuple[float, float, float]:
    """Robust score on a log scale (0: no outlier), times the median, and the median."""
    if len(cohort) < MIN_COHORT:
        return 0.0, 1.0, math.nan
    logs = np.log(cohort)
    middle = float(np.median(logs))
    sigma = max(NATURAL, MAD_SIGMA * float(np.median(np.abs(logs - middle))))
    away = math.log(value) - middle
    score = away / sigma
    outlier = abs(score) > SIGMAS and abs(away) > math.log(TIMES)
    return score if outlier else 0.0, math.exp(away), math.exp(middle)


def _times(times: float) -> str:
    return f"{times:.1f} times" if times >= 1 else f"1/{1 / times:.1f} of"
