"""Left and right: structures on the wrong side of the patient, one pair or a whole mirrored case.

World coordinates are RAS+: the right one of a pair has the larger x. Organs whose side is known
(the liver lies right of the spleen) tell swapped names from a mirrored scan.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_tools.audit_finding import Check, Finding, Severity
from data_tools.audit_measure import CaseMeasure

LEFT, RIGHT = {"left", "l", "lt"}, {"right", "r", "rt"}
APART_MM = 5.0  # centres nearer along x than this say nothing about sides
ACROSS_MM = 15.0  # a structure without its partner must lie this far on the wrong side
CONVENTION_CASES, CONVENTION_SHARE = 3, 0.8  # wrong in so many cases, it is how the set was made

TURN = "check the orientation in the scan's header, then exchange left and right"
EXCHANGE = "exchange left and right in the label"


class Pair(NamedTuple):
    """Two structures of which `right` lies further to the patient's right."""

    left: str
    right: str


ANATOMY = (  # except in situs inversus, 1 in 10,000
    Pair("spleen", "liver"),
    Pair("stomach", "gallbladder"),
    Pair("stomach", "liver"),
    Pair("aorta", "inferior_vena_cava"),
)


def side_findings(cohort: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """Findings of all cases of one data set."""
    pairs = named_pairs({name for case in cohort for name in case.structures})
    verdicts = {pair: [_is_right(case, pair) for case in cohort] for pair in pairs}
    turned = []
    for pair, verdict in verdicts.items():
        decided = [right for right in verdict if right is not None]
        wrong = decided.count(False)
        if wrong >= CONVENTION_CASES and wrong >= CONVENTION_SHARE * len(decided):
            turned.append((pair, wrong, len(decided)))
    if turned:
        yield _convention_finding(cohort[0].case.dataset, turned)
    judged = [pair for pair in pairs if pair not in {pair for pair, *_ in turned}]
    for case in cohort:
        yield from _case_findings(case, judged)
        yield from _lone_findings(case, pairs)


def named_pairs(names: set[str]) -> list[Pair]:
    """Names that differ in nothing but left and right.

    >>> named_pairs({"kidney_left", "kidney_right", "vertebrae_L1", "LungL", "LungR"})
    [Pair(left='LungL', right='LungR'), Pair(left='kidney_left', right='kidney_right')]
    """
    sides: dict[tuple[str, ...], dict[str, str]] = {}
    for name in sorted(names):
        words = _words(name)
        for place, word in enumerate(words):
            side = "left" if word in LEFT else "right" if word in RIGHT else None
            if side:
                sides.setdefault((*words[:place], "*", *words[place + 1 :]), {})[side] = name
    return [Pair(both["left"], both["right"]) for both in sides.values() if len(both) == 2]


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def _is_right(case: CaseMeasure, pair: Pair) -> bool | None:
    """Whether a pair lies as it should; None if one is absent or they are too near to tell."""
    if not (pair.left in case.structures and pair.right in case.structures):
        return None
    apart_mm = _apart_mm(case, pair)
    return None if abs(apart_mm) < APART_MM else apart_mm > 0


def _apart_mm(case: CaseMeasure, pair: Pair) -> float:
    left, right = case.structures[pair.left], case.structures[pair.right]
    return right.centre_mm[0] - left.centre_mm[0]


def _case_findings(case: CaseMeasure, pairs: Sequence[Pair]) -> Iterator[Finding]:
    verdicts = {pair: _is_right(case, pair) for pair in pairs}
    wrong = [pair for pair, right in verdicts.items() if right is False]
    right = [pair for pair, right in verdicts.items() if right]
    anatomy = [_is_right(case, pair) for pair in ANATOMY]
    mirrored, natural = False in anatomy and True not in anatomy, True in anatomy
    if wrong and not right and mirrored:
        yield _case_finding(
            case, wrong, "the whole case is mirrored: every structure lies on the wrong side", TURN
        )
    elif len(wrong) > 1 and not right:
        message = f"all {len(wrong)} pairs of left and right are exchanged" + (
            ", while liver and other organs lie where they should" if natural else ""
        )
        yield _case_finding(case, wrong, message, EXCHANGE if natural else TURN)
    else:
        for pair in wrong:
            message = f"{pair.right} lies {-_apart_mm(case, pair):.0f} mm left of {pair.left}"
            yield _case_finding(case, [pair], message, EXCHANGE if right or natural else TURN)
    if not wrong and mirrored:
        yield _anatomy_finding(case)


def _case_finding(case: CaseMeasure, pairs: Sequence[Pair], message: str, action: str) -> Finding:
    worst = min(pairs, key=lambda pair: _apart_mm(case, pair))
    names = [*worst, *(name for pair in pairs if pair != worst for name in pair)]
    return Finding(
        Check.SIDES,
        Severity.SEVERE,
        case.case,
        case.case.dataset,
        tuple(names),
        -_apart_mm(case, worst),
        "mm",
        message,
        action,
    )


def _anatomy_finding(case: CaseMeasure) -> Finding:
    wrong = next(pair for pair in ANATOMY if _is_right(case, pair) is False)
    return Finding(
        Check.SIDES,
        Severity.WARNING,
        case.case,
        case.case.dataset,
        tuple(wrong),
        -_apart_mm(case, wrong),
        "mm",
        f"{wrong.right} lies {-_apart_mm(case, wrong):.0f} mm left of {wrong.left}",
        "the scan was mirrored before it was labelled, or the patient has situs inversus",
    )


def _lone_findings(case: CaseMeasure, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Structures named by a side whose partner is absent, against the plane between the pairs."""
    middles = [
        (case.structures[pair.left].centre_mm[0] + case.structures[pair.right].centre_mm[0]) / 2
        for pair in pairs
        if _is_right(case, pair)
    ]
    if not middles:
        return
    middle = statistics.median(middles)
    both = {name for pair in pairs if {*pair} <= case.structures.keys() for name in pair}
    for name, structure in case.structures.items():
        side = {"left", "right"} & {*_words(name)}
        if len(side) != 1 or name in both:
            continue
        across_mm = (structure.centre_mm[0] - middle) * (1 if "left" in side else -1)
        if across_mm > ACROSS_MM:
            yield Finding(
                Check.SIDES,
                Severity.WARNING,
                case.case,
                case.case.dataset,
                (name,),
                across_mm,
                "mm",
                f"{name} lies {across_mm:.0f} mm beyond the plane between left and right",
                "check which side it is on",
            )


def _convention_finding(dataset: str, turned: Sequence[tuple[Pair, int, int]]) -> Finding:
    _, wrong, decided = turned[0]
    names = ", ".join(f"{pair.left}/{pair.right}" for pair, *_ in turned)
    return Finding(
        Check.SIDES,
        Severity.SEVERE,
        None,
        dataset,
        tuple(name for pair, *_ in turned for name in pair),
        100 * wrong / decided,
        "% of cases",
        f"left lies on the patient's right in {wrong} of {decided} cases ({names})",
        "the names mean the viewer's sides, or all scans are mirrored: correct the whole data set",
    )
