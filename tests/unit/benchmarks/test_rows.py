import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import ENOUGH_MS, OURS, UNWARMED_MS, Row, Session, row, take_turns, within
from benchmarks.worker import Measured, Round


def measured(cpu_ms: float, asked_mb: float = 0.0) -> Measured:
    return Measured(cpu_ms, 0.0, 0.0, 0.0, asked_mb, 0.0, None)


class Scripted(Round):
    """A side whose turns take what a list says."""

    def __init__(self, times: list[float], log: list[str], name: str) -> None:
        object.__setattr__(self, "times", iter(times))
        object.__setattr__(self, "log", log)
        object.__setattr__(self, "name", name)

    def __call__(self) -> Measured:
        self.log.append(self.name)
        return measured(next(self.times))


def test_sides_take_turns_after_an_unmeasured_one() -> None:
    log: list[str] = []
    sides = {
        OURS: Scripted([90, 1, 2, 3], log, "a"),
        "peer": Scripted([80, 10, 20, 30], log, "b"),
    }
    turns = take_turns(sides, rounds=3)
    assert log == list("ab" * 4)
    assert [turn.cpu_ms for turn in turns["peer"]] == [10, 20, 30]
    compared = row("work", turns, "peer", 5, per=2)
    assert (compared.ours, compared.peer, compared.ratio, compared.goal) == (1.0, 10.0, 10.0, 5)


def test_a_long_first_turn_counts() -> None:
    log: list[str] = []
    sides = {
        OURS: Scripted([5, 1, 1], log, "a"),
        "peer": Scripted([UNWARMED_MS + 2, UNWARMED_MS], log, "b"),
    }
    turns = take_turns(sides, rounds=2)
    assert log == list("ababa")
    assert [turn.cpu_ms for turn in turns["peer"]] == [UNWARMED_MS + 2, UNWARMED_MS]
    assert row("work", turns, "peer").ratio == UNWARMED_MS + 1


def test_a_side_stops_when_its_time_is_up() -> None:
    log: list[str] = []
    sides = {
        OURS: Scripted([5, 1, 1, 1], log, "a"),
        "peer": Scripted([ENOUGH_MS - 1, 1], log, "b"),
    }
    assert len(take_turns(sides, rounds=3)["peer"]) == 2
    assert log == list("ababaa")


def test_other_quantities_than_time() -> None:
    turns = {OURS: [measured(1, asked_mb=2)], "peer": [measured(1, asked_mb=8)]}
    compared = row("work", turns, "peer", of=lambda turn: turn.asked_mb, unit="MB")
    assert (compared.ours, compared.peer, compared.ratio, compared.unit) == (2, 8, 4, "MB")


def test_a_limit_is_met_at_a_ratio_of_one() -> None:
    assert within("disk", 32.0, 32.0, "MB").ratio == 1.0
    assert within("disk", 40.0, 32.0, "MB").ratio == 0.8
    assert within("disk", 40.0, 32.0, "MB").goal == 1.0


def test_command_line_writes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def measure(session: Session) -> Iterator[Row]:
        seen.append(session)
        assert session.folder.is_dir()
        yield within("first", 1.0, 2.0, "MB", "so")

    file = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["benchmarks.data", "--json", str(file), "--rounds", "1"])
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    rows.main(measure)
    assert seen[0].rounds == 1
    assert seen[0].peers is None
    assert not seen[0].folder.exists()
    assert json.loads(file.read_text()) == [
        {
            "work": "first",
            "ours": 1.0,
            "peer": 2.0,
            "peer_name": "limit",
            "unit": "MB",
            "ratio": 2.0,
            "goal": 1.0,
            "where": "cpu",
            "note": "so",
        }
    ]
    assert "first: 1 MB, limit 2: 2x, goal 1x (so)" in capsys.readouterr().out
