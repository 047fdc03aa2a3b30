"""The audit of real scans: silent on sound ones, and every planted fault is found, alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data_tools.audit import audit
from data_tools.audit_finding import Check, Finding, Severity
from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from stunet.io.store import Store, open_store
from stunet.io.store_writer import StoreWriter
from stunet.types import CaseArrays

REPO = Path(__file__).resolve().parents[2]
SPACING = (4.0, 4.0, 4.0)
CASES = 12
LEFT, RIGHT = 4, 3  # parotids
BRAINSTEM, LARYNX, MANDIBLE = 1, 6, 7

Plant = Callable[[CaseArrays], CaseArrays]


def prepared(raw: Path, out: Path, **plan: object) -> Path:
    return prepare(ingest(raw), out, PrepareConfig(plan=PlanConfig(**plan)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def necks(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve CT of head and neck."""
    source, folder = shared_data / "train_ct/openkbp", tmp_path_factory.mktemp("necks")
    for kind in ("images", "labels"):
        (folder / "raw" / kind).mkdir(parents=True)
        for scan in sorted((source / kind).iterdir())[:CASES]:
            (folder / "raw" / kind / scan.name).symlink_to(scan)
    (folder / "raw" / "labels.json").symlink_to(source / "labels.json")
    return prepared(folder / "raw", folder / "store", spacing_mm=SPACING)


def arrays(store: Store, case: int) -> CaseArrays:
    row = store.rows[case]
    image, label = store.read_patch(case, (0, 0, 0), row.shape_zyx)
    return CaseArrays(
        case_id=row.case_id,
        image_czyx=image,
        label_zyx=label,
        affine=np.array(row.affine).reshape(4, 4),
        scale=row.scale,
        offset=row.offset,
        statistics=row.statistics,
        split="train",
        source_sha256=row.source_sha256,
    )


def planted(source: Path, out: Path, plants: dict[int, Plant], copies: dict[int, Plant]) -> Path:
    """A store with some cases changed, and some added as copies."""
    store = open_store(source)
    cases = [arrays(store, case) for case in range(len(store.rows))]
    changed = [plants.get(number, lambda case: case)(case) for number, case in enumerate(cases)]
    changed += [copy(cases[number]) for number, copy in copies.items()]
    writer = StoreWriter(out, store.info)
    writer.finish([writer.write_case(case) for case in changed])
    store.close()
    return out


def relabelled(change: Callable[[np.ndarray], None]) -> Plant:
    def plant(case: CaseArrays) -> CaseArrays:
        label = case.label_zyx.copy()
        change(label)
        return replace(case, label_zyx=label)

    return plant


def swap(label: np.ndarray) -> None:
    left, right = label == LEFT, label == RIGHT
    label[left], label[right] = RIGHT, LEFT


def mirror(case: CaseArrays) -> CaseArrays:
    flipped = case.image_czyx[..., ::-1], case.label_zyx[..., ::-1]
    return replace(
        case,
        image_czyx=np.ascontiguousarray(flipped[0]),
        label_zyx=np.ascontiguousarray(flipped[1]),
    )


def move_larynx(label: np.ndarray) -> None:
    at = np.argwhere(label == LARYNX)
    label[label == LARYNX] = 0
    label[tuple(np.add(at, (15, 0, 0)).T)] = LARYNX  # 60 mm up


def add_island(label: np.ndarray) -> None:
    z, y, x = np.argwhere(label == MANDIBLE).max(axis=0)
    label[z, y, min(x + 8, label.shape[2] - 2)] = MANDIBLE


def swell(label: np.ndarray) -> None:
    label[ndimage.binary_dilation(label == BRAINSTEM, iterations=4) & (label == 0)] = BRAINSTEM


def pierce(label: np.ndarray) -> None:
    label[ndimage.binary_erosion(label == BRAINSTEM, np.ones((3, 3, 3)))] = 0


