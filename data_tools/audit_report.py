"""Write an audit: `audit.html` for people, one file with its pictures inside, and `audit.json`."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_tools.audit import Audit
from data_tools.audit_finding import Check, Finding, Severity
from data_tools.audit_measure import CaseMeasure
from data_tools.audit_pictures import Picture, draw_finding, draw_pair
from data_tools.audit_pieces import MIN_COHORT
from stunet import __version__
from stunet.io.atomic import atomic_write_json, atomic_write_text
from stunet.pages import page_templates

TEMPLATES = Path(__file__).parent / "templates"
PICTURED = 40  # findings with pictures, the worst first: some 100 kB each
JSON, HTML = "audit.json", "audit.html"


@dataclass(frozen=True)
class StructureSummary:
    """One structure over the cases of a data set: volumes in ml, pieces as a median."""

    name: str
    cases: int
    median_ml: float
    least_ml: float
    most_ml: float
    pieces: float
    findings: int


def write_report(audit: Audit, out: Path) -> Path:
    """Write `audit.json` and `audit.html` into `out`; return the latter."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out / JSON, report_json(audit))
    environment = page_templates(TEMPLATES)
    counts = Counter(finding.severity for finding in audit.findings)
    html = environment.get_template("audit.html.j2").render(
        audit=audit,
        counts={severity.name.lower(): counts[severity] for severity in Severity},
        groups=_groups(audit),
        datasets=_datasets(audit),
        min_cohort=MIN_COHORT,
        day=datetime.now(UTC).date().isoformat(),
        version=__version__,
    )
    atomic_write_text(out / HTML, html)
    return out / HTML


def report_json(audit: Audit) -> dict[str, Any]:
    """Everything measured and found, as JSON values."""
    return {
        "version": __version__,
        "stores": [
            {"place": str(store.root), "name": store.info.name, "cases": len(store.rows)}
            for store in audit.stores
        ],
        "minimum_cohort": MIN_COHORT,
        "findings": [_finding_json(finding) for finding in audit.findings],
        "cases": [_case_json(measure) for measure in audit.measures],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {
        "check": finding.check.value,
        "severity": finding.severity.name.lower(),
    }


def _case_json(measure: CaseMeasure) -> dict[str, Any]:
    return {
        **asdict(measure.case),
        "spacing_mm": measure.spacing_mm,
        "extent_mm": measure.extent_mm,
        "structures": {
            name: {
                "volume_ml": structure.volume_mm3 / 1000,
                "centre_mm": structure.centre_mm,
                "pieces": structure.all_pieces,
                "holes": len(structure.holes),
                "cut_zyx": structure.cut,
            }
            for name, structure in measure.structures.items()
        },
    }


def _groups(audit: Audit) -> list[tuple[Check, list[tuple[Finding, tuple[Picture, ...]]]]]:
    """Findings by check, the worst ones with pictures."""
    measures = {measure.case: measure for measure in audit.measures}
    groups: dict[Check, list[tuple[Finding, tuple[Picture, ...]]]] = {check: [] for check in Check}
    for number, finding in enumerate(audit.findings):
        pictures: tuple[Picture, ...] = ()
        if finding.case and number < PICTURED:
            if finding.other:
                pictures = draw_pair(audit.stores, finding)
            else:
                store = audit.stores[finding.case.store]
                pictures = draw_finding(store, finding, measures[finding.case])
        groups[finding.check].append((finding, pictures))
    return list(groups.items())


def _datasets(audit: Audit) -> list[tuple[str, int, list[StructureSummary]]]:
    """Per store its name, number of cases, and what its structures measure."""
    found = []
    for number, store in enumerate(audit.stores):
        cases = [measure for measure in audit.measures if measure.case.store == number]
        names = sorted({name for case in cases for name in case.structures})
        found.append(
            (store.info.name, len(cases), [_summary(audit, cases, name) for name in names])
        )
    return found


def _summary(audit: Audit, cases: list[CaseMeasure], name: str) -> StructureSummary:
    structures = [case.structures[name] for case in cases if name in case.structures]
    volumes = [structure.volume_mm3 / 1000 for structure in structures]
    dataset = cases[0].case.dataset
    findings = [f for f in audit.findings if f.dataset == dataset and name in f.structures]
    return StructureSummary(
        name=name,
        cases=len(structures),
        median_ml=statistics.median(volumes),
        least_ml=min(volumes),
        most_ml=max(volumes),
        pieces=statistics.median(structure.all_pieces for structure in structures),
        findings=len(findings),
    )
