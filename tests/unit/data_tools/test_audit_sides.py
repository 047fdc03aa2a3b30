"""Left and right of cases that are given by the places of their structures."""

from data_tools.audit_finding import Case, Finding, Severity
from data_tools.audit_measure import CaseMeasure, Piece, Structure
from data_tools.audit_sides import Pair, named_pairs, side_findings

PATIENT = {  # x in mm, to the patient's right
    "kidney_left": -60.0,
    "kidney_right": 60.0,
    "lung_left": -80.0,
    "lung_right": 80.0,
    "liver": 50.0,
    "spleen": -90.0,
}


def patient(case_id: str, places: dict[str, float]) -> CaseMeasure:
    structures = {
        name: Structure(
            1e5, (x, 0.0, 0.0), (5, 5, 5), (False,) * 3, (Piece(1e5, (5, 5, 5)),), 1, ()
        )
        for name, x in places.items()
    }
    case = Case(0, 0, case_id, "set", "train")
    return CaseMeasure(case, (1.0, 1.0, 1.0), (300.0, 300.0, 300.0), structures)


def findings(places: dict[str, float]) -> list[Finding]:
    sound = [patient(f"sound_{number}", PATIENT) for number in range(3)]
    found = list(side_findings([*sound, patient("odd", places)]))
    assert all(finding.case and finding.case.case_id == "odd" for finding in found)
    return found


def swapped(places: dict[str, float], organ: str) -> dict[str, float]:
    left, right = f"{organ}_left", f"{organ}_right"
    return places | {left: places[right], right: places[left]}


def test_names_are_paired_whatever_the_convention() -> None:
    names = {
        *("left_parotid", "right_parotid", "Femur_L", "Femur_R", "rib_left_1", "rib_right_1"),
        *("rib_left_2", "LungL", "LungR", "eye rt", "eye lt", "vertebrae_L1", "lower", "left"),
    }
    assert named_pairs(names) == [
        Pair("Femur_L", "Femur_R"),
        Pair("LungL", "LungR"),
        Pair("eye lt", "eye rt"),
        Pair("left_parotid", "right_parotid"),
        Pair("rib_left_1", "rib_right_1"),
    ]


def test_a_sound_patient_has_no_finding() -> None:
    assert findings(PATIENT) == []


def test_one_exchanged_pair() -> None:
    (finding,) = findings(swapped(PATIENT, "kidney"))
    assert finding.severity is Severity.SEVERE
    assert finding.structures == ("kidney_left", "kidney_right")
    assert finding.number == 120
    assert finding.message == "kidney_right lies 120 mm left of kidney_left"


def test_all_pairs_exchanged_are_told_from_a_mirrored_case() -> None:
    (names,) = findings(swapped(swapped(PATIENT, "kidney"), "lung"))
    assert names.message.startswith("all 2 pairs of left and right are exchanged, while liver")
    (mirrored,) = findings({name: -x for name, x in PATIENT.items()})
    assert mirrored.message.startswith("the whole case is mirrored")
    assert mirrored.severity is names.severity is Severity.SEVERE


def test_a_scan_mirrored_before_labelling_is_seen_by_its_liver() -> None:
    (finding,) = findings(PATIENT | {"liver": -50.0, "spleen": 90.0})
    assert finding.severity is Severity.WARNING
    assert finding.structures == ("spleen", "liver")
    assert "situs inversus" in finding.action


def test_a_single_kidney_on_the_wrong_side() -> None:
    places = {name: x for name, x in PATIENT.items() if name != "kidney_right"}
    assert findings(places) == []
    (finding,) = findings(places | {"kidney_left": 55.0})
    assert finding.structures == ("kidney_left",)
    assert finding.number == 55


def test_organs_near_the_middle_say_nothing() -> None:
    assert findings(PATIENT | {"kidney_left": 2.0, "kidney_right": -2.0}) == []


def test_a_data_set_named_by_the_viewers_sides_is_one_finding() -> None:
    cohort = [patient(str(number), swapped(PATIENT, "kidney")) for number in range(5)]
    (finding,) = side_findings(cohort)
    assert finding.case is None
    assert finding.number == 100
    assert finding.message == (
        "left lies on the patient's right in 5 of 5 cases (kidney_left/kidney_right)"
    )
