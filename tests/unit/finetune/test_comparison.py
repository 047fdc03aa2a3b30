"""Paired comparison from tables written by hand; p values against scipy."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from finetune.comparison import compare, compare_runs, read_run
from finetune.summary import COLUMNS
from stunet.errors import DataError

GROUPS = {"liver": "organs", "spleen": "organs", "rib_left_1": "ribs"}


def write_run(folder: Path, dice: dict[tuple[str, str, str], float], n_ref: int = 50) -> Path:
    """A run folder with one row per (data set, case, structure); NSD is Dice squared."""
    folder.mkdir()
    with (folder / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for (dataset, case, name), value in dice.items():
            scores = (value, value**2, "" if value == 0 else 10 * (1 - value))
            table.writerow((dataset, case, name, GROUPS[name], *scores, n_ref, 50, 1, 1))
    return folder


@pytest.fixture
def scores() -> dict[tuple[str, str, str], float]:
    random = np.random.default_rng(0)
    keys = [("D", f"c{i}", name) for i in range(12) for name in GROUPS]
    keys += [("E", f"c{i}", "liver") for i in range(9)]
    return {key: float(random.uniform(0.6, 0.9)) for key in keys}


@pytest.fixture
def better(scores) -> dict[tuple[str, str, str], float]:
    """Better on every liver of D, mixed elsewhere."""
    random = np.random.default_rng(1)
    return {
        key: value + (0.05 if key[::2] == ("D", "liver") else float(random.normal(0, 0.01)))
        for key, value in scores.items()
    }


def test_a_shift_of_one_structure_is_found_with_its_size_and_scipys_p(scores, better, tmp_path):
    a, b = write_run(tmp_path / "a", better), write_run(tmp_path / "b", scores)
    comparison = compare(read_run(a), read_run(b), seed=0)
    assert (comparison.cases, comparison.alone) == (21, (0, 0))
    rows = {(row.level, row.dataset, row.name): row for row in comparison.rows}
    liver = rows["class", "D", "liver"]
    test = liver.tests["dice"]
    assert test.difference.mean == pytest.approx(0.05) and test.n == 12
    assert liver.means["dice"][0] - liver.means["dice"][1] == pytest.approx(0.05)
    assert liver.verdict == "A better"
    other = rows["class", "E", "liver"]
    pairs = [(better[k], scores[k]) for k in scores if k[0] == "E"]
    assert other.tests["dice"].p == pytest.approx(wilcoxon(*zip(*pairs, strict=True)).pvalue)
    assert other.tests["dice"].p_holm >= other.tests["dice"].p
    assert other.verdict == "undecided"
    assert {row.level for row in comparison.rows} == {"dataset", "group", "class"}
    # A group averages each case over its structures first.
    organs = np.mean([better["D", f"c{i}", s] for i in range(12) for s in ("liver", "spleen")])
    assert rows["group", "D", "organs"].means["dice"][0] == pytest.approx(organs)
    turned = compare(read_run(b), read_run(a), seed=0)
    assert {r.verdict for r in turned.rows if r.name == "liver" and r.dataset == "D"} == {
        "B better"
    }


def test_only_common_cases_are_paired(scores, better, tmp_path):
    fewer = {key: value for key, value in better.items() if key[1] != "c0"}
    a, b = write_run(tmp_path / "a", fewer), write_run(tmp_path / "b", scores)
    comparison = compare(read_run(a), read_run(b), seed=0)
    assert (comparison.cases, comparison.alone) == (19, (0, 2))
    assert {row.tests["dice"].n for row in comparison.rows if row.dataset == "D"} == {11}


def test_a_structure_that_the_reference_lacks_is_no_pair(scores, tmp_path):
    a = write_run(tmp_path / "a", dict.fromkeys(scores, 0.0), n_ref=0)
    b = write_run(tmp_path / "b", scores, n_ref=0)
    with pytest.raises(DataError, match="no common case"):
        compare(read_run(a), read_run(b), seed=0)


def test_the_page_and_the_table_are_written(scores, better, tmp_path):
    a, b = write_run(tmp_path / "a", better), write_run(tmp_path / "b", scores)
    page = compare_runs(a, b, tmp_path / "out", seed=0, command="stunet transfer --compare a b")
    assert "A better" in page.read_text() and "--compare a b" in page.read_text()
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    liver = next(
        r for r in rows if (r["level"], r["dataset"], r["name"]) == ("class", "D", "liver")
    )
    assert float(liver["dice_difference"]) == pytest.approx(0.05, abs=1e-6)
    assert len(rows) == 2 + 3 + 4


def test_what_is_no_run_or_has_other_references_is_refused(scores, tmp_path):
    with pytest.raises(DataError, match=r"nothing.*transfer wrote"):
        read_run(tmp_path / "nothing")
    (tmp_path / "cases.csv").write_text("case,score\na,1\n")
    with pytest.raises(DataError, match="not a table of transfer"):
        read_run(tmp_path)
    a, b = write_run(tmp_path / "a", scores), write_run(tmp_path / "b", scores, n_ref=51)
    with pytest.raises(DataError, match=r"50 voxels.*51"):
        compare(read_run(a), read_run(b), seed=0)
