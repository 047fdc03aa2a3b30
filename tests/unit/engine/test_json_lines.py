from __future__ import annotations

from pathlib import Path

import pytest

from stunet.engine.json_lines import JsonLines, read_rows
from stunet.errors import TrainingError


def test_rows_go_back_in_time_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonLines(path, step=0) as lines:
        for step in (10, 20, 20, 30):
            lines.write({"step": step, "what": "first"})
    with path.open("a") as file:
        file.write('{"step": 20, "wh')  # killed while writing
    with JsonLines(path, step=20) as lines:
        lines.write({"step": 21, "what": "second"})
    assert [(row["step"], row["what"]) for row in read_rows(path)] == [
        *((10, "first"), (20, "first"), (20, "first"), (21, "second"))
    ]


def test_an_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "absent") == []


def test_a_full_disk_is_said_in_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    lines = JsonLines.__new__(JsonLines)
    lines._path, lines._file = full, full.open("w", encoding="utf-8")
    with lines, pytest.raises(TrainingError, match=r"/dev/full: .*No space left") as caught:
        lines.write({"step": 1})
    assert "\n" not in str(caught.value)
