"""Islands, fragments and holes: pieces of a structure that should not be there, or are missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from data_tools.audit_finding import Check, Finding, Severity
from data_tools.audit_measure import CaseMeasure, Piece, Structure

MIN_COHORT = 8  # cases with a structure, below which other cases say nothing
ISLAND_SHARE = 0.1  # of the largest piece: smaller ones are islands, larger ones fragments
ISLAND_MM3 = 5000.0  # larger pieces are parts: bowel loops, lobes
FAR_MM = 10.0  # an island nearer than this is a rough outline; less for structures smaller yet
FAR_VOXELS = 4.0
HOLE_SHARE = 0.01  # of the structure: below, holes are noise of the outline
HOLE_VOXELS = 8
USUAL = 0.5  # share of the cohort in which islands are no longer one case's fault

LOOK = "look at the label and delete or join what does not belong"


def piece_findings(cohort: Sequence[CaseMeasure], voxel_mm: float) -> Iterator[Finding]:
    """Findings of all cases of one data set.

    Args:
        cohort: Its cases.
        voxel_mm: Longest side of a voxel.
    """
    for name in sorted({name for case in cohort for name in case.structures}):
        cases = [case for case in cohort if name in case.structures]
        found = [(case, islands(case.structures[name], voxel_mm)) for case in cases]
        found = [(case, pieces) for case, pieces in found if pieces]
        if len(cases) >= MIN_COHORT and len(found) > USUAL * len(cases):
            yield _usual_islands(cases[0].case.dataset, name, len(found), len(cases))
        else:
            for case, pieces in found:
                yield _island_finding(case, name, pieces)
        yield from _fragment_findings(cases, name)
        for case in cases:
            yield from _hole_findings(case, name, voxel_mm)


def islands(structure: Structure, voxel_mm: float) -> list[Piece]:
    """Small pieces far from the largest one."""
    main = structure.pieces[0].volume_mm3
    radius = (main * 3 / (4 * math.pi)) ** (1 / 3)
    far_mm = max(FAR_VOXELS * voxel_mm, min(FAR_MM, radius))
    return [
        piece
        for piece in structure.pieces[1:]
        if piece.volume_mm3 < min(ISLAND_SHARE * main, ISLAND_MM3) and piece.distance_mm >= far_mm
    ]


def _island_finding(case: CaseMeasure, name: str, pieces: Sequence[Piece]) -> Finding:
    farthest = max(pieces, key=lambda piece: piece.distance_mm)
    total = sum(piece.volume_mm3 for piece in pieces)
    count = f"{len(pieces)} islands" if len(pieces) > 1 else "an island"
    return Finding(
        Check.PIECES,
        Severity.WARNING,
        case.case,
        case.case.dataset,
        (name,),
        farthest.distance_mm,
        "mm",
        f"{name} has {count} of {total:.0f} mm³, {farthest.distance_mm:.0f} mm from its main body",
        LOOK,
        centre_zyx=farthest.centre_zyx,
    )


def _usual_islands(dataset: str, name: str, found: int, cases: int) -> Finding:
    return Finding(
        Check.PIECES,
        Severity.NOTE,
        None,
        dataset,
        (name,),
        100 * found / cases,
        "% of cases",
        f"{name} has islands in {found} of {cases} cases, so they are not reported one by one",
        "check whether the structure has several parts, or the annotators a bad habit",
    )


def _fragment_findings(cases: Sequence[CaseMeasure], name: str) -> Iterator[Finding]:
    """Cases in which a structure that usually is one piece has fallen apart."""
    counts = [len(_fragments(case.structures[name])) for case in cases]
    if len(cases) < MIN_COHORT or statistics.median(counts) > 1:
        return
    for case, count in zip(cases, counts, strict=True):
        if count > 1:
            second = _fragments(case.structures[name])[1]
            yield Finding(
                Check.PIECES,
                Severity.WARNING,
                case.case,
                case.case.dataset,
                (name,),
                count,
                "parts",
                f"{name} is in {count} parts, elsewhere in one; the second has"
                f" {second.volume_mm3 / 1000:.3g} ml, {second.distance_mm:.0f} mm away",
                LOOK,
                centre_zyx=second.centre_zyx,
            )


def _fragments(structure: Structure) -> list[Piece]:
    main = structure.pieces[0].volume_mm3
    return [piece for piece in structure.pieces if piece.volume_mm3 >= ISLAND_SHARE * main]


def _hole_findings(case: CaseMeasure, name: str, voxel_mm: float) -> Iterator[Finding]:
    structure = case.structures[name]
    total = sum(hole.volume_mm3 for hole in structure.holes)
    if total >= max(HOLE_SHARE * structure.volume_mm3, HOLE_VOXELS * voxel_mm**3):
        count = f"{len(structure.holes)} holes" if len(structure.holes) > 1 else "a hole"
        yield Finding(
            Check.HOLES,
            Severity.NOTE,
            case.case,
            case.case.dataset,
            (name,),
            total,
            "mm³",
            f"{name} encloses {count} of {total:.0f} mm³"
            f" ({100 * total / structure.volume_mm3:.1f}% of its volume)",
            "fill the label if the structure is solid",
            centre_zyx=structure.holes[0].centre_zyx,
        )
