from benchmarks.report import BEGIN, END, report, table

ROW = {
    "work": "reading",
    "ours": 4.5678,
    "peer": 1234.5,
    "peer_name": "nnU-Net v2",
    "unit": "CPU ms",
    "ratio": 270.3,
    "goal": 5,
    "where": "cpu",
    "note": "",
}


def test_a_row_becomes_a_line() -> None:
    line = table([ROW]).splitlines()[-1]
    assert line == "| reading | 4.57 | 1234 (nnU-Net v2) | CPU ms | 270x | 5x | cpu |"


def test_a_missed_goal_is_said_and_a_missing_one_is_a_dash() -> None:
    missed, without = table([ROW | {"ratio": 4.9}, ROW | {"goal": None}]).splitlines()[-2:]
    assert "| 5x **missed** |" in missed
    assert "| - | cpu |" in without


def test_a_note_follows_the_work() -> None:
    assert "| reading; 3 differ |" in table([ROW | {"note": "3 differ"}])


def test_every_line_has_the_columns_of_the_head() -> None:
    lines = table([ROW, ROW | {"note": "so"}]).splitlines()
    assert {line.count("|") for line in lines} == {8}


def test_only_what_lies_between_the_markers_is_replaced() -> None:
    page = f"# Title\n\nprose\n\n{BEGIN}\nold\n{END}\n\nmore prose\n"
    once = report(page, {"Data": [ROW]}, "Measured by `make bench`.")
    assert once.startswith(
        "# Title\n\nprose\n\n<!-- rows -->\n\nMeasured by `make bench`.\n\n## Data\n"
    )
    assert once.endswith("\n\n<!-- end of rows -->\n\nmore prose\n")
    assert "old" not in once
    assert report(once, {"Data": [ROW]}, "Measured by `make bench`.") == once
