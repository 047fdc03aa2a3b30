"""The label audit of prepared stores: what a person should look at before training on them.

`stunet data verify STORE... --audit`. Measures one case at a time, then compares the cases of each
data set with each other, and all scans with all others. Damage to files is `verify`'s part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.audit_cohort import grid_findings, position_findings, volume_findings
from data_tools.audit_duplicates import duplicate_findings
from data_tools.audit_finding import Case, Check, Finding, Severity
from data_tools.audit_measure import CaseMeasure, measure_case
from data_tools.audit_pieces import piece_findings
from data_tools.audit_sides import side_findings
from data_tools.audit_thumbnail import Thumbnail, thumbnails
from stunet.io.store import Store, open_store
from stunet.types import Spacing


@dataclass(frozen=True, eq=False)
class Audit:
    """The result.

    Attributes:
        stores: The audited stores, open.
        measures: All cases, store after store.
        findings: Worst first.
    """

    stores: tuple[Store, ...]
    measures: tuple[CaseMeasure, ...]
    findings: tuple[Finding, ...]

    @property
    def severe(self) -> int:
        """How many findings are severe."""
        return sum(finding.severity is Severity.SEVERE for finding in self.findings)


def audit(
    roots: Sequence[str | Path],
    on_progress: Callable[[int, int, str], None] = lambda done, total, case_id: None,
) -> Audit:
    """Audit one or more stores.

    Args:
        roots: Folders or URLs of stores.
        on_progress: Called after each case as (cases done, cases in total, case id).

    Raises:
        DataError: One is no store, or a case cannot be read.
    """
    stores = tuple(open_store(root) for root in roots)
    measures: list[CaseMeasure] = []
    thumbs: list[tuple[Thumbnail, ...]] = []
    findings: list[Finding] = []
    total = sum(len(store.rows) for store in stores)
    for number, store in enumerate(stores):
        sources_mm = _source_spacings(store)
        cohort = []
        for index, row in enumerate(store.rows):
            case = Case(number, index, row.case_id, store.info.name, row.split)
            label_zyx = store.read_label(index, (0, 0, 0), row.shape_zyx)
            cohort.append(
                measure_case(case, row, store.info, sources_mm.get(row.case_id), label_zyx)
            )
            thumbs.append(thumbnails(store, index))
            on_progress(len(thumbs), total, row.case_id)
        findings += _cohort_findings(cohort, max(store.info.spacing_mm))
        measures += cohort
    findings += duplicate_findings([measure.case for measure in measures], thumbs)
    return Audit(stores, tuple(measures), tuple(sorted(findings, key=_urgency)))


def _cohort_findings(cohort: Sequence[CaseMeasure], voxel_mm: float) -> Iterator[Finding]:
    """All findings of one data set; what is on the wrong side is not also misplaced."""
    if not cohort:
        return
    sides = list(side_findings(cohort))
    yield from sides
    explained = {(finding.case, name) for finding in sides for name in finding.structures}
    mirrored = {finding.case for finding in sides if "mirrored" in finding.message}
    for finding in position_findings(cohort):
        if finding.case not in mirrored and (finding.case, finding.structures[0]) not in explained:
            yield finding
    yield from volume_findings(cohort)
    yield from piece_findings(cohort, voxel_mm)
    yield from grid_findings(cohort)


def _urgency(finding: Finding) -> tuple[int, int, str, str]:
    case_id = finding.case.case_id if finding.case else ""
    return -finding.severity, list(Check).index(finding.check), finding.dataset, case_id


def _source_spacings(store: Store) -> dict[str, Spacing]:
    """Voxel size of each case before preparation, where the fingerprint tells."""
    cases = store.info.fingerprint.get("cases", ())
    return {case["case_id"]: tuple(case["spacing_mm"]) for case in cases}