def renamed_copy(case: CaseArrays) -> CaseArrays:
    """The same scan as another data set would hold it: windowed, noisy, some slices cut off."""
    hu = case.image_czyx * np.float32(case.scale[0]) + case.offset[0]
    noise = np.random.default_rng(0).normal(0, 20, hu.shape)
    windowed = np.clip(hu + noise, -200, 300)[:, 3:-2, 2:-1, 1:-2]
    affine = case.affine.copy()
    affine[:3, 3] = 0
    stored = (windowed - case.offset[0]) / case.scale[0]
    return replace(
        case,
        case_id="other_name",
        split="test",
        image_czyx=np.ascontiguousarray(np.round(stored).astype(np.int16)),
        label_zyx=np.ascontiguousarray(case.label_zyx[3:-2, 2:-1, 1:-2]),
        affine=affine,
    )


PLANTS: dict[int, Plant] = {
    1: relabelled(swap),
    3: mirror,
    5: relabelled(move_larynx),
    7: relabelled(add_island),
    9: relabelled(swell),
    10: relabelled(pierce),
}


def told(findings: tuple[Finding, ...]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(f.check.name, f.case.case_id if f.case else "", f.structures[:1]) for f in findings}


def test_sound_scans_give_no_alarm(necks: Path) -> None:
    assert audit([necks]).findings == ()


def test_every_planted_fault_is_found_and_nothing_else(necks: Path, tmp_path: Path) -> None:
    ids = [row.case_id for row in open_store(necks).rows]
    found = audit([planted(necks, tmp_path / "store", PLANTS, {2: renamed_copy})]).findings
    assert told(found) == {
        ("SIDES", ids[1], ("left_parotid",)),
        ("SIDES", ids[3], ("left_parotid",)),
        ("POSITION", ids[5], ("larynx",)),
        ("PIECES", ids[7], ("mandible",)),
        ("VOLUME", ids[9], ("brainstem",)),
        ("HOLES", ids[10], ("brainstem",)),
        ("DUPLICATES", "other_name", ()),
    }
    (duplicate,) = (f for f in found if f.check is Check.DUPLICATES)
    assert duplicate.other and duplicate.other.case_id == ids[2]
    assert duplicate.severity is Severity.SEVERE
    (moved,) = (f for f in found if f.check is Check.POSITION)
    assert 45 < moved.number < 75
    assert "head" in moved.message


def test_a_scan_of_another_data_set_is_found_again(necks: Path, tmp_path: Path) -> None:
    store = open_store(necks)
    writer = StoreWriter(tmp_path / "b", replace(store.info, name="b"))
    writer.finish([writer.write_case(renamed_copy(arrays(store, 3)))])
    (finding,) = audit([necks, tmp_path / "b"]).findings
    assert finding.check is Check.DUPLICATES
    assert {finding.dataset, finding.other and finding.other.dataset} == {"b", store.info.name}


def test_other_organs_at_another_scale_give_no_alarm(shared_data: Path, tmp_path: Path) -> None:
    store = prepared(shared_data / "finetune/hippocampus_mr", tmp_path / "mr")
    assert audit([store]).findings == ()


def test_phantoms_are_alike_but_no_duplicates(tmp_path: Path) -> None:
    config = PhantomConfig(cases=6, shape_zyx=(40, 48, 60), spacing_mm=(7.0, 7.0, 7.0))
    store = prepared(write_phantom(tmp_path / "raw", config), tmp_path / "store")
    assert [f for f in audit([store]).findings if f.severity is Severity.SEVERE] == []


def test_the_command_writes_a_page_and_fails_on_severe_findings_only(
    necks: Path, tmp_path: Path
) -> None:
    store = planted(necks, tmp_path / "store", {2: relabelled(swap)}, {})
    command = [sys.executable, "-m", "launch.cli", "data", "verify", "--audit", "--out"]
    run = subprocess.run(
        [*command, str(tmp_path / "out"), str(store)],
        cwd=REPO, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    assert "severe: left and right" in run.stdout
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    (finding,) = record["findings"]
    assert finding["severity"] == "severe"
    assert len(record["cases"]) == CASES
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("data:image/webp") == 3
    assert "left_parotid" in page
