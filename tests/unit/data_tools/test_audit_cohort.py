"""Outliers of a cohort whose anatomy is drawn from known distributions."""

from dataclasses import replace

import numpy as np
import pytest

from data_tools.audit_cohort import displaced, grid_findings, position_findings, volume_findings
from data_tools.audit_finding import Case
from data_tools.audit_measure import CaseMeasure, Piece, Structure
from data_tools.audit_pieces import MIN_COHORT

PLACES = {
    "liver": (60, 0, 0),
    "spleen": (-80, -20, 10),
    "bladder": (0, 20, -250),
    "kidney": (50, -40, -60),
    "heart": (-20, 30, 120),
}
UNCUT = (False, False, False)


def structure(centre: np.ndarray, ml: float) -> Structure:
    x, y, z = centre.tolist()
    piece = Piece(ml * 1000, (5, 5, 5))
    return Structure(ml * 1000, (x, y, z), (5, 5, 5), UNCUT, (piece,), 1, ())


def cohort(count: int, seed: int = 0) -> list[CaseMeasure]:
    """Patients anywhere in the scanner, organs 5 mm about their places, volumes 15% apart."""
    random = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        patient = random.uniform(-500, 500, 3)
        organs = {
            name: structure(
                patient + place + random.normal(0, 5, 3), 100 * float(random.lognormal(0, 0.15))
            )
            for name, place in PLACES.items()
        }
        case = Case(0, number, str(number), "set", "train")
        cases.append(CaseMeasure(case, (2.0, 1.0, 1.0), (300.0, 400.0, 400.0), organs))
    return cases


def altered(case: CaseMeasure, name: str, **change: object) -> CaseMeasure:
    organ = replace(case.structures[name], **change)  # type: ignore[arg-type]
    return replace(case, structures=case.structures | {name: organ})


def moved(case: CaseMeasure, name: str, by: tuple[int, int, int]) -> CaseMeasure:
    x, y, z = np.add(case.structures[name].centre_mm, by).tolist()
    return altered(case, name, centre_mm=(x, y, z))


@pytest.mark.parametrize("seed", range(5))
def test_a_normal_cohort_has_no_outliers(seed: int) -> None:
    cases = cohort(60, seed)
    found = [*position_findings(cases), *volume_findings(cases), *grid_findings(cases)]
    assert found == []


def test_a_moved_organ_is_named_with_distance_and_direction() -> None:
    cases = cohort(20)
    cases[3] = moved(cases[3], "spleen", (0, 0, -60))
    (finding,) = position_findings(cases)
    assert finding.case == cases[3].case
    assert finding.structures == ("spleen",)
    assert 45 < finding.number < 75
    assert "too far to the feet" in finding.message


def test_two_moved_organs_do_not_hide_each_other() -> None:
    cases = cohort(20)
    cases[3] = moved(moved(cases[3], "spleen", (0, 0, -90)), "bladder", (60, 0, 0))
    assert {found.name for found in displaced(cases)} == {"spleen", "bladder"}


def test_a_direction_in_which_an_organ_is_cut_does_not_count() -> None:
    cases = cohort(20)
    cases[3] = moved(cases[3], "bladder", (0, 0, 70))
    assert len(list(displaced(cases))) == 1
    cases[3] = altered(cases[3], "bladder", cut=(True, False, False))
    assert list(displaced(cases)) == []


def test_volumes_too_small_and_too_large() -> None:
    cases = cohort(20)
    cases[2] = altered(cases[2], "liver", volume_mm3=20_000.0)
    cases[7] = altered(cases[7], "spleen", volume_mm3=500_000.0)
    large, small = sorted(volume_findings(cases), key=lambda f: -f.number)
    assert (large.case, large.structures, large.number) == (cases[7].case, ("spleen",), 500)
    assert (small.case, small.structures, small.number) == (cases[2].case, ("liver",), 20)
    cases[2] = altered(cases[2], "liver", cut=(True, False, False))
    assert [f.structures for f in volume_findings(cases)] == [("spleen",)]


def test_another_voxel_size_and_field_of_view() -> None:
    cases = cohort(20)
    cases[4] = replace(cases[4], spacing_mm=(8.0, 1.0, 1.0), extent_mm=(300.0, 90.0, 400.0))
    spacing, extent = grid_findings(cases)
    assert "voxel size along z is 8 mm, 4.0 times" in spacing.message
    assert "field of view along y is 90 mm" in extent.message


def test_too_few_cases_say_nothing() -> None:
    for count, found in ((MIN_COHORT - 1, 0), (MIN_COHORT, 1)):
        cases = cohort(count)
        cases[1] = moved(cases[1], "liver", (0, 200, 0))
        cases[2] = altered(cases[2], "spleen", volume_mm3=1e7)
        cases[3] = replace(cases[3], spacing_mm=(20.0, 1.0, 1.0))
        assert len(list(position_findings(cases))) == found
        assert len(list(volume_findings(cases))) == found
        assert len(list(grid_findings(cases))) == found
