"""Measures of drawn structures, and the islands, fragments and holes in them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_tools.audit_finding import Case, Check
from data_tools.audit_measure import CaseMeasure, measure_case
from data_tools.audit_pieces import MIN_COHORT, piece_findings


@pytest.fixture
def measured(small_store: Any):
    """Measure a label map at 2 mm, in which the liver is 1 and the spleen 2."""
    info = replace(small_store.info, spacing_mm=(2.0, 2.0, 2.0))
    from stunet.io.manifest_rows import read_rows

    row = read_rows(small_store.root)[0]
    affine = (2.0, 0.0, 0.0, 100.0, 0.0, 2.0, 0.0, 200.0, 0.0, 0.0, 2.0, 300.0, 0.0, 0.0, 0.0, 1.0)

    def measure(label: np.ndarray, number: int = 0) -> CaseMeasure:
        z, y, x = label.shape
        case = Case(0, number, str(number), "set", "train")
        at = replace(row, shape_zyx=(z, y, x), affine=affine)
        return measure_case(case, at, info, None, label)

    return measure


def block() -> np.ndarray:
    label = np.zeros((60, 40, 50), np.uint8)
    label[10:30, 10:30, 10:30] = 1
    return label


def test_volume_centre_and_border(measured) -> None:
    label = block()
    label[50:60, 0:2, 5:7] = 2
    case = measured(label)
    liver, spleen = case.structures["liver"], case.structures["spleen"]
    assert liver.volume_mm3 == 20**3 * 8
    assert liver.centre_mm == (100 + 2 * 19.5, 200 + 2 * 19.5, 300 + 2 * 19.5)
    assert spleen.cut == (True, True, False)
    assert not any(liver.cut)
    assert case.extent_mm == (120, 80, 100)
    assert "dot" not in case.structures


def test_an_island_is_measured_from_the_main_body(measured) -> None:
    label = block()
    label[50, 20, 20] = 1  # 21 voxels above the last slice of the block
    (finding,) = piece_findings([measured(label)], 2.0)
    assert finding.check is Check.PIECES
    assert finding.structures == ("liver",)
    assert finding.number == 42
    assert finding.centre_zyx == (50, 20, 20)
    assert "an island of 8 mm³, 42 mm from" in finding.message


@pytest.mark.parametrize("gap", [2, 3])
def test_crumbs_at_the_surface_are_no_islands(measured, gap: int) -> None:
    label = block()
    label[29 + gap, 20, 20] = 1
    assert list(piece_findings([measured(label)], 2.0)) == []


def test_large_second_parts_are_no_islands_but_fragments_where_others_have_one(measured) -> None:
    label = block()
    label[40:58, 10:30, 10:30] = 1
    assert list(piece_findings([measured(label)], 2.0)) == []
    cohort = [measured(block(), number) for number in range(MIN_COHORT)]
    (finding,) = piece_findings([*cohort, measured(label, 99)], 2.0)
    assert finding.case and finding.case.case_id == "99"
    assert (finding.number, finding.unit) == (2, "parts")


def test_islands_that_most_cases_have_are_one_note(measured) -> None:
    label = block()
    label[50, 20, 20] = 1
    (finding,) = piece_findings([measured(label, number) for number in range(MIN_COHORT)], 2.0)
    assert finding.case is None
    assert finding.number == 100


def test_a_hole_counts_but_a_tunnel_and_a_nested_structure_do_not(measured) -> None:
    hollow, tunnel, nested = block(), block(), block()
    hollow[17:22, 17:22, 17:22] = 0
    tunnel[17:22, 17:22, :] = 0
    nested[17:22, 17:22, 17:22] = 2
    (finding,) = piece_findings([measured(hollow)], 2.0)
    assert finding.check is Check.HOLES
    assert finding.number == 125 * 8
    assert finding.centre_zyx == (19, 19, 19)
    assert list(piece_findings([measured(tunnel)], 2.0)) == []
    assert list(piece_findings([measured(nested)], 2.0)) == []
