"""The audit of small drawn stores: what it tells and writes, and odd stores."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.audit import audit
from data_tools.audit_finding import Check, Severity
from data_tools.audit_report import write_report
from stunet.errors import DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter

NAMES = {"background": 0, "kidney_left": 1, "kidney_right": 2, "<b>odd</b>": 7}


@pytest.fixture
def write_store(tmp_path: Path, make_info: Callable[..., DatasetInfo], make_case: Callable):
    """Write a store of named kidneys; a case per label map."""

    def write(name: str, labels: list[np.ndarray], **case: Any) -> Path:
        writer = StoreWriter(tmp_path / name, replace(make_info(), name=name, labels=NAMES))
        rows = []
        for number, label in enumerate(labels):
            random = np.random.default_rng(case.get("seed", number))
            noise = random.integers(-1000, 1000, (1, *label.shape), np.int16)
            made = replace(make_case(f"{name}_{number}"), image_czyx=noise, label_zyx=label)
            rows.append(writer.write_case(replace(made, **case.get("with_", {}))))
        writer.finish(rows)
        return tmp_path / name

    return write


def kidneys(left: int = 1, right: int = 2) -> np.ndarray:
    label = np.zeros((40, 40, 60), np.uint8)
    label[10:20, 10:20, 5:15] = left  # x grows to the patient's right
    label[10:20, 10:20, 45:55] = right
    return label


def test_a_swap_is_reported_with_pictures_and_escaped_names(write_store, tmp_path: Path) -> None:
    hollow = kidneys()
    hollow[25:35, 10:20, 25:35] = 7
    hollow[29:31, 13:17, 27:33] = 0
    result = audit([write_store("a", [kidneys(2, 1), hollow])])
    swap, hole = result.findings
    assert (swap.check, swap.severity, swap.number) == (Check.SIDES, Severity.SEVERE, 50)
    assert hole.structures == ("<b>odd</b>",)
    assert result.severe == 1
    page = write_report(result, tmp_path / "out").read_text()
    assert page.count('src="data:image/webp;base64,') == 6
    assert "&lt;b&gt;odd&lt;/b&gt;" in page and "<b>odd" not in page
    assert "http" not in page
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert [finding["severity"] for finding in record["findings"]] == ["severe", "note"]
    assert record["findings"][0]["case"]["case_id"] == "a_0"
    assert record["cases"][1]["structures"]["<b>odd</b>"]["holes"] == 1


def test_a_copy_in_another_store_is_shown_beside_the_first(write_store, tmp_path: Path) -> None:
    train = write_store("a", [kidneys()], seed=3)
    test = write_store("b", [kidneys()], seed=3, with_={"split": "test"})
    result = audit([train, test])
    (finding,) = result.findings
    assert (finding.check, finding.severity) == (Check.DUPLICATES, Severity.SEVERE)
    page = write_report(result, tmp_path / "out").read_text()
    assert page.count("data:image/webp") == 4


@pytest.mark.parametrize("shape", [(1, 40, 60), (3, 3, 3), (40, 1, 60), (1, 1, 1)])
def test_flat_and_tiny_cases_are_measured(write_store, tmp_path: Path, shape: tuple) -> None:
    label = np.ones(shape, np.uint8)
    result = audit([write_store("a", [label, np.zeros(shape, np.uint8)])])
    assert result.measures[0].structures["kidney_left"].volume_mm3 == label.size * 3 * 1.5 * 1.25
    assert result.measures[1].structures == {}
    assert [f for f in result.findings if f.check is not Check.DUPLICATES] == []
    write_report(result, tmp_path / "out")


def test_constant_scans_are_no_duplicates(write_store) -> None:
    air = {"image_czyx": np.zeros((1, 40, 40, 60), np.int16)}
    assert audit([write_store("a", [kidneys(), kidneys()], with_=air)]).findings == ()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no store"):
        audit([tmp_path])
